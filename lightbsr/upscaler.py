"""Upscale images with trained weights: what ``lightbsr upscale`` and the demo use."""

import os

import numpy as np
import torch
from torch import Tensor, nn

from lightbsr_arch import KDSRTeacher, LightBSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_weights_file

from .convert import convert_state_dict, recognise


def load_any_network(path: str) -> nn.Module:
    """Build the network that a checkpoint belongs to; its sizes are read off the weights.

    Args:
        path: a ``.pth`` of training (``params_ema`` is preferred to ``params``), of ``lightbsr convert``, or of the
            papers' released format.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        InputError: no file, or no weights in it that are known.
    """
    checkpoint = load_weights_file(path)
    if isinstance(checkpoint, dict):
        nested = (checkpoint[key] for key in ("params_ema", "params", "state_dict") if key in checkpoint)
        checkpoint = next(nested, checkpoint)
    if not isinstance(checkpoint, dict) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise InputError(f"{path!r} holds no weights")
    if recognise({key.removeprefix("module."): value for key, value in checkpoint.items()}):
        checkpoint = convert_state_dict(checkpoint)[1]
    try:
        return build_from_state_dict(checkpoint)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path!r}: {' '.join(str(error).split())[:300]}") from None


def load_network(path: str) -> nn.Module:
    """As ``load_any_network``, for a network that needs the LR image alone.

    Raises:
        InputError: also where the weights are a teacher's.
    """
    network = load_any_network(path)
    if isinstance(network, (KDSRTeacher, LightBSRTeacher)):
        raise InputError(f"{path!r} holds a teacher, which needs more than the LR image: give a student's weights")
    return network


class Upscaler:
    """Upscale one image at a time.

    Args:
        weights: path of a checkpoint.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes the GPU where there is one.

    Attributes:
        scale: the factor.

    Raises:
        InputError: weights or device that cannot be used.
    """

    def __init__(self, weights: str | os.PathLike[str], *, device: str | None = None) -> None:
        network = load_network(os.fspath(weights))
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
        self.scale: int = network.upscale  # type: ignore[assignment]

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Upscale (H, W, 3) uint8, RGB -> (H * scale, W * scale, 3) uint8, RGB."""
        lq = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)[None].float() / 255.0
        sr = self.network(lq.contiguous(memory_format=torch.channels_last))[0]
        return (sr.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()
