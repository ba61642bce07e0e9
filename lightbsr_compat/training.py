"""Training that loses nothing: exact resume, saving that no crash can damage, and stopping in order at a signal.

No state of a random number generator is saved. Every draw is a function of counters instead: of an item of the training
set, of (manual_seed, epoch, position in the epoch); of a training step, of (manual_seed, iteration, rank). So a resumed
run draws what the uninterrupted one would have drawn, whatever the moment of the interruption and the number of
workers.
"""

import contextlib
import functools
import glob
import hashlib
import math
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import basicsr.data
import basicsr.models.base_model
import basicsr.train
import numpy as np
import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import nn
from torch.utils.data import Dataset

from .errors import InputError
from .files import atomic_save, load_weights_file, remove_unfinished, replaced

EXIT_STOPPED = 75  # EX_TEMPFAIL: training was stopped by a signal and has saved; --auto_resume goes on
_SECOND_SIGNAL_AFTER = 1.0  # seconds; a launcher passes on the signal that the terminal has already sent

# Of the run in this process: the state it was resumed from, the iterations of an epoch, when a stop was asked for, and
# whether the signal may cut off what is running.
_run = SimpleNamespace(state=None, iterations_per_epoch=1, stop_since=None, in_validation=False)


# --- randomness as a function of counters ---


def stable_seed(*counters: int) -> int:
    """A seed of 63 bits that depends on the counters alone, on every machine and in every version."""
    digest = hashlib.blake2b(",".join(map(str, counters)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's CPU generators for the length of a with-block."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach for the GPUs' generators too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class SeededDataset(Dataset):
    """A training set whose items draw from generators that were seeded for them; ``ResumableSampler`` gives the seeds.

    Args:
        dataset: any; it may draw from ``random``, ``numpy.random`` and torch's generator of the CPU.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.opt = dataset.opt

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index_and_seed: tuple[int, int]) -> Any:
        index, seed = index_and_seed
        with _seeded(seed):
            return self.dataset[index]


class ResumableSampler(EnlargedSampler):
    """BasicSR's sampler, with a seed for every item, which can start within an epoch.

    The seed follows from ``seed``, the epoch and the item's position among those of all ranks.

    Attributes:
        start: (epoch, items of this rank that it has already used up).
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: int = 1, *, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.seed = seed
        self.start = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        used = self.start[1] if epoch == self.start[0] else 0
        for i, index in enumerate(super().__iter__()):
            if i >= used:
                yield index, stable_seed(self.seed, epoch, self.rank + i * self.num_replicas)


def _worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)
    random.seed(worker_seed)
    _outlive_signals()


def mend_worker_seeds() -> None:
    # worker_init_fn gives numpy and random the same seeds in every epoch; torch's own worker seed differs.
    basicsr.data.worker_init_fn = _worker_init_fn


def mend_data_order() -> None:
    # The stock loop starts an interrupted epoch again from its beginning, with other random numbers; it counts an
    # epoch's iterations with the last, smaller batch, which its loader drops, so that it may end before total_iter.
    stock = basicsr.train.create_train_val_dataloader
    stock_build = basicsr.train.build_dataset

    def build_dataset(dataset_opt: dict[str, Any]) -> Any:
        dataset = stock_build(dataset_opt)
        return SeededDataset(dataset) if dataset_opt["phase"] == "train" else dataset

    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> tuple[Any, Any, Any, int, int]:
        train_opt = opt["datasets"]["train"]
        if train_opt.get("dataset_enlarge_ratio") is None:
            train_opt["dataset_enlarge_ratio"] = 1  # ~ in an option file
        sampler_class = functools.partial(ResumableSampler, seed=opt["manual_seed"])
        with replaced(basicsr.train, build_dataset=build_dataset, EnlargedSampler=sampler_class):
            loader, sampler, val_loaders, _, total_iters = stock(opt, logger)
        per_epoch = len(loader)
        if not per_epoch:
            raise InputError(
                f"the training set gives {len(sampler)} items per process and epoch, fewer than a batch of"
                f" {loader.batch_size}: raise dataset_enlarge_ratio"
            )
        _run.iterations_per_epoch = per_epoch
        if _run.state is not None:
            epoch, iterations = divmod(_run.state["iter"], per_epoch)
            _run.state["epoch"] = epoch
            sampler.start = (epoch, iterations * loader.batch_size)
        return loader, sampler, val_loaders, math.ceil(total_iters / per_epoch), total_iters

    basicsr.train.create_train_val_dataloader = create_train_val_dataloader


# --- resume ---


def load_training_state(path: str, opt: dict[str, Any]) -> dict[str, Any]:
    """Read a training state and make sure that the weights which belong to it can be read too.

    Args:
        path: of the ``.state`` file.
        opt: parsed options; the weights are looked for in ``path: models``.

    Raises:
        InputError: no training state, or it or its weights are missing or damaged.
    """
    state = load_weights_file(path)
    if not isinstance(state, dict) or not {"epoch", "iter", "optimizers", "schedulers"} <= state.keys():
        raise InputError(
            f"resume_state {path!r} is not a training state: give the .state file from training_states/, not a .pth"
        )
    iteration, folder = state["iter"], os.path.dirname(path)
    names = [name.replace("network_", "net_") for name in _resumed_networks(opt)]
    files = [os.path.join(opt["path"]["models"], f"{name}_{iteration}.pth") for name in names]
    files += [os.path.join(folder, f"{iteration}.rank{rank}.pth") for rank in range(state.get("rank_states", 0))]
    for file in files:
        try:
            load_weights_file(file)
        except InputError as error:
            raise InputError(f"resume_state {path!r} cannot be used without what belongs to it: {error}") from None
    return state


def _resumed_networks(opt: dict[str, Any]) -> list[str]:
    ignored = opt["path"].get("ignore_resume_networks") or ()
    return [name for name in opt if name.startswith("network_") and name not in ignored]


def newest_state(opt: dict[str, Any]) -> str | None:
    """The newest complete training state of an experiment, or None where there is none at all.

    A damaged one is named in a warning and passed over.

    Raises:
        InputError: there are training states, but every one is damaged.
    """
    folder = opt["path"]["training_states"]
    names = os.listdir(folder) if os.path.isdir(folder) else []
    iterations = sorted((int(m[1]) for name in names if (m := re.fullmatch(r"(\d+)\.state", name))), reverse=True)
    faults = []
    for iteration in iterations:
        path = os.path.join(folder, f"{iteration}.state")
        try:
            load_training_state(path, opt)
            return path
        except InputError as error:
            print(f"lightbsr: warning: {error}; the training state before it is used", flush=True)
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(["--auto_resume found no training state that is whole", *faults]))
    return None


