"""Training LightBSR's student: the teacher's IDRs are distilled first, then super-resolution is learnt with them.

Source: LightBSR (ICCV 2025), Sec. 3.4 and 4.1. Of the teacher nothing past its converter is run, and in stage 1 nothing
of the student past its own (the released code runs both networks whole).
"""

from collections import OrderedDict
from typing import Any

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import IDR, LightBSR, LightBSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_weights_file
from lightbsr_data import degradation_prior, get_setting

from .two_stage_model import TwoStageModel, check_same, pick_state_dict

# The teacher's first convolution sees the prior too: the student's is its own.
_NOT_FROM_TEACHER = {"estimator.0.weight", "estimator.0.bias"}


def load_teacher(opt: dict[str, Any]) -> LightBSRTeacher:
    """The teacher that the option file names, checked against it.

    Raises:
        InputError: no checkpoint named, none there, or it does not fit: of another setting, scale or size.
    """
    path = opt["path"].get("pretrain_network_teacher")
    if path is None:
        raise InputError("path pretrain_network_teacher is missing: a student is distilled from a teacher's checkpoint")
    state_dict = pick_state_dict(load_weights_file(path), path, opt["path"].get("param_key_teacher", "params"))
    try:
        teacher = build_from_state_dict(state_dict)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"pretrain_network_teacher {path!r}: {str(error).splitlines()[0]}") from None
    if not isinstance(teacher, LightBSRTeacher):
        raise InputError(f"pretrain_network_teacher {path!r} holds a {type(teacher).__name__}, not a LightBSRTeacher")
    ours = dict(degradation=opt["datasets"]["train"]["degradation"], upscale=opt["network_g"].get("upscale", 4))
    theirs = dict(degradation=teacher.setting, upscale=teacher.upscale)
    check_same("the teacher", ours, theirs, path)
    if not teacher.kernel_basis.numel():
        raise InputError(f"the teacher in {path!r} has no kernel basis: convert it again with --kernel-basis FILE")
    return teacher.requires_grad_(False)


def start_from_teacher(student: LightBSR, teacher: LightBSRTeacher) -> None:
    """Give the student the teacher's estimator (BatchNorm statistics too), converter and SR network.

    Only the estimator's first convolution keeps its own weights.

    Raises:
        InputError: the networks' sizes differ.
    """
    weights = {
        key.replace("query_estimator.", "estimator."): value
        for key, value in teacher.state_dict().items()
        if key.startswith(("query_estimator.", "converter.", "sr_network."))
    }
    weights = {key: value for key, value in weights.items() if key not in _NOT_FROM_TEACHER}
    expected = student.state_dict()
    for key in sorted(expected.keys() | weights.keys()):
        if key in _NOT_FROM_TEACHER:
            continue
        shapes = [tuple(d[key].shape) if key in d else None for d in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the teacher's {key} is {shapes[0]}, but the student's network_g makes it {shapes[1]}:"
                " give network_g the teacher's sizes"
            )
    missing, unexpected = student.load_state_dict(weights, strict=False)
    assert set(missing) == _NOT_FROM_TEACHER and not unexpected


@MODEL_REGISTRY.register()
class LightBSRStudentModel(TwoStageModel):
    """BasicSR model of ``LightBSR``, distilled from ``path: pretrain_network_teacher``.

    Setting, kernel basis and number of prior channels are the teacher's; a mismatch with the option file is refused.

    Options of ``train``: ``idr_pretrain_iter``, ``spatial_opt``, ``channel_kl_opt``, ``channel_l1_opt``, ``pixel_opt``.
    """

    loss_options = ("spatial_opt", "channel_kl_opt", "channel_l1_opt")
    net_g: LightBSR

    def init_training_settings(self) -> None:
        self.teacher = load_teacher(self.opt).to(self.device)
        self.setting = get_setting(self.teacher.setting)
        if self.opt["path"].get("pretrain_network_g") is None:
            start_from_teacher(self.net_g, self.teacher)
            get_root_logger().info("The student starts from the teacher's weights.")
        super().init_training_settings()

    def stage_modules(self, stage: int) -> list[nn.Module]:
        modules: list[nn.Module] = [self.net_g.estimator, self.net_g.converter]
        return modules if stage == 1 else [*modules, self.net_g.sr_network]

    def stage_method(self, stage: int) -> str:
        return "estimate_idr" if stage == 1 else "forward_with_idr"

    def feed_prior(self, kernel: Tensor, noise_sigma: Tensor) -> None:
        self.lq = self.lq[:, 0]  # (B, 3, h, w)
        prior = degradation_prior(kernel, noise_sigma, basis=self.teacher.kernel_basis, setting=self.setting)
        with torch.no_grad():
            self.teacher_idr = self.teacher.estimate_idr(self.lq, prior)

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        losses, teacher = OrderedDict(), self.teacher_idr
        output = self.step_network(self.lq)
        student: IDR = output if stage == 1 else output.idr
        losses["l_spatial"] = self.losses["spatial_opt"](student.spatial, teacher.spatial)
        losses["l_channel_kl"] = self.losses["channel_kl_opt"](student.channel, teacher.channel)
        losses["l_channel_l1"] = self.losses["channel_l1_opt"](student.channel, teacher.channel)
        if stage == 2:
            losses["l_pix"] = self.cri_pix(output.sr, self.gt)
        return losses
