"""Upscale images with trained weights: ``lightbsr.Upscaler``, and building a network from weights."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lightbsr.packaged import DEFAULT_WEIGHTS, find_weights
from lightbsr.released import convert_state_dict, recognise
from lightbsr_arch import KDSRTeacher, LightBSRTeacher, build_from_state_dict, find_state_dict, use_cpu_kernels
from lightbsr_compat.errors import InputError, did_you_mean
from lightbsr_compat.files import load_weights_file, require_finite

from .memory import is_out_of_memory
from .regions import Region, whole
from .shared import LRImage, idr_parts, mean_features
from .stated import clean_idr
from .tiling import LEAST_TILE, OVERLAP, NotFiniteError, Progress, SRFunction, super_resolve

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Feature maps on a CPU, and LR pixels on a GPU, that are tried at once where tile is auto.
_BYTES_ON_CPU, _AT_ONCE_ON_GPU = 1.7e9, 1024**2
_LEAST_AT_ONCE = (LEAST_TILE + 2 * OVERLAP) ** 2
_ESTIMATOR_SIDE = 512  # LR pixels of the regions that the estimator sees at once
Image = TypeVar("Image", np.ndarray, Tensor)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: R, G and B in the grey of an image that came in grey


def load_any_network(weights: str | os.PathLike[str]) -> nn.Module:
    """Build the network that a checkpoint belongs to; its sizes are read off the weights.

    Args:
        weights: the name of packaged weights, or a file of training (``params_ema`` is preferred to ``params``), of
            ``lightbsr convert``, or of the papers' released format.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        InputError: no file, no weights in it that are known, or weights that are not finite.
    """
    path = find_weights(weights)
    checkpoint = load_weights_file(path)
    try:
        state_dict = find_state_dict(checkpoint)
        require_finite(state_dict, path)
        if recognise(state_dict) is not None:  # the papers' released format
            state_dict = convert_state_dict(state_dict)[1]
        return build_from_state_dict(state_dict)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path!r}: {' '.join(str(error).split())[:300]}") from None


def load_network(weights: str | os.PathLike[str]) -> nn.Module:
    """As ``load_any_network``, for a network that needs the LR image alone.

    Raises:
        InputError: also where the weights are a teacher's.
    """
    network = load_any_network(weights)
    if isinstance(network, (KDSRTeacher, LightBSRTeacher)):
        raise InputError(
            f"{os.fspath(weights)!r} holds a teacher, which needs more than the LR image: give a student's weights"
        )
    return network


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; None takes the GPU where there is one.

    Raises:
        InputError: no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(name)!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


class Upscaler:
    """Upscale images of any size, from any number of threads.

    A large image is upscaled in tiles, which share its IDR and the averages of LightBSR's blocks, so that no seams
    show. Where memory runs out tiles are halved, where a lower precision overflows float32 takes its place; both hold
    for the images that follow.

    Args:
        weights: path of a checkpoint (ours, the papers' released format, ``.pth`` or ``.safetensors``), or the name of
            packaged weights. The network and its sizes are read off them.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes the GPU where there is one.
        precision: ``fp32``, ``bf16`` or ``fp16``, of convolutions and linear layers.
        tile: LR pixels of a tile's side; ``auto``: as large as is fast and fits into memory; 0: no tiles.
        self_ensemble: the mean over the image's eight flips and transposes: eight times the work.
        strength: 0 to 2, how much degradation is removed: the IDR becomes ``clean + strength * (own - clean)``,
            where ``clean`` is the IDR of images without degradation, which packaged weights state.
        notice: called with a sentence where a precision is given up; the default is a warning.

    Attributes:
        scale: the factor.
        device: where the network is.

    Raises:
        InputError: weights or device that cannot be used, or an option of another value.

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
        strength: float = 1.0,
        notice: Callable[[str], None] = warnings.warn,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}{did_you_mean(precision, PRECISIONS)}")
        if not (tile == "auto" or (isinstance(tile, int) and tile >= 0)):
            raise InputError(f"tile is {tile!r}, but must be auto or a whole number of pixels, 0 for none")
        if not 0 <= strength <= 2:
            raise InputError(f"strength is {strength!r}, but must be within [0, 2]")
        network = load_network(weights)
        self.device = pick_device(device)
        self._strength = strength
        self._clean_idr = None if strength == 1 else clean_idr(weights).to(self.device)  # (1, D)
        self._network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            use_cpu_kernels(self._network)
        # All super-resolution passes this function: another engine would replace it.
        self._sr_function: SRFunction = network.sr_network  # type: ignore[assignment]
        self.scale: int = network.upscale  # type: ignore[assignment]
        self._precision = precision
        self._self_ensemble = self_ensemble
        self._notice = notice
        self._at_once: int | None = None  # LR pixels; None: all
        if tile == "auto":
            self._at_once = _AT_ONCE_ON_GPU if self.device.type != "cpu" else _at_once_on_cpu(self._network)
        elif tile:
            self._at_once = (int(tile) + 2 * OVERLAP) ** 2

    def __call__(self, image: Image, *, idr: Tensor | None = None, progress: Progress | None = None) -> Image:
        """Upscale one image, or a batch of tensors.

        Args:
            image: an array (H, W, 3), RGB, or (H, W), grey: uint8, uint16, or float32 in [0, 1]; or a floating tensor
                (3, H, W) or (B, 3, H, W), RGB in [0, 1]. Each image of a batch is estimated and upscaled on its own.
            idr: (1, D), as of ``estimate_idr``, in place of the image's own.
            progress: called after every tile with the number of tiles done and of all tiles.

        Returns:
            The same kind and type, ``scale`` times as high and wide; floats are clamped to [0, 1] too.

        Raises:
            InputError: another shape or type, values that are not finite, or too little memory even for small tiles.
        """
        if isinstance(image, np.ndarray):
            return self._upscaled(checked(image), idr, progress)
        if not (isinstance(image, Tensor) and image.is_floating_point()):
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"the image is {kind}, but must be a NumPy array or a floating tensor")
        if image.ndim == 4 and image.shape[1] == 3 and image.numel():
            return torch.stack([self(one, idr=idr, progress=progress) for one in image])
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise InputError(f"the tensor's shape is {tuple(image.shape)}, but must be (3, H, W) or (B, 3, H, W)")
        array = image.detach().float().permute(1, 2, 0).cpu().numpy()
        return torch.from_numpy(self._upscaled(checked(array), idr, progress)).permute(2, 0, 1).to(image)

    def estimate_idr(self, images: Iterable[np.ndarray]) -> Tensor:
        """The IDR of one or several images together, for ``idr`` of a call: (1, D).

        It is the part that belongs to the whole image (LightBSR's channel IDR; all of KDSR's), of the mean of the
        estimator's features over all images, each with the same weight.

        Args:
            images: arrays as for a call.

        Raises:
            InputError: no image, or one that a call refuses.
        """
        with torch.inference_mode():  # in float32: it costs little
            features = [
                mean_features(self._network, LRImage(checked(image), self.device), side=_ESTIMATOR_SIDE)
                for image in images
            ]
            if not features:
                raise InputError("there is no image that an IDR can be estimated from")
            return idr_parts(self._network).shared(torch.stack(features).mean(0))

    def _upscaled(self, image: np.ndarray, idr: Tensor | None, progress: Progress | None) -> np.ndarray:
        if self._clean_idr is not None:
            own = self.estimate_idr([image]) if idr is None else idr
            idr = torch.lerp(self._clean_idr, own, self._strength)
        area = image.shape[0] * image.shape[1]
        while True:
            at_once, precision = area if self._at_once is None else min(self._at_once, area), self._precision
            try:
                with self._computing():
                    return self._attempt(image, at_once, idr, progress)
            except NotFiniteError:
                self._raise_precision(precision)
            except Exception as error:  # libraries have classes of their own
                if not is_out_of_memory(error):
                    raise
                self._halve_tiles(at_once)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(self, image: np.ndarray, at_once: int, idr: Tensor | None, progress: Progress | None) -> np.ndarray:
        h, w = (side * self.scale for side in image.shape[:2])
        canvas = np.zeros((h, w, *image.shape[2:]), np.float32 if self._self_ensemble else image.dtype)
        turns = range(8 if self._self_ensemble else 1)
        for i in turns:
            lq, turned = LRImage(turn(image, i), self.device), turn(canvas, i)

            def store(region: Region, sr: Tensor, lq: LRImage = lq, turned: np.ndarray = turned) -> None:
                place = region.inside(whole(lq.size), self.scale)
                pixels = sr.permute(1, 2, 0) if image.ndim == 3 else torch.einsum("chw,c->hw", sr, sr.new_tensor(_LUMA))
                if self._self_ensemble:
                    turned[place] += pixels.cpu().numpy()
                else:
                    turned[place] = as_samples(pixels, image.dtype).contiguous().cpu().numpy()

            def tile_done(done: int, total: int, i: int = i) -> None:
                if progress is not None:
                    progress(i * total + done, len(turns) * total)

            super_resolve(
                self._network,
                lq,
                store,
                pixels_at_once=at_once,
                sr_function=self._sr_function,
                idr=idr,
                progress=tile_done,
            )
        if self._self_ensemble:
            return as_samples(torch.from_numpy(canvas).div_(len(turns)), image.dtype).numpy().astype(image.dtype)
        return canvas

    def _raise_precision(self, precision: str) -> None:
        """After an output that is not finite: go on in float32.

        Raises:
            InputError: it was float32.
        """
        if precision == "fp32":
            raise InputError("the network's output is not finite (NaN or infinity): the weights are damaged") from None
        if self._precision != "fp32":  # no other thread has been here
            self._precision = "fp32"
            self._notice(f"the network's values overflow in {precision}: going on in fp32")

    def _halve_tiles(self, at_once: int) -> None:
        """After running out of memory at ``at_once`` LR pixels: less from now on.

        Raises:
            InputError: less is not allowed or makes no sense.
        """
        if self._at_once is None:
            raise InputError(
                f"{at_once:,} pixels do not fit into memory at once: let them be tiled (tile auto)"
            ) from None
        if at_once <= _LEAST_AT_ONCE:
            raise InputError(f"there is not enough memory for tiles of {LEAST_TILE} pixels") from None
        self._at_once = min(self._at_once, max(at_once // 2, _LEAST_AT_ONCE))

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        dtype = PRECISIONS[self._precision]
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            yield


def _at_once_on_cpu(network: Any) -> int:
    """LR pixels, overlap included, that are tried first where tile is auto."""
    maps = 12  # feature maps that are held at once
    return int(_BYTES_ON_CPU / (4 * maps * network.sr_network.head.out_channels))


def checked(image: np.ndarray) -> np.ndarray:
    """The image.

    Raises:
        InputError: it is not (H, W, 3) or (H, W), of uint8, uint16 or finite float32.
    """
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        raise InputError(f"the image's shape is {image.shape}, but must be (H, W, 3) or (H, W)")
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"the image's type is {image.dtype}, but must be uint8, uint16 or float32 in [0, 1]")
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise InputError("the image has values that are not finite (NaN or infinity)")
    return image


def turn(image: np.ndarray, number: int) -> np.ndarray:
    """One of the eight flips and transposes of (H, W, ...), 0 as it is; a view."""
    if number & 1:
        image = image[::-1]
    if number & 2:
        image = image[:, ::-1]
    return image.swapaxes(0, 1) if number & 4 else image


def as_samples(pixels: Tensor, dtype: np.dtype) -> Tensor:
    """Clamp to [0, 1] and scale to the values of a type, in place; 16-bit integers are rounded, but stay float32."""
    pixels = pixels.clamp_(0, 1)
    if dtype == np.float32:
        return pixels
    pixels = pixels.mul_(float(np.iinfo(dtype).max)).round_()
    return pixels.byte() if dtype == np.uint8 else pixels