def mend_resume() -> None:
    # load_resume_state asks for a CUDA device, takes a damaged newest state, says nothing useful of a file that is no
    # training state, and lets a network that is not resumed (a teacher) change from params_ema to params.
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        _run.state = None
        paths = opt["path"]
        if opt.get("rank", 0) == 0:
            remove_unfinished(paths["training_states"])
            remove_unfinished(paths["models"])
        if opt["auto_resume"]:
            newest: list[str | None] = [newest_state(opt) if opt.get("rank", 0) == 0 else None]
            if opt.get("dist"):  # all ranks go on from the same one
                torch.distributed.broadcast_object_list(newest)
            if newest[0] is not None:
                paths["resume_state"] = newest[0]
        if not paths.get("resume_state"):
            return None
        _run.state = load_training_state(paths["resume_state"], opt)
        others = {
            key: value
            for key, value in paths.items()
            if key.startswith("param_key_") and key.replace("param_key_", "network_") not in opt
        }
        basicsr.train.check_resume(opt, _run.state["iter"])
        paths.update(others)
        return _run.state

    basicsr.train.load_resume_state = load_resume_state


# --- saving ---


def _remove_old(opt: dict[str, Any]) -> None:
    """Remove all but the newest ``logger: keep_checkpoints`` training states and their weights, never ``latest``."""
    keep = (opt.get("logger") or {}).get("keep_checkpoints")
    if keep is None:
        return
    paths = opt["path"]
    files = {
        file: int(match[1])
        for pattern in (
            os.path.join(glob.escape(paths["training_states"]), "*.state"),  # before its weights
            os.path.join(glob.escape(paths["training_states"]), "*.rank*.pth"),
            os.path.join(glob.escape(paths["models"]), "net_*.pth"),
        )
        for file in glob.glob(pattern)
        if (match := re.search(r"(?:^|_)(\d+)\.", os.path.basename(file)))
    }
    kept = sorted(iteration for file, iteration in files.items() if file.endswith(".state"))[-keep:]
    for file, iteration in files.items():
        if iteration < kept[0]:
            os.remove(file)


