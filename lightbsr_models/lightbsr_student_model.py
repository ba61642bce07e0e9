"""Training LightBSR's student: the teacher's IDRs are distilled first, then super-resolution is learnt with them.

Source: LightBSR (ICCV 2025), Sec. 3.4 and 4.1.
"""

from collections import OrderedDict
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import IDR, LightBSR, LightBSRTeacher
from lightbsr_compat import InputError

from .adversarial_model import AdversarialModel
from .distillation_model import DistillationModel


@MODEL_REGISTRY.register()
class LightBSRStudentModel(DistillationModel):
    """BasicSR model of ``LightBSR``, distilled from ``path: pretrain_network_teacher``.

    Setting, kernel basis and number of prior channels are the teacher's; a mismatch with the option file is refused.

    Options of ``train``: ``idr_pretrain_iter``, ``spatial_opt``, ``channel_kl_opt``, ``channel_l1_opt``, ``pixel_opt``.
    """

    loss_options = ("spatial_opt", "channel_kl_opt", "channel_l1_opt")
    teacher_class = LightBSRTeacher
    hint = "prior"
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

    def distilled_modules(self) -> list[nn.Module]:
        return [self.net_g.estimator, self.net_g.converter]

    def distillation_losses(self, student: IDR, teacher: IDR) -> "OrderedDict[str, Tensor]":
        losses = OrderedDict()
        losses["l_spatial"] = self.losses["spatial_opt"](student.spatial, teacher.spatial)
        losses["l_channel_kl"] = self.losses["channel_kl_opt"](student.channel, teacher.channel)
        losses["l_channel_l1"] = self.losses["channel_l1_opt"](student.channel, teacher.channel)
        return losses


@MODEL_REGISTRY.register()
class LightBSRGANModel(AdversarialModel, LightBSRStudentModel):
    """LightBSR in the real-world setting, as KDSR-GAN is trained: its authors released none."""
