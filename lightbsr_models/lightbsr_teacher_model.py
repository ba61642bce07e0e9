"""Training LightBSR's teacher: contrast alone, then contrast and super-resolution.

Source: LightBSR (ICCV 2025), Sec. 3.1, 3.4 and 4.1. The released code passes view 0 through the query estimator twice
in stage 2; here once.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import LightBSRTeacher
from lightbsr_compat import InputError
from lightbsr_data import benchmark_prior, build_degrader, kernel_basis

from .teacher_model import TeacherModel


def check_queue(queue_size: int, batch: int) -> None:
    """Raise InputError where the batch of all ranks does not divide the queue."""
    if queue_size % batch:
        raise InputError(
            f"queue_size is {queue_size}, but must be a multiple of the batch of all ranks,"
            f" {batch} (batch_size_per_gpu x processes)"
        )


def check_contrast(train_opt: dict[str, Any], num_views: int) -> None:
    """Raise InputError where there are too few views for contrast, or a stage 1 without contrast."""
    if train_opt["contrast_opt"] is None and train_opt.get("idr_pretrain_iter"):
        rule = "but must be 0 where contrast_opt is ~: stage 1 trains by contrast alone"
        raise InputError(f"train: idr_pretrain_iter is {train_opt['idr_pretrain_iter']}, {rule}")
    if train_opt["contrast_opt"] is not None and num_views < 2:
        raise InputError(f"num_views is {num_views}, but contrast needs at least 2")


@MODEL_REGISTRY.register()
class LightBSRTeacherModel(TeacherModel):
    """BasicSR model of ``LightBSRTeacher``.

    The degradation setting decides the number of prior channels, and the network is given the kernel basis; in testing
    all three are read from the checkpoint.

    Options of ``train``: ``idr_pretrain_iter``, ``contrast_opt`` (ContrastiveLoss), ``pixel_opt``. With
    ``contrast_opt: ~`` (an ablation) there is no stage 1, and SR alone trains the estimator.
    """

    loss_options = ("contrast_opt",)
    optional_losses = ("contrast_opt",)
    all_views = True
    hint = "prior"
    stored_options = ("num_prior", "kernel_basis", "setting", "queue_size")
    net_g: LightBSRTeacher

    def options_of_setting(self, opt: dict[str, Any]) -> dict[str, Any]:
        return dict(
            super().options_of_setting(opt),
            num_prior=build_degrader(opt).num_prior_channels,
            kernel_basis=kernel_basis(),
        )

    @classmethod
    def checks(cls, opt: dict[str, Any]) -> list[Callable[[], Any]]:
        dataset_opt, queue_size = opt["datasets"]["train"], opt["network_g"].get("queue_size", 8192)
        batch = dataset_opt["batch_size_per_gpu"] * opt["world_size"]
        return [
            *super().checks(opt),
            functools.partial(check_queue, queue_size, batch),
            functools.partial(check_contrast, opt["train"], dataset_opt.get("num_views", 1)),
        ]

    def init_training_settings(self) -> None:
        self.has_contrast = self.opt["train"]["contrast_opt"] is not None
        super().init_training_settings()

    def stage_modules(self, stage: int) -> list[nn.Module]:
        network = self.net_g
        if not self.has_contrast:
            return [network.query_estimator, network.converter, network.sr_network]
        modules: list[nn.Module] = [network.query_estimator, network.query_projector]
        return modules if stage == 1 else [*modules, network.converter, network.sr_network]

    def stage_method(self, stage: int) -> str:
        return "contrast" if self.has_contrast else "forward"

    def kernel_basis(self) -> Tensor:
        return self.net_g.kernel_basis

    def feed_data(self, data: dict[str, Any]) -> None:
        super().feed_data(data)
        if "lq" in data:
            kernel, noise_sigma = data["kernel"].to(self.device), data["noise_sigma"].to(self.device)
            self.prior = benchmark_prior(
                self.net_g.setting, kernel, noise_sigma, basis=self.kernel_basis(), photo=data["photo"]
            )

    def before_step(self, stage: int) -> None:
        super().before_step(stage)
        if self.has_contrast:
            self.net_g.update_key_estimator()
            self.new_keys: list[Tensor] = []

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        losses = OrderedDict()
        if not self.has_contrast:
            losses["l_pix"] = self.pixel_loss(self.step_network(self.lq[:, 0], self.prior))
            return losses
        output = self.step_network(self.lq, self.prior, super_resolve=stage == 2)
        losses["l_contrast"] = self.losses["contrast_opt"](output.queries, output.keys, self.net_g.queue)
        self.new_keys.append(output.keys[:, 0])
        if stage == 2:
            losses["l_pix"] = self.pixel_loss(output.sr)
        return losses

    def after_step(self, stage: int) -> "OrderedDict[str, Tensor]":
        if self.has_contrast:  # only now: the backward pass needs the queue that the loss saw
            self.net_g.enqueue(torch.cat(self.new_keys))
        return super().after_step(stage)
