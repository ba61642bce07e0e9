"""Training LightBSR's teacher: contrast alone, then contrast and super-resolution.

Source: LightBSR (ICCV 2025), Sec. 3.2.1, Fig. 3 and Sec. 4.1.
"""

import functools
from collections.abc import Callable
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import LightBSRTeacher
from lightbsr_compat import InputError, register
from lightbsr_data import TrainingBatch, benchmark_prior, build_degrader, kernel_basis

from .teacher_model import TeacherModel
from .two_stage_model import Stage


class TeacherStage1(Stage):
    """Contrast alone (Eq. 1-3): estimator and projector learn to tell degradations apart."""

    network: LightBSRTeacher

    def trained(self) -> list[nn.Module]:
        return [self.network.query_estimator, self.network.query_projector]

    def contrast(self, batch: TrainingBatch, *, super_resolve: bool) -> tuple[Tensor, Tensor | None]:
        """The contrastive step: the loss, and the SR image (B, 3, H, W) of view 0 if asked for."""
        teacher = self.network
        teacher.update_key_estimator()  # Eq. 3
        # queries and keys (B, D, 128) of the D views of each image, keys without gradient
        queries, keys, sr = self.autocast(teacher.contrast, batch.lq, batch.prior, super_resolve=super_resolve)
        # A copy of the queue (128, N): the backward pass needs it as it was.
        loss = self.losses["contrast_opt"](queries, keys, teacher.queue.clone())  # Eq. 1-2
        teacher.enqueue(keys[:, 0])  # view 0's alone
        return loss, sr

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        loss, _ = self.contrast(batch, super_resolve=False)
        return {"l_contrast": loss}


class TeacherStage2(TeacherStage1):
    """Contrast, and super-resolution of view 0 (Eq. 4).

    The released code passes view 0 through the query estimator a second time to super-resolve it; here once.
    """

    def trained(self) -> list[nn.Module]:
        return [*super().trained(), self.network.converter, self.network.sr_network]

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        loss, sr = self.contrast(batch, super_resolve=True)
        return {"l_contrast": loss, "l_pix": self.pixel_loss(sr, batch)}


class TeacherWithoutContrast(Stage):
    """Super-resolution alone trains the estimator: an ablation."""

    network: LightBSRTeacher

    def trained(self) -> list[nn.Module]:
        return [self.network.query_estimator, self.network.converter, self.network.sr_network]

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        sr = self.autocast(self.network, batch.lq[:, 0], batch.prior)
        return {"l_pix": self.pixel_loss(sr, batch)}


@register(MODEL_REGISTRY)
class LightBSRTeacherModel(TeacherModel):
    """BasicSR model of ``LightBSRTeacher``.

    The degradation setting decides the number of prior channels, and the network is given the kernel basis; in testing
    all three are read from the checkpoint.

    Options of ``train``: ``idr_pretrain_iter``, ``contrast_opt`` (ContrastiveLoss), ``pixel_opt``. With
    ``contrast_opt: ~`` (an ablation) there is no stage 1, and SR alone trains the estimator.
    """

    stages = (TeacherStage1, TeacherStage2)
    loss_options = ("contrast_opt",)
    condition = "prior"
    stored_options = ("num_prior", "kernel_basis", "setting", "queue_size")
    network_class = LightBSRTeacher
    net_g: LightBSRTeacher

    def make_stage(self, number: int) -> Stage:
        return super().make_stage(number) if "contrast_opt" in self.losses else TeacherWithoutContrast(self)

    def options_of_setting(self, opt: dict[str, Any]) -> dict[str, Any]:
        degrader = build_degrader(opt)
        return dict(setting=degrader.name, num_prior=degrader.num_prior_channels, kernel_basis=kernel_basis())

    @classmethod
    def checks(cls, opt: dict[str, Any]) -> list[Callable[[], Any]]:
        return [*super().checks(opt), functools.partial(check_queue, opt), functools.partial(check_contrast, opt)]

    def kernel_basis(self) -> Tensor:
        return self.net_g.kernel_basis

    def feed_data(self, data: dict[str, Any]) -> None:
        super().feed_data(data)
        if "lq" in data:
            kernel, noise_sigma = data["kernel"].to(self.device), data["noise_sigma"].to(self.device)
            self.prior = benchmark_prior(
                self.net_g.setting, kernel, noise_sigma, basis=self.kernel_basis(), photo=data.get("photo")
            )


def check_queue(opt: dict[str, Any]) -> None:
    """Raise InputError where the batch of all ranks does not divide the queue."""
    queue_size = opt["network_g"].get("queue_size", 8192)
    batch = opt["datasets"]["train"]["batch_size_per_gpu"] * opt["world_size"]
    if queue_size % batch:
        raise InputError(
            f"queue_size is {queue_size}, but must be a multiple of the batch of all ranks,"
            f" {batch} (batch_size_per_gpu x processes)"
        )


def check_contrast(opt: dict[str, Any]) -> None:
    """Raise InputError where there are too few views for contrast, or a stage 1 without contrast."""
    train_opt, num_views = opt["train"], opt["datasets"]["train"].get("num_views", 1)
    if train_opt["contrast_opt"] is None and train_opt.get("idr_pretrain_iter"):
        rule = "but must be 0 where contrast_opt is ~: stage 1 trains by contrast alone"
        raise InputError(f"train: idr_pretrain_iter is {train_opt['idr_pretrain_iter']}, {rule}")
    if train_opt["contrast_opt"] is not None and num_views < 2:
        raise InputError(f"num_views is {num_views}, but contrast needs at least 2")
