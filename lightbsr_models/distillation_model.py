"""What the training of every student has in common: a frozen teacher, which it starts from and is distilled from.

Of the teacher nothing past what is distilled is run, and in stage 1 nothing of the student past it either (the released
codes run both networks whole).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import build_from_state_dict
from lightbsr_compat import InputError, load_weights_file

from .two_stage_model import TwoStageModel, check_same, pick_state_dict


def start_from_teacher(student: nn.Module, teacher: nn.Module) -> None:
    """Give the student the teacher's estimator (BatchNorm statistics too), converter and SR network.

    Only the estimator's first convolution keeps its own weights: the teacher's sees more channels.

    Raises:
        InputError: the networks' sizes differ.
    """
    expected = student.state_dict()
    first_layer = next(key for key in expected if key.startswith("estimator.")).rpartition(".")[0]
    own = {f"{first_layer}.weight", f"{first_layer}.bias"}
    weights = {
        key.replace("query_estimator.", "estimator."): value  # so LightBSR's teacher calls it
        for key, value in teacher.state_dict().items()
        if key.startswith(("query_estimator.", "estimator.", "converter.", "sr_network."))
    }
    weights = {key: value for key, value in weights.items() if key not in own}
    for key in sorted((expected.keys() | weights.keys()) - own):
        shapes = [tuple(d[key].shape) if key in d else None for d in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the teacher's {key} is {shapes[0]}, but the student's network_g makes it {shapes[1]}:"
                " give network_g the teacher's sizes"
            )
    # strict=False: the estimator's first layer stays the student's own; that nothing else is missing is asserted.
    missing, unexpected = student.load_state_dict(weights, strict=False)
    assert set(missing) == own and not unexpected


class DistillationModel(TwoStageModel):
    """Base of the students' models: distilled from ``path: pretrain_network_teacher``.

    Class attributes:
        teacher_class: class of the teacher's network.
        hint: the attribute of the model that the teacher sees besides the LR image, ``prior`` or ``gt``.
    """

    teacher_class: type[nn.Module]
    hint: str
    batch_attributes = (*TwoStageModel.batch_attributes, "teacher_idr")
    net_g: Any
    teacher: Any

    @classmethod
    def load_teacher(cls, opt: dict[str, Any]) -> Any:
        """The teacher that the option file names, frozen, in eval mode, and checked against it.

        Raises:
            InputError: no checkpoint named, none there, or it does not fit: of another class, setting or scale.
        """
        path = opt["path"].get("pretrain_network_teacher")
        if path is None:
            raise InputError(
                "path pretrain_network_teacher is missing: a student is distilled from a teacher's checkpoint"
            )
        state_dict = pick_state_dict(load_weights_file(path), path, opt["path"].get("param_key_teacher", "params"))
        try:
            teacher: Any = build_from_state_dict(state_dict)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"pretrain_network_teacher {path!r}: {str(error).splitlines()[0]}") from None
        if not isinstance(teacher, cls.teacher_class):
            kinds = f"a {type(teacher).__name__}, not a {cls.teacher_class.__name__}"
            raise InputError(f"pretrain_network_teacher {path!r} holds {kinds}")
        ours = dict(degradation=opt["datasets"]["train"]["degradation"], upscale=opt["network_g"].get("upscale", 4))
        theirs = dict(degradation=teacher.setting, upscale=teacher.upscale)
        check_same("the teacher", ours, theirs, path)
        return teacher.requires_grad_(False)

    @classmethod
    def checks(cls, opt: dict[str, Any]) -> list[Callable[[], Any]]:
        def check_teacher() -> None:
            teacher = cls.load_teacher(opt)
            if opt["path"].get("pretrain_network_g") is None:
                options = {name: value for name, value in opt["network_g"].items() if name != "type"}
                start_from_teacher(ARCH_REGISTRY.get(opt["network_g"]["type"])(**options), teacher)

        return [*super().checks(opt), check_teacher]

    def init_training_settings(self) -> None:
        self.teacher = self.model_to_device(self.load_teacher(self.opt))
        if self.opt["path"].get("pretrain_network_g") is None:
            start_from_teacher(self.net_g, self.teacher)
            get_root_logger().info("The student starts from the teacher's weights.")
        super().init_training_settings()

    def distilled_modules(self) -> list[nn.Module]:
        """The parts of the student that the distilled IDR comes from: all that stage 1 trains."""
        raise NotImplementedError

    def distillation_losses(self, student: Any, teacher: Any) -> "OrderedDict[str, Tensor]":
        """The losses between the two IDRs, weighted, by the names that the log shows."""
        raise NotImplementedError

    def stage_modules(self, stage: int) -> list[nn.Module]:
        network = self.net_g
        return self.distilled_modules() if stage == 1 else [network.estimator, network.converter, network.sr_network]

    def stage_method(self, stage: int) -> str:
        return "estimate_idr" if stage == 1 else "forward_with_idr"

    def feed_data(self, data: dict[str, Any]) -> None:
        super().feed_data(data)
        if "lq" not in data:
            self.ask_teacher()

    @torch.no_grad()
    def ask_teacher(self) -> None:
        """Have the teacher estimate the IDRs of the batch."""
        self.teacher_idr = self.autocast(self.teacher.estimate_idr, self.lq, getattr(self, self.hint))

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        output = self.step_network(self.lq)
        losses = self.distillation_losses(output if stage == 1 else output.idr, self.teacher_idr)
        if stage == 2:
            losses["l_pix"] = self.pixel_loss(output.sr)
        return losses