def mend_saving() -> None:
    # BasicSR writes straight onto the path, so that a kill leaves a broken newest file, and "just ignores" a full disk.
    @master_only
    def save_network(
        self: Any, net: Any, net_label: str, current_iter: int, param_key: str | list[str] = "params"
    ) -> None:
        networks = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content = {}
        for network, key in zip(networks, keys, strict=True):
            weights = self.get_bare_model(network).state_dict()
            content[key] = {name.removeprefix("module."): value.cpu() for name, value in weights.items()}
        name = f"{net_label}_{'latest' if current_iter == -1 else current_iter}.pth"
        atomic_save(content, os.path.join(self.opt["path"]["models"], name))

    def save_training_state(self: Any, epoch: int, current_iter: int) -> None:
        # Called after save_network: a state on the disk implies its weights, and what every rank holds by itself.
        if current_iter == -1:
            return
        folder, dist = self.opt["path"]["training_states"], self.opt.get("dist")
        rank_state: dict[str, Any] = self.rank_state() if hasattr(self, "rank_state") else {}
        if rank_state:
            atomic_save(rank_state, os.path.join(folder, f"{current_iter}.rank{self.opt['rank']}.pth"))
            if dist:
                torch.distributed.barrier()
        if self.opt.get("rank", 0) != 0:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "rank_states": self.opt.get("world_size", 1) if rank_state else 0,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "best_metric_results": {
                dataset: {metric: {**best, "val": float(best["val"])} for metric, best in results.items()}
                for dataset, results in getattr(self, "best_metric_results", {}).items()
            },
            "shared": self.shared_state() if hasattr(self, "shared_state") else {},
        }
        atomic_save(state, os.path.join(folder, f"{current_iter}.state"))
        _remove_old(self.opt)

    stock_resume = BaseModel.resume_training

    def resume_training(self: Any, resume_state: dict[str, Any]) -> None:
        stock_resume(self, resume_state)
        if resume_state.get("best_metric_results"):
            self.best_metric_results = resume_state["best_metric_results"]
        if resume_state.get("shared"):
            self.load_shared_state(resume_state["shared"])
        if self.opt.get("rank", 0) < resume_state.get("rank_states", 0):
            file = f"{resume_state['iter']}.rank{self.opt.get('rank', 0)}.pth"
            folder = os.path.dirname(self.opt["path"]["resume_state"])
            self.load_rank_state(load_weights_file(os.path.join(folder, file)))

    BaseModel.save_network = save_network
    BaseModel.save_training_state = save_training_state
    BaseModel.resume_training = resume_training


def mend_loading() -> None:
    # load_network runs pickled code with PyTorch before 2.6, and knows nothing of safetensors.
    stock = BaseModel.load_network

    def read(path: str, **options: Any) -> Any:
        content = load_weights_file(path)
        bare = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
        return {"params": content} if bare else content

    def load_network(
        self: Any, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        with replaced(basicsr.models.base_model, torch=SimpleNamespace(load=read)):
            stock(self, net, load_path, strict, param_key)

    BaseModel.load_network = load_network


# --- stopping ---


class _ValidationCutOff(Exception):
    pass


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _run.stop_since is None:
        _run.stop_since = now
        os.write(2, b"lightbsr: stopping after this step; a second signal stops at once\n")  # print may be under way
        if _run.in_validation:
            raise _ValidationCutOff
    elif now - _run.stop_since > _SECOND_SIGNAL_AFTER:
        raise KeyboardInterrupt


def _on_time_limit() -> None:
    if _run.stop_since is None:
        _run.stop_since = time.monotonic()
        os.write(2, b"lightbsr: the time limit is reached: stopping after this step\n")


@contextlib.contextmanager
def stopping_in_order(time_limit: float | None = None) -> Iterator[None]:
    """Within this block SIGTERM and SIGINT let training finish its step, save and exit with ``EXIT_STOPPED``.

    A second signal raises KeyboardInterrupt at once. A validation is cut off by a signal: only the log loses by it.

    Args:
        time_limit: seconds after which training stops in the same way; None: no limit.
    """
    _run.stop_since = None
    before = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    timer = threading.Timer(time_limit or 0, _on_time_limit)
    timer.daemon = True
    if time_limit is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        _run.stop_since = None


def _outlive_signals() -> None:
    """In a data-loading worker: leave signals that the whole process group gets to the main process.

    It stops when it is ready to, and still needs its workers for that. Its own SIGTERM ends the worker, as before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _stop_is_due(model: Any) -> bool:
    """Whether any rank was asked to stop: all ranks stop after the same step."""
    asked = _run.stop_since is not None
    if not model.opt.get("dist"):
        return asked
    flag = torch.tensor([int(asked)], device=model.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def mend_steps() -> None:
    # The stock loop knows no way to stop, and its random numbers depend on all that was drawn since the start.
    # update_learning_rate is the first thing that it calls in a step.
    stock_update = BaseModel.update_learning_rate
    stock_validation = BaseModel.validation

    def update_learning_rate(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
        if _stop_is_due(self):
            done = current_iter - 1
            self.save(done // _run.iterations_per_epoch, done)
            if self.opt.get("dist"):  # a launcher ends all ranks as soon as the first has ended
                torch.distributed.barrier()
            get_root_logger().info(f"Stopped after iteration {done}; saved. --auto_resume goes on.")
            raise SystemExit(EXIT_STOPPED)
        stock_update(self, current_iter, warmup_iter)
        if self.opt.get("manual_seed") is not None:
            seed = stable_seed(self.opt["manual_seed"], current_iter, self.opt.get("rank", 0))
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)

    def validation(self: Any, *args: Any, **kwargs: Any) -> None:
        if _stop_is_due(self):
            return
        try:
            try:
                _run.in_validation = not self.opt.get("dist")  # several ranks validate together, or not at all
                stock_validation(self, *args, **kwargs)
            finally:
                _run.in_validation = False
        except _ValidationCutOff:
            get_root_logger().warning("The validation was cut off by a signal.")

    BaseModel.update_learning_rate = update_learning_rate
    BaseModel.validation = validation
