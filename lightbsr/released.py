"""Rename the keys of the papers' released state dicts into ours; no value is changed."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lightbsr_arch.layers import encode_setting
from lightbsr_compat import InputError

# (pattern of the released key, our key); the first that matches the whole key is used.
_HEAD_AND_TAIL = [
    (r"G\.head\.0\.(\w+)", r"sr_network.head.\1"),
    (r"G\.tail\.0\.(\d+)\.(\w+)", r"sr_network.tail.upsample.\1.\2"),
    (r"G\.tail\.1\.(\w+)", r"sr_network.tail.conv.\1"),
]
_LIGHTBSR_SR_NETWORK = [
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
]
_STUDENT_ESTIMATOR = [(r"E\.E\.(.+)", r"estimator.\1")]
_TEACHER_ESTIMATORS = [
    (r"E\.encoder_q\.E\.(.+)", r"query_estimator.\1"),
    (r"E\.encoder_q\.mlp\.(.+)", r"query_projector.\1"),
    (r"E\.encoder_k\.E\.(.+)", r"key_estimator.\1"),
    (r"E\.encoder_k\.mlp\.(.+)", r"key_projector.\1"),
    (r"E\.(queue|queue_ptr)", r"\1"),
]
_KDSR_SR_NETWORK = [
    (r"G\.body\.0\.body\.(\d+)\.da_conv1\.kernel\.(.+)", r"sr_network.blocks.\1.to_kernel.\2"),
    (r"G\.body\.0\.body\.(\d+)\.conv1\.(\w+)", r"sr_network.blocks.\1.conv.\2"),
    (r"G\.body\.1\.(\w+)", r"sr_network.body_conv.\1"),
]
_KDSR_ESTIMATOR = [
    (r"E(?:_st)?\.E\.(\d+)\.body\.(.+)", r"estimator.features.\1.\2"),
    (r"E(?:_st)?\.E\.(.+)", r"estimator.features.\1"),
    (r"E(?:_st)?\.mlp\.(.+)", r"estimator.mlp.\1"),
    (r"E(?:_st)?\.compress\.(.+)", r"converter.\1"),
]
_RULES = {
    "LightBSR": _HEAD_AND_TAIL + _LIGHTBSR_SR_NETWORK + _STUDENT_ESTIMATOR,
    "LightBSRTeacher": _HEAD_AND_TAIL + _LIGHTBSR_SR_NETWORK + _TEACHER_ESTIMATORS,
    "KDSR": _HEAD_AND_TAIL + _KDSR_SR_NETWORK + _KDSR_ESTIMATOR,
    "KDSRTeacher": _HEAD_AND_TAIL + _KDSR_SR_NETWORK + _KDSR_ESTIMATOR,
}
# Fixed numbers, which our MeanShift holds as constants.
_CONSTANTS = re.compile(r"G\.(sub|add)_mean\.(weight|bias)")
_SETTINGS = {15: "iso", 18: "aniso_noise"}  # of LightBSR's released teachers, by the channels of their prior


def recognise(state_dict: Mapping[str, Tensor]) -> str | None:
    """Name the network whose released format ``state_dict`` has: 'LightBSR', 'KDSR', either + 'Teacher', or None."""
    if "G.body.0.body.0.da_conv1.kernel.0.weight" in state_dict:
        if "E_st.compress.0.weight" in state_dict:
            return "KDSR"
        return "KDSRTeacher" if "E.compress.0.weight" in state_dict else None
    if "G.compress.0.weight" not in state_dict:
        return None
    if "E.encoder_q.E.0.weight" in state_dict:
        return "LightBSRTeacher"
    return "LightBSR" if "E.E.0.weight" in state_dict else None


def convert_state_dict(
    state_dict: Mapping[str, Tensor], *, kernel_basis: Tensor | None = None, setting: str = ""
) -> tuple[str, dict[str, Tensor]]:
    """Rename a released state dict of LightBSR or KDSR, student or teacher, into ours.

    Args:
        state_dict: the released state dict, with or without ``module.`` before its keys.
        kernel_basis: (441, 15), for LightBSR's teacher: the basis that it was trained with, which its state dict does
            not hold. Its setting is read off the number of its prior channels.
        setting: for KDSR's teacher: name of its degradation setting, which nothing in its state dict tells.

    Returns:
        The name of the network, and the state dict that loads into it strictly.

    Raises:
        InputError: the format is unknown, or a key has no counterpart.
    """
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    name = recognise(state_dict)
    if name is None:
        first = next(iter(state_dict), "none")
        raise InputError(f"not a released student or teacher of LightBSR or KDSR: its first key is {first!r}")
    num_block = sum(key.startswith("G.body.0.") and key.endswith("partial_conv3.weight") for key in state_dict)
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if _CONSTANTS.fullmatch(key):
            continue
        for pattern, ours in _RULES[name]:
            if re.fullmatch(pattern, key):
                ours = re.sub(pattern, ours, key)
                # LightBSR's ConvNeXt block after the blocks is numbered on from them in the released code.
                converted[ours.replace(f".blocks.{num_block}.", ".") if num_block else ours] = value
                break
        else:
            raise InputError(f"the released {name} has a key that is not known here: {key!r}")
    if name == "LightBSRTeacher":
        converted["kernel_basis"] = torch.empty(0, 0) if kernel_basis is None else kernel_basis
        setting = _SETTINGS.get(converted["query_estimator.0.weight"].shape[1] - 3, "")
    if name.endswith("Teacher"):
        converted["setting_code"] = encode_setting(setting)
    return name, converted
