"""Upscale images with trained weights: ``lightbsr.Upscaler``, and how weights become a network."""

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from lightbsr.packaged import DEFAULT_WEIGHTS, find_weights
from lightbsr.released import convert_state_dict, recognise
from lightbsr_arch import KDSRTeacher, LightBSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, did_you_mean, load_weights_file

from .engines import make_engine
from .memory import pixels_at_once
from .pixels import ArrayPixels, TensorPixels, View, views
from .shared import shared_idr
from .tiling import OVERLAP, Progress, Tiler
from .usual_idrs import load_idr_statistics

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
ESTIMATOR_SIDE = 512  # LR pixels of the regions that the estimator sees at once

SomePixels = TypeVar("SomePixels", ArrayPixels, TensorPixels)


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
    """Upscale images of any size, from any number of threads.

    An image that does not fit into memory at once is upscaled in tiles, which share its IDR and the averages of
    LightBSR's blocks, so that no seams show.

    Args:
        weights: path of a checkpoint (ours, the papers' released format, ``.pth`` or ``.safetensors``), or the name of
            packaged weights. The network and its sizes are read off them.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes the GPU where there is one.
        precision: ``fp32``, ``bf16`` or ``fp16``: what convolutions and linear layers compute in.
        tile: LR pixels of a tile's side; ``auto`` chooses by the memory that is free and backs off where that was too
            much; 0 never tiles.
        self_ensemble: take the mean over the image's eight flips and transposes: eight times the work.
        engine: ``torch``, ``onnx`` or ``openvino``; the last two need their package and compute in ``fp32``.

    Attributes:
        scale: the factor.
        device: where the network is.

    Raises:
        InputError: weights, device or engine that cannot be used, or an option of another value.

    Example:
        >>> upscaler = Upscaler("net_g_latest.pth")
        >>> sr = upscaler(cv2.imread("photo.png")[..., ::-1])  # (H, W, 3) uint8 RGB -> (4 H, 4 W, 3)
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] = DEFAULT_WEIGHTS,
        *,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        tile: int | str = "auto",
        self_ensemble: bool = False,
        engine: str = "torch",
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}{did_you_mean(precision, PRECISIONS)}")
        if not (tile == "auto" or (isinstance(tile, int) and tile >= 0)):
            raise InputError(f"tile is {tile!r}, but must be auto or a whole number of pixels, 0 for none")
        path = find_weights(weights)
        network = load_network(path)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None
        self.scale: int = network.upscale  # type: ignore[assignment]
        self._precision = PRECISIONS[precision]
        self._self_ensemble = self_ensemble
        self._statistics = load_idr_statistics(path)
        at_once: int | None = None
        if tile == "auto":
            at_once = pixels_at_once(network, self.device)
        elif tile:
            at_once = (int(tile) + 2 * OVERLAP) ** 2
        self._tiler = Tiler(self._network, make_engine(engine, self._network, precision), at_once)

    @overload
    def __call__(self, image: np.ndarray, *, progress: Progress | None = None) -> np.ndarray: ...
    @overload
    def __call__(self, image: Tensor, *, progress: Progress | None = None) -> Tensor: ...
    def __call__(self, image: np.ndarray | Tensor, *, progress: Progress | None = None) -> np.ndarray | Tensor:
        """Upscale one image, or a batch of tensors.

        Args:
            image: an array (H, W, 3), RGB, or (H, W), grey: uint8, uint16, or float32 in [0, 1]; or a floating tensor
                (3, H, W) or (B, 3, H, W), RGB in [0, 1]. Each image of a batch is estimated and upscaled on its own.
            progress: called after every tile with the number of tiles done and of all tiles.

        Returns:
            The same kind and type, ``scale`` times as high and wide; floats are clamped to [0, 1] too.

        Raises:
            InputError: another shape or type, or too little memory even for small tiles.
        """
        if isinstance(image, np.ndarray):
            return self._upscaled(ArrayPixels(image, self.scale), progress).canvas
        if not (isinstance(image, Tensor) and image.is_floating_point()):
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"the image is {kind}, but must be a NumPy array or a floating tensor")
        batch = image[None] if image.ndim == 3 else image
        if batch.ndim != 4 or batch.shape[1] != 3 or not batch.numel():
            raise InputError(f"the tensor's shape is {tuple(image.shape)}, but must be (3, H, W) or (B, 3, H, W)")
        sr = torch.stack([self._upscaled(TensorPixels(one, self.scale), progress).canvas for one in batch.detach()])
        return sr[0] if image.ndim == 3 else sr

    def degradation_distance(self, image: np.ndarray) -> float | None:
        """How far an image's degradation is from those that the weights were trained for.

        Args:
            image: as for a call, an array.

        Returns:
            The distance of its IDR in units of the largest that is usual: more than 1 is out of range. None where the
            weights carry no statistics of IDRs.
        """
        if self._statistics is None:
            return None
        with self._computing():
            view = View(ArrayPixels(image, 1))
            return self._statistics.distance(shared_idr(self._network, view, side=ESTIMATOR_SIDE))

    def _upscaled(self, pixels: SomePixels, progress: Progress | None) -> SomePixels:
        with self._computing():
            self._tiler(pixels, views(pixels, self_ensemble=self._self_ensemble), progress)
        return pixels

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode():
            if self._precision is None:
                yield
                return
            with torch.autocast(self.device.type, self._precision):
                yield
