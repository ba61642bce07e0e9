"""The training that both students share: a frozen teacher, which they start from and are distilled from."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import build_from_state_dict
from lightbsr_compat import InputError, load_weights_file

from .checkpoints import pick_state_dict
from .checks import check_same
from .two_stage_model import Stage, TwoStageModel

STARTS = {
    "all": ("estimator.", "converter.", "sr_network."),
    "all_but_estimator": ("converter.", "sr_network."),
    "sr_network": ("sr_network.",),
}


def weights_from_teacher(student: dict[str, Tensor], teacher: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """The teacher's weights that a student starts from, under the student's keys.

    Args:
        student, teacher: state dicts.
        start: ``all``: estimator (BatchNorm statistics too), converter and SR network, but not the estimator's first
            convolution, since the teacher's sees more channels; ``all_but_estimator``: converter and SR network, and
            the filters of the estimator's first convolution get zero mean; ``sr_network``: that alone, as the released
            KDSR does.

    Raises:
        InputError: the networks' sizes differ.
    """
    first = next(key for key in student if key.startswith("estimator.") and key.endswith(".weight"))
    own = {first, first.removesuffix("weight") + "bias"}
    # LightBSR's teacher calls its estimator query_estimator.
    theirs = {key.removeprefix("query_"): value for key, value in teacher.items()}
    weights = {key: value for key, value in theirs.items() if key.startswith(STARTS[start]) and key not in own}
    expected = {key for key in student if key.startswith(STARTS[start])} - own
    for key in sorted(expected | weights.keys()):
        shapes = [tuple(d[key].shape) if key in d else None for d in (weights, student)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the teacher's {key} is {shapes[0]}, but the student's network_g makes it {shapes[1]}:"
                " give network_g the teacher's sizes"
            )
    if start == "all_but_estimator":
        # Brightness varies far more than texture: BatchNorm would leave little of what tells degradations apart.
        weights[first] = student[first] - student[first].mean((2, 3), keepdim=True)
    return weights


@functools.lru_cache(maxsize=1)
def _read_teacher(path: str, param_key: str, changed: int) -> nn.Module:
    """The frozen teacher in a checkpoint; ``changed``, the file's time, so that another file of the name is read."""
    state_dict = pick_state_dict(load_weights_file(path), path, param_key)
    try:
        return build_from_state_dict(state_dict).requires_grad_(False)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"pretrain_network_teacher {path!r}: {str(error).splitlines()[0]}") from None


class DistillationStage(Stage):
    """A stage whose target is the IDR of the model's frozen teacher."""

    def __init__(self, model: "DistillationModel") -> None:
        super().__init__(model)
        self.teacher = model.teacher


class DistillationModel(TwoStageModel):
    """Base of the students' models: distilled from ``path: pretrain_network_teacher``.

    Options of ``path``: ``start_from_teacher``, ``all`` (the default), ``all_but_estimator`` or ``sr_network``: the
    weights that a student without ``pretrain_network_g`` takes from its teacher (``weights_from_teacher``).

    Class attributes:
        teacher_class: class of the teacher's network.
    """

    teacher_class: type[nn.Module]
    teacher: Any

    @classmethod
    def load_teacher(cls, opt: dict[str, Any]) -> Any:
        """The teacher that the option file names, frozen, in eval mode, and checked against it; read once a start.

        Raises:
            InputError: no checkpoint named, none there, or it does not fit: of another class, setting or scale.
        """
        path = opt["path"].get("pretrain_network_teacher")
        if path is None:
            raise InputError(
                "path pretrain_network_teacher is missing: a student is distilled from a teacher's checkpoint"
            )
        changed = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
        teacher: Any = _read_teacher(path, opt["path"].get("param_key_teacher", "params"), changed)
        if not isinstance(teacher, cls.teacher_class):
            kinds = f"a {type(teacher).__name__}, not a {cls.teacher_class.__name__}"
            raise InputError(f"pretrain_network_teacher {path!r} holds {kinds}")
        ours = dict(degradation=opt["datasets"]["train"]["degradation"], upscale=opt["network_g"].get("upscale", 4))
        theirs = dict(degradation=teacher.setting, upscale=teacher.upscale)
        check_same("the teacher", ours, theirs, path)
        return teacher

    @classmethod
    def checks(cls, opt: dict[str, Any]) -> list[Callable[[], Any]]:
        return [*super().checks(opt), functools.partial(cls.check_teacher, opt)]

    @classmethod
    def check_teacher(cls, opt: dict[str, Any]) -> None:
        """Raise InputError where the teacher's checkpoint is missing or does not fit the student."""
        teacher = cls.load_teacher(opt)
        if opt["path"].get("pretrain_network_g") is None:
            options = {name: value for name, value in opt["network_g"].items() if name != "type"}
            with torch.device("meta"):
                student = ARCH_REGISTRY.get(opt["network_g"]["type"])(**options)
            weights_from_teacher(student.state_dict(), teacher.state_dict(), cls.start(opt))

    @staticmethod
    def start(opt: dict[str, Any]) -> str:
        """``path: start_from_teacher`` or its default."""
        return opt["path"].get("start_from_teacher") or "all"

    def init_training_settings(self) -> None:
        self.teacher = self.model_to_device(self.load_teacher(self.opt))
        if self.opt["path"].get("pretrain_network_g") is None:
            own, start = self.net_g.state_dict(), self.start(self.opt)
            self.net_g.load_state_dict({**own, **weights_from_teacher(own, self.teacher.state_dict(), start)})
            get_root_logger().info(f"The student starts from the teacher's weights ({start}).")
        super().init_training_settings()
