"""Training LightBSR's student: the teacher's IDRs are distilled first, then super-resolution is learnt with them.

Source: LightBSR (ICCV 2025), Sec. 3.2.2 and 4.1. Of the teacher nothing past its converter is run, and in stage 1
nothing of the student past it either (the released code runs both networks whole).
"""

from typing import Any

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import IDR, LightBSR, LightBSRTeacher
from lightbsr_compat import InputError, register
from lightbsr_data import TrainingBatch

from .adversarial_model import AdversarialModel
from .distillation_model import DistillationModel, DistillationStage
from .losses import PriorLoss


class StudentStage1(DistillationStage):
    """Distillation of the IDR alone (Eq. 5-8)."""

    network: LightBSR

    def trained(self) -> list[nn.Module]:
        return [self.network.estimator, self.network.converter]

    def teachers_idr(self, batch: TrainingBatch) -> IDR:
        """The target: channel (B, 48), spatial (B, 8, h, w)."""
        with torch.no_grad():
            return self.autocast(self.teacher.estimate_idr, batch.lq[:, 0], batch.prior)

    def distillation(self, idr: IDR, batch: TrainingBatch) -> dict[str, Tensor]:
        target = self.teachers_idr(batch)
        losses = {
            "l_spatial": self.losses["spatial_opt"](idr.spatial, target.spatial),
            "l_channel_kl": self.losses["channel_kl_opt"](idr.channel, target.channel),
            "l_channel_l1": self.losses["channel_l1_opt"](idr.channel, target.channel),
        }
        if "prior_opt" in self.losses:
            losses["l_prior"] = self.losses["prior_opt"](idr.channel, batch.prior)
        return losses

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return self.distillation(self.autocast(self.network.estimate_idr, batch.lq[:, 0]), batch)


class StudentStage2(StudentStage1):
    """Super-resolution (Eq. 4) and distillation: the whole network."""

    def trained(self) -> list[nn.Module]:
        return [self.network]

    def super_resolve(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The SR images (B, 3, H, W) and the losses."""
        sr, idr = self.autocast(self.network.forward_with_idr, batch.lq[:, 0])
        return sr, {**self.distillation(idr, batch), "l_pix": self.pixel_loss(sr, batch)}

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return self.super_resolve(batch)[1]


@register(MODEL_REGISTRY)
class LightBSRStudentModel(DistillationModel):
    """BasicSR model of ``LightBSR``, distilled from ``path: pretrain_network_teacher``.

    Setting, kernel basis and number of prior channels are the teacher's; a mismatch with the option file is refused.

    Options of ``train``: ``idr_pretrain_iter``, ``spatial_opt``, ``channel_kl_opt``, ``channel_l1_opt``, ``pixel_opt``,
    and ``prior_opt``, which is ours: the loss of a ``PriorLoss``; none by default.
    """

    stages = (StudentStage1, StudentStage2)
    loss_options = ("spatial_opt", "channel_kl_opt", "channel_l1_opt")
    optional_losses = ("prior_opt",)
    teacher_class = LightBSRTeacher
    network_class = LightBSR
    net_g: LightBSR
    teacher: LightBSRTeacher

    @classmethod
    def load_teacher(cls, opt: dict[str, Any]) -> LightBSRTeacher:
        teacher = super().load_teacher(opt)
        if not teacher.kernel_basis.numel():
            path = opt["path"]["pretrain_network_teacher"]
            raise InputError(f"the teacher in {path!r} has no kernel basis: convert it again with --kernel-basis FILE")
        return teacher

    def kernel_basis(self) -> Tensor:
        return self.teacher.kernel_basis

    def make_loss(self, name: str) -> nn.Module:
        loss = super().make_loss(name)
        if name != "prior_opt":
            return loss
        to_channel: Any = self.net_g.converter.to_channel[0]
        num_prior = self.degrader.num_prior_channels
        return PriorLoss(loss, num_channel_idr=to_channel.out_features, num_prior=num_prior)


@register(MODEL_REGISTRY)
class LightBSRGANModel(AdversarialModel, LightBSRStudentModel):
    """LightBSR in the real-world setting, as KDSR-GAN is trained: its authors released none."""
