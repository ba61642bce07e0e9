"""Turn state dicts of the papers' released format into ours by renaming their keys; no value is changed."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lightbsr_compat import InputError

# (pattern of the released key, our key); the first that matches the whole key is used.
_LIGHTBSR_SR_NETWORK = [
    (r"G\.head\.0\.(\w+)", r"sr_network.head.\1"),
    (r"G\.compress\.0\.weight", r"converter.to_channel.0.weight"),
    (r"G\.afterpixshuffle\.0\.(\w+)", r"converter.to_spatial.0.\1"),
    (r"G\.body\.(\d+)\.ca_change\.avgafter\.(.+)", r"sr_network.groups.\1.correction.channel_branch.\2"),
    (r"G\.body\.(\d+)\.xk_change\.sig1\.(.+)", r"sr_network.groups.\1.correction.spatial_branch.\2"),
    (
        r"G\.body\.(\d+)\.body\.(\d+)\.spatial_mixing\.partial_conv3\.weight",
        r"sr_network.groups.\1.blocks.\2.modulation.partial_conv.weight",
    ),
    (
        r"G\.body\.(\d+)\.body\.(\d+)\.spatial_mixing\.loc\.avgafter\.(.+)",
        r"sr_network.groups.\1.blocks.\2.modulation.channel_gate.\3",
    ),
    (
        r"G\.body\.(\d+)\.body\.(\d+)\.spatial_mixing\.spatial_attention\.(.+)",
        r"sr_network.groups.\1.blocks.\2.modulation.spatial_gate.\3",
    ),
    (r"G\.body\.(\d+)\.body\.(\d+)\.gamma", r"sr_network.groups.\1.blocks.\2.branch.layer_scale"),
    (r"G\.body\.(\d+)\.body\.(\d+)\.dwconv\.(\w+)", r"sr_network.groups.\1.blocks.\2.branch.depthwise.\3"),
    (r"G\.body\.(\d+)\.body\.(\d+)\.norm\.(\w+)", r"sr_network.groups.\1.blocks.\2.branch.norm.\3"),
    (r"G\.body\.(\d+)\.body\.(\d+)\.pwconv1\.(\w+)", r"sr_network.groups.\1.blocks.\2.branch.expand.\3"),
    (r"G\.body\.(\d+)\.body\.(\d+)\.pwconv2\.(\w+)", r"sr_network.groups.\1.blocks.\2.branch.reduce.\3"),
    (r"G\.body\.(\d+)\.body\.(\d+)\.(weight|bias)", r"sr_network.groups.\1.conv.\3"),
    (r"G\.body\.(\d+)\.(weight|bias)", r"sr_network.body_conv.\2"),
    (r"G\.tail\.0\.(\d+)\.(\w+)", r"sr_network.tail.upsample.\1.\2"),
    (r"G\.tail\.1\.(\w+)", r"sr_network.tail.conv.\1"),
]
_STUDENT_ESTIMATOR = [(r"E\.E\.(.+)", r"estimator.\1")]
_TEACHER_ESTIMATORS = [
    (r"E\.encoder_q\.E\.(.+)", r"query_estimator.\1"),
    (r"E\.encoder_q\.mlp\.(.+)", r"query_projector.\1"),
    (r"E\.encoder_k\.E\.(.+)", r"key_estimator.\1"),
    (r"E\.encoder_k\.mlp\.(.+)", r"key_projector.\1"),
    (r"E\.(queue|queue_ptr)", r"\1"),
]
# Fixed numbers, which our MeanShift holds as constants.
_CONSTANTS = re.compile(r"G\.(sub|add)_mean\.(weight|bias)")


def recognise(state_dict: Mapping[str, Tensor]) -> str | None:
    """The network whose released format ``state_dict`` has: 'LightBSR', 'LightBSRTeacher' or None."""
    if "G.compress.0.weight" not in state_dict:
        return None
    if "E.encoder_q.E.0.weight" in state_dict:
        return "LightBSRTeacher"
    return "LightBSR" if "E.E.0.weight" in state_dict else None


def convert_state_dict(
    state_dict: Mapping[str, Tensor], *, kernel_basis: Tensor | None = None, setting: str = ""
) -> tuple[str, dict[str, Tensor]]:
    """Rename a released LightBSR state dict, student or teacher, into ours.

    Args:
        state_dict: the released state dict, with or without ``module.`` before its keys.
        kernel_basis: (441, 15), for a teacher: the basis that it was trained with, which its state dict does not hold.
        setting: for a teacher: name of its degradation setting, which its state dict does not hold.

    Returns:
        The name of the network, and the state dict that loads into it strictly.

    Raises:
        InputError: the format is unknown, or a key has no counterpart.
    """
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    name = recognise(state_dict)
    if name is None:
        first = next(iter(state_dict), "none")
        raise InputError(f"not a released LightBSR student or teacher: its first key is {first!r}")
    rules = _LIGHTBSR_SR_NETWORK + (_STUDENT_ESTIMATOR if name == "LightBSR" else _TEACHER_ESTIMATORS)
    num_block = sum(key.startswith("G.body.0.") and key.endswith("partial_conv3.weight") for key in state_dict)
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if _CONSTANTS.fullmatch(key):
            continue
        for pattern, ours in rules:
            if re.fullmatch(pattern, key):
                # The ConvNeXt block after the blocks is numbered on from them in the released code.
                converted[re.sub(pattern, ours, key).replace(f".blocks.{num_block}.", ".")] = value
                break
        else:
            raise InputError(f"the released {name} has a key that is not known here: {key!r}")
    if name == "LightBSRTeacher":
        converted["kernel_basis"] = torch.empty(0, 0) if kernel_basis is None else kernel_basis
        converted["setting_code"] = torch.tensor(list(setting.encode()), dtype=torch.uint8)
    return name, converted
