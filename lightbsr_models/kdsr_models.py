"""Training KDSR: a teacher that sees the HR image, and a student that is distilled from its IDR.

Source: KDSR (ICLR 2023), Sec. 3.4 and 4.1.
"""

from collections import OrderedDict

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import KDSR, KDSRTeacher
from lightbsr_compat import InputError

from .adversarial_model import AdversarialModel
from .distillation_model import DistillationModel
from .teacher_model import TeacherModel


@MODEL_REGISTRY.register()
class KDSRTeacherModel(TeacherModel):
    """BasicSR model of ``KDSRTeacher``, which learns super-resolution alone, in one stage.

    Options of ``train``: ``pixel_opt``.
    """

    hint = "gt"
    net_g: KDSRTeacher

    def init_training_settings(self) -> None:
        super().init_training_settings()
        if self.pretrain_iter:
            raise InputError(
                f"idr_pretrain_iter is {self.pretrain_iter}, but KDSR's teacher has no stage 1: leave the option out"
            )

    def stage_modules(self, stage: int) -> list[nn.Module]:
        return [self.net_g]

    def stage_method(self, stage: int) -> str:
        return "forward"

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        return OrderedDict(l_pix=self.pixel_loss(self.step_network(self.lq, self.gt)))


@MODEL_REGISTRY.register()
class KDSRStudentModel(DistillationModel):
    """BasicSR model of ``KDSR``, distilled from ``path: pretrain_network_teacher``.

    Options of ``train``: ``kl_opt`` (KLDistillationLoss), ``pixel_opt``; ``idr_pretrain_iter`` (0 in the paper).
    """

    loss_options = ("kl_opt",)
    teacher_class = KDSRTeacher
    hint = "gt"
    net_g: KDSR
    teacher: KDSRTeacher

    def distilled_modules(self) -> list[nn.Module]:
        return [self.net_g.estimator]

    def distillation_losses(self, student: Tensor, teacher: Tensor) -> "OrderedDict[str, Tensor]":
        return OrderedDict(l_kl=self.losses["kl_opt"](student, teacher))


@MODEL_REGISTRY.register()
class KDSRGANModel(AdversarialModel, KDSRStudentModel):
    """KDSR-GAN: the student's losses, a perceptual one and a discriminator's (Sec. 4.3)."""
