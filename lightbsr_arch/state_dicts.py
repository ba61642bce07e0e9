"""Read a network's class and sizes off its state dict, so that weights load without an option file.

State dicts are not trusted: sizes are bounded by the tensors that are there before any network is built.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .kdsr_arch import KDSR, KDSRTeacher
from .layers import decode_setting
from .lightbsr_arch import LightBSR
from .lightbsr_teacher_arch import LightBSRTeacher


def find_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint: under ``params_ema``, ``params`` or ``state_dict``, or all of it.

    Returns:
        The state dict, without the ``module.`` of a parallel wrapper before its keys.

    Raises:
        ValueError: not a mapping of names to dense tensors.
    """
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError("it holds no state dict")
    for key, value in checkpoint.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"it holds no state dict: entry {key!r:.80} is of type {type(value).__name__}")
        # An expanded tensor claims a size that is not in the file.
        if value.layout != torch.strided or value.untyped_storage().nbytes() < value.nbytes:
            raise ValueError(f"{key!r:.80} has fewer numbers than its shape {tuple(value.shape)}")
    return {key.removeprefix("module."): value for key, value in checkpoint.items()}


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Count the consecutive numbers behind ``prefix`` in the keys."""
    numbers = {m[1] for key in state_dict if (m := re.match(re.escape(prefix) + r"(\d+)\.", key))}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"the numbers after {prefix!r} in its keys are not consecutive")
    return len(numbers)


def _tail_options(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """``upscale`` and ``upsampler``: the widths of the tail's convolutions tell."""
    direct = state_dict.get("sr_network.tail.0.weight")
    if direct is not None:
        return dict(upscale=math.isqrt(direct.shape[0] // 3), upsampler="pixelshuffledirect")
    weights = [w for key, w in state_dict.items() if re.fullmatch(r"sr_network\.tail\.upsample\.\d+\.weight", key)]
    return dict(upscale=math.prod(math.isqrt(w.shape[0] // w.shape[1]) for w in weights), upsampler="pixelshuffle")


def _kdsr_options(state_dict: Mapping[str, Tensor]) -> tuple[type[nn.Module], dict[str, Any]]:
    head = state_dict["sr_network.head.weight"]
    options: dict[str, Any] = dict(
        num_feat=head.shape[0],
        num_block=_count(state_dict, "sr_network.blocks."),
        # A residual block's keys have one number more than those of the layers beside it.
        num_resblock=sum(bool(re.fullmatch(r"estimator\.features\.\d+\.0\.weight", key)) for key in state_dict),
        **_tail_options(state_dict),
    )
    if "setting_code" in state_dict:
        return KDSRTeacher, {**options, "setting": decode_setting(state_dict["setting_code"])}
    return KDSR, options


def _read_options(state_dict: Mapping[str, Tensor]) -> tuple[type[nn.Module], dict[str, Any]]:
    try:
        if "sr_network.blocks.0.to_kernel.0.weight" in state_dict:
            return _kdsr_options(state_dict)
        options: dict[str, Any] = dict(
            num_feat=state_dict["sr_network.head.weight"].shape[0],
            num_group=_count(state_dict, "sr_network.groups."),
            num_block=_count(state_dict, "sr_network.groups.0.blocks."),
            **_tail_options(state_dict),
            num_idr=state_dict["converter.to_channel.0.weight"].shape[1],
            num_channel_idr=state_dict["converter.to_channel.0.weight"].shape[0],
            spatial_modulation="sr_network.groups.0.blocks.0.modulation.spatial_gate.0.weight" in state_dict,
            channel_modulation="sr_network.groups.0.blocks.0.modulation.channel_gate.0.weight" in state_dict,
            idr_correction="sr_network.groups.0.correction.channel_branch.0.weight" in state_dict,
        )
        if "estimator.0.weight" in state_dict:
            return LightBSR, options
        num_prior = state_dict["query_estimator.0.weight"].shape[1] - 3
        options.update(
            num_prior=num_prior,
            use_prior=num_prior > 0,
            queue_size=state_dict["queue"].shape[1],
            kernel_basis=state_dict["kernel_basis"],
            setting=decode_setting(state_dict["setting_code"]),
        )
    except (KeyError, IndexError, ZeroDivisionError) as error:
        first = next(iter(state_dict), "none")
        raise ValueError(
            "the keys are not those of LightBSR, KDSR or a teacher of theirs"
            f" (missing: {error}; the first key is {first!r})"
        ) from None
    return LightBSRTeacher, options


def network_options(state_dict: Mapping[str, Tensor]) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return the class and the constructor's options of the network that ``state_dict`` belongs to.

    Args:
        state_dict: a whole state dict of ``LightBSR``, ``KDSR`` or the teacher of either.

    Returns:
        The class, and the options that give a network into which the state dict loads strictly.

    Raises:
        ValueError: the keys or shapes are those of no network of this package.
    """
    network_class, options = _read_options(state_dict)
    if options.get("num_group", 1) * options["num_block"] > len(state_dict):
        raise ValueError(f"{len(state_dict)} tensors are too few for the groups and blocks that its keys number")
    with torch.device("meta"):  # takes no memory
        expected = network_class(**options).state_dict()
    for key, value in expected.items():
        if key not in state_dict:
            raise ValueError(f"{key!r} of {network_class.__name__} is missing")
        if state_dict[key].shape != value.shape:
            shape = tuple(state_dict[key].shape)
            raise ValueError(f"{key!r} is {shape}, but must be {tuple(value.shape)} beside the other tensors")
    for key in state_dict:
        if key not in expected:
            raise ValueError(f"{key!r} is no tensor of {network_class.__name__}")
    return network_class, options


def build_from_state_dict(state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Build the network that ``state_dict`` belongs to and load it strictly; returned in eval mode.

    Raises:
        ValueError: the keys or shapes are those of no network of this package.
    """
    network_class, options = network_options(state_dict)
    network = network_class(**options)
    network.load_state_dict(state_dict)
    return network.eval()
