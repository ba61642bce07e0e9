"""Corrections of BasicSR's loops for every model; they last for the length of a with-block."""

import contextlib
import functools
import math
import sys
import types
from collections.abc import Iterator
from typing import Any

import basicsr.test
import basicsr.train
import basicsr.utils
import basicsr.utils.dist_util
import basicsr.utils.options
import torch
from basicsr.models.base_model import BaseModel

from lightbsr_compat import InputError, load_options, remove_unfinished, split_force_yml
from lightbsr_models import checkpoints
from lightbsr_models.distributed import model_to_device
from lightbsr_models.seeding import ResumableSampler, SeededDataset
from lightbsr_models.stopping import outlive_signals


@contextlib.contextmanager
def replaced(target: Any, **attributes: Any) -> Iterator[None]:
    """Give ``target`` other attributes for the length of a with-block."""
    before = {name: getattr(target, name) for name in attributes}
    for name, value in attributes.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


@contextlib.contextmanager
def fixed_basicsr() -> Iterator[None]:
    """Let BasicSR's ``train_pipeline`` and ``test_pipeline`` read safely, save whole, resume exactly, run on CPUs."""
    loops = _Loops()
    with contextlib.ExitStack() as stack:
        for module in (basicsr.utils.options, basicsr.train, basicsr.test):
            stack.enter_context(replaced(module, parse_options=parse_options))
        stack.enter_context(replaced(basicsr.utils.options, init_dist=init_dist))
        stack.enter_context(
            replaced(
                basicsr.train,
                load_resume_state=loops.load_resume_state,
                create_train_val_dataloader=loops.create_train_val_dataloader,
                MessageLogger=MessageLogger,
            )
        )
        stack.enter_context(
            replaced(
                BaseModel,
                # Weights that hold code run it (PyTorch before 2.6), and safetensors are unknown.
                load_network=checkpoints.load_network,
                # A kill while a file is written leaves half of it; a full disk is ignored.
                save_network=checkpoints.save_network,
                save_training_state=checkpoints.save_training_state,
                # There is no way to stop; a step's random numbers depend on all that was drawn before.
                update_learning_rate=checkpoints.update_learning_rate,
                # DistributedDataParallel is always given a CUDA device.
                model_to_device=model_to_device,
            )
        )
        yield


_stock_parse_options = basicsr.utils.options.parse_options
_stock_init_dist = basicsr.utils.dist_util.init_dist
_stock_create_dataloaders = basicsr.train.create_train_val_dataloader
_stock_build_dataset = basicsr.train.build_dataset


def parse_options(root_path: str, is_train: bool = True) -> Any:
    """BasicSR's, but YAML's full loader would run code, and --force_yml goes through exec and eval there."""
    argv, forced = split_force_yml(sys.argv)
    loader = types.SimpleNamespace(load=lambda file, Loader: load_options(file.name, forced))
    with (
        replaced(sys, argv=argv),
        replaced(basicsr.utils.options, yaml=loader, ordered_yaml=lambda: (None, None)),
    ):
        return _stock_parse_options(root_path, is_train)


class MessageLogger(basicsr.utils.MessageLogger):
    """BasicSR's, which gives TensorBoard the losses without the learning rate."""

    def __call__(self, log_vars: dict[str, Any]) -> None:
        if self.tb_logger is not None:
            self.tb_logger.add_scalar("lr", log_vars["lrs"][0], log_vars["iter"])
        super().__call__(log_vars)


def init_dist(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
    """BasicSR's, which takes the rank modulo the number of GPUs and knows nccl only; without a GPU over gloo."""
    if torch.cuda.is_available():
        _stock_init_dist(launcher, backend, **kwargs)
        return
    with replaced(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
        _stock_init_dist(launcher, "gloo", **kwargs)


def _build_dataset(dataset_opt: dict[str, Any]) -> Any:
    dataset = _stock_build_dataset(dataset_opt)
    return SeededDataset(dataset) if dataset_opt["phase"] == "train" else dataset


class _Loops:
    """Hook: BasicSR's train loop calls it at its start, with the state that it resumes from."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def load_resume_state(self, opt: dict[str, Any]) -> dict[str, Any] | None:
        """BasicSR's needs a CUDA device, takes a damaged newest state, and a file that is no training state.

        Its ``check_resume`` also lets a network that is not resumed (a teacher) change from params_ema to params.
        """
        paths = opt["path"]
        if opt.get("rank", 0) == 0:
            remove_unfinished(paths["training_states"])
            remove_unfinished(paths["models"])
        if opt["auto_resume"]:
            newest: list[str | None] = [checkpoints.newest_state(opt) if opt.get("rank", 0) == 0 else None]
            if opt.get("dist"):  # all ranks go on from the same one
                torch.distributed.broadcast_object_list(newest)
            if newest[0] is not None:
                paths["resume_state"] = newest[0]
        if not paths.get("resume_state"):
            return None
        self.state = checkpoints.load_training_state(paths["resume_state"], opt)
        others = {
            key: value
            for key, value in paths.items()
            if key.startswith("param_key_") and key.replace("param_key_", "network_") not in opt
        }
        basicsr.train.check_resume(opt, self.state["iter"])
        paths.update(others)
        return self.state

    def create_train_val_dataloader(self, opt: dict[str, Any], logger: Any) -> tuple[Any, Any, Any, int, int]:
        """BasicSR's starts an interrupted epoch again from its beginning, with other random numbers.

        It also counts an epoch's iterations with the last, smaller batch, which its loader drops, so that training may
        end before total_iter; and its workers do not outlive a signal to their group.
        """
        train_opt = opt["datasets"]["train"]
        if train_opt.get("dataset_enlarge_ratio") is None:
            train_opt["dataset_enlarge_ratio"] = 1  # ~ in an option file
        sampler_class = functools.partial(ResumableSampler, seed=opt["manual_seed"])
        with replaced(basicsr.train, build_dataset=_build_dataset, EnlargedSampler=sampler_class):
            loader, sampler, val_loaders, _, total_iters = _stock_create_dataloaders(opt, logger)
        per_epoch = len(loader)
        if not per_epoch:
            raise InputError(
                f"the training set gives {len(sampler)} items per process and epoch, fewer than a batch of"
                f" {loader.batch_size}: raise dataset_enlarge_ratio"
            )
        loader.worker_init_fn = outlive_signals
        if self.state is not None:
            epoch, iterations = divmod(self.state["iter"], per_epoch)
            self.state["epoch"] = epoch
            sampler.start = (epoch, iterations * loader.batch_size)
        return loader, sampler, val_loaders, math.ceil(total_iters / per_epoch), total_iters
