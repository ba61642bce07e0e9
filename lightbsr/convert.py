"""Turn state dicts of the papers' released format into ours by renaming their keys; no value is changed.

Those that are ours already go from one kind of file into another.
"""

import argparse
import re
from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightbsr_arch import build_from_state_dict, network_options
from lightbsr_arch.layers import encode_setting
from lightbsr_compat import InputError, did_you_mean, load_weights_file
from lightbsr_data import REAL_WORLD, SETTINGS
from lightbsr_data.settings import KERNEL_SIZE, NUM_KERNEL_COMPONENTS

from .files import atomic_write
from .packaged import find_weights

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


def recognise(state_dict: Mapping[str, Tensor]) -> str | None:
    """The network whose released format ``state_dict`` has: 'LightBSR', 'KDSR', either with 'Teacher', or None."""
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
        num_prior = converted["query_estimator.0.weight"].shape[1] - 3
        setting = next((s.name for s in SETTINGS.values() if s.num_prior_channels == num_prior), "")
    if name.endswith("Teacher"):
        converted["setting_code"] = encode_setting(setting)
    return name, converted


def load_kernel_basis(path: str) -> Tensor:
    """Read a kernel basis from a ``.npy`` or PyTorch file: 441x15, or 15x441 as some released files have it.

    Raises:
        InputError: unreadable, or of another shape.
    """
    if path.endswith(".npy"):
        try:
            basis = torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise InputError(f"kernel basis {path!r} cannot be read: {error}") from None
    else:
        basis = load_weights_file(path)
    if not isinstance(basis, Tensor) or sorted(basis.shape) != [NUM_KERNEL_COMPONENTS, KERNEL_SIZE**2]:
        shape = tuple(basis.shape) if isinstance(basis, Tensor) else type(basis).__name__
        raise InputError(f"kernel basis {path!r} is {shape}, but must be {KERNEL_SIZE**2}x{NUM_KERNEL_COMPONENTS}")
    return (basis if basis.shape[0] == KERNEL_SIZE**2 else basis.T).float().contiguous()


def _is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    try:
        network_options(state_dict)
    except ValueError:
        return False
    return True


def convert_file(source: str, target: str, *, kernel_basis_path: str | None = None, setting: str | None = None) -> str:
    """Convert a checkpoint into a ``.pth`` with BasicSR's ``params`` key, or safetensors.

    Args:
        source: a checkpoint of the released format, or of ours (in float32 then), or the name of packaged weights: a
            state dict, or one under ``params_ema``, ``params`` or ``state_dict``.
        target: the file to write, ``.pth`` or ``.safetensors``; replaced whole or not at all.
        kernel_basis_path: for LightBSR's teacher, the basis that it was trained with.
        setting: for KDSR's teacher, the name of its degradation setting.

    Returns:
        A sentence that says what was recognised.

    Raises:
        InputError: nothing there that is known.
    """
    checkpoint = load_weights_file(find_weights(source))
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    if not isinstance(checkpoint, dict) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise InputError(f"{source!r} holds no state dict")
    basis = None if kernel_basis_path is None else load_kernel_basis(kernel_basis_path)
    known = (*SETTINGS, REAL_WORLD)
    if setting is not None and setting not in known:
        raise InputError(f"setting is {setting!r}, but must be the name of one{did_you_mean(setting, known)}")
    ours = _is_ours(checkpoint)
    try:
        if ours:
            network = build_from_state_dict(checkpoint)
            name, converted = type(network).__name__, network.state_dict()
        else:
            name, converted = convert_state_dict(checkpoint, kernel_basis=basis, setting=setting or "")
            network = build_from_state_dict(converted)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source!r} cannot be converted: {' '.join(str(error).split())[:300]}") from None
    with atomic_write(target) as temporary:
        if target.endswith(".safetensors"):
            save_file(
                {key: value.clone(memory_format=torch.contiguous_format) for key, value in converted.items()}, temporary
            )
        else:
            torch.save({"params": converted}, temporary)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    sentence = f"{name}, x{network.upscale}, {parameters:,} trainable parameters: written to {target}"
    if name.endswith("Teacher"):
        sentence += f"; setting {network.setting or 'unknown'}"
    missing = {"LightBSRTeacher": ("--kernel-basis", basis), "KDSRTeacher": ("--setting", setting)}.get(name)
    if not ours and missing is not None and missing[1] is None:
        sentence += f"; without {missing[0]} it can super-resolve, but no student can be trained from it"
    return sentence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", help="the checkpoint, or the name of packaged weights")
    parser.add_argument("target", help="the .pth or .safetensors to write")
    parser.add_argument("--kernel-basis", metavar="FILE", help="for LightBSR's teacher: its 441x15 basis")
    parser.add_argument("--setting", metavar="NAME", help="for KDSR's teacher: its degradation, such as iso")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    print(convert_file(args.source, args.target, kernel_basis_path=args.kernel_basis, setting=args.setting))
    return 0
