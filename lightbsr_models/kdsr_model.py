"""Training KDSR: a teacher that sees the HR image, and a student that is distilled from its IDR.

Source: KDSR (ICLR 2023), Sec. 3.4 and 4.1.
"""

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import KDSR, KDSRTeacher
from lightbsr_compat import register
from lightbsr_data import TrainingBatch

from .adversarial_model import AdversarialModel
from .distillation_model import DistillationModel, DistillationStage
from .teacher_model import TeacherModel
from .two_stage_model import Stage


class TeacherStage(Stage):
    """Super-resolution alone, of the whole network: it sees the LR and the HR image."""

    def trained(self) -> list[nn.Module]:
        return [self.network]

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        sr = self.autocast(self.network, batch.lq[:, 0], batch.gt)
        return {"l_pix": self.pixel_loss(sr, batch)}


@register(MODEL_REGISTRY)
class KDSRTeacherModel(TeacherModel):
    """BasicSR model of ``KDSRTeacher``, which learns super-resolution alone, in one stage.

    Options of ``train``: ``pixel_opt``.
    """

    stages = (TeacherStage, TeacherStage)
    condition = "gt"
    network_class = KDSRTeacher
    net_g: KDSRTeacher


class StudentStage1(DistillationStage):
    """Distillation of the IDR alone."""

    network: KDSR

    def trained(self) -> list[nn.Module]:
        return [self.network.estimator]

    def teachers_idr(self, batch: TrainingBatch) -> Tensor:
        """The target: (B, 4 * num_feat)."""
        with torch.no_grad():
            return self.autocast(self.teacher.estimate_idr, batch.lq[:, 0], batch.gt)

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        target = self.teachers_idr(batch)
        idr = self.autocast(self.network.estimate_idr, batch.lq[:, 0])
        return {"l_kl": self.losses["kl_opt"](idr, target)}


class StudentStage2(StudentStage1):
    """Super-resolution and distillation: the whole network."""

    def trained(self) -> list[nn.Module]:
        return [self.network]

    def super_resolve(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The SR images (B, 3, H, W) and the losses."""
        target = self.teachers_idr(batch)
        sr, idr = self.autocast(self.network.forward_with_idr, batch.lq[:, 0])
        return sr, {"l_kl": self.losses["kl_opt"](idr, target), "l_pix": self.pixel_loss(sr, batch)}

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return self.super_resolve(batch)[1]


@register(MODEL_REGISTRY)
class KDSRStudentModel(DistillationModel):
    """BasicSR model of ``KDSR``, distilled from ``path: pretrain_network_teacher``.

    Options of ``train``: ``kl_opt`` (KLDistillationLoss), ``pixel_opt``; ``idr_pretrain_iter`` (0 in the paper).
    """

    stages = (StudentStage1, StudentStage2)
    loss_options = ("kl_opt",)
    teacher_class = KDSRTeacher
    network_class = KDSR
    net_g: KDSR
    teacher: KDSRTeacher


@register(MODEL_REGISTRY)
class KDSRGANModel(AdversarialModel, KDSRStudentModel):
    """KDSR-GAN: the student's losses, a perceptual one and a discriminator's (Sec. 4.3)."""
