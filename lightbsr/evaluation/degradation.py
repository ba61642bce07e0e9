"""One fixed degradation of an HR image: blur, down-sampling, noise, rounding, JPEG."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightbsr_compat import InputError
from lightbsr_data import bicubic_downsample, blur, gaussian_kernels, to_8_bit
from lightbsr_data.datasets import benchmark_noise, parse_fixed_degradation

DOWNSAMPLERS = ("bicubic", "area", "bilinear")
_NO_BLUR = {"sigma": 0.01}  # a kernel whose middle is 1
_CHROMA_420 = 0x221111  # of cv2.IMWRITE_JPEG_SAMPLING_FACTOR


class FixedDegradation(NamedTuple):
    """A setting of a protocol.

    Attributes:
        sigma_x, sigma_y: kernel widths (standard deviations) in HR pixels; 0.01 where nothing is blurred.
        theta: the kernel's angle in radians.
        noise_sigma: on the 0-255 scale.
        how: the way to down-sample, of ``DOWNSAMPLERS``.
        quality: of JPEG, 1 to 100; None where the LR image is not compressed.
    """

    sigma_x: float
    sigma_y: float
    theta: float
    noise_sigma: float
    how: str
    quality: int | None

    @property
    def blurs(self) -> bool:
        """Whether the kernel is more than its middle."""
        return max(self.sigma_x, self.sigma_y) > _NO_BLUR["sigma"]

    def kernel(self) -> Tensor:
        """The blur kernel: (1, 21, 21)."""
        values = (self.sigma_x, self.sigma_y, self.theta)
        return gaussian_kernels(*(torch.tensor([value], dtype=torch.float64) for value in values)).float()


def parse_degradation(entry: dict[str, Any]) -> FixedDegradation:
    """Read a setting of a protocol.

    Args:
        entry: ``sigma``, or ``sigma_x``, ``sigma_y`` and ``theta`` in degrees (none of them only beside ``downsample``:
            no blur); ``noise_sigma`` (0); ``downsample`` (bicubic); ``jpeg``, a quality (none).

    Raises:
        InputError: an entry that is unknown, missing, or out of its range.
    """
    classic = {key: value for key, value in entry.items() if key not in ("downsample", "jpeg")}
    how, quality = entry.get("downsample", "bicubic"), entry.get("jpeg")
    if how not in DOWNSAMPLERS:
        raise InputError(f"downsample is {how!r}, but must be one of {', '.join(DOWNSAMPLERS)}")
    if quality is not None and not (type(quality) is int and 1 <= quality <= 100):
        raise InputError(f"jpeg is {quality!r}, but must be a whole number, a quality from 1 to 100")
    if "downsample" in entry and classic.keys() <= {"noise_sigma"}:
        classic |= _NO_BLUR
    values = parse_fixed_degradation(classic)
    theta = math.radians(values["theta"])
    return FixedDegradation(values["sigma_x"], values["sigma_y"], theta, values["noise_sigma"], how, quality)


def degradation_label(degradation: FixedDegradation) -> str:
    """A short name, unique within a protocol and good in a file name, such as ``theta30_3.5_1.5_noise5_q85``."""
    sigma_x, sigma_y, theta = degradation.sigma_x, degradation.sigma_y, degradation.theta
    if not degradation.blurs:
        parts = ["noblur"]
    elif sigma_x == sigma_y and not theta:
        parts = [f"sigma{sigma_x:g}"]
    else:
        parts = [f"theta{math.degrees(theta):g}_{sigma_x:g}_{sigma_y:g}"]
    if degradation.noise_sigma:
        parts.append(f"noise{degradation.noise_sigma:g}")
    if degradation.how != "bicubic":
        parts.append(degradation.how)
    if degradation.quality is not None:
        parts.append(f"q{degradation.quality}")
    return "_".join(parts)


def fixed_degradation(hr: np.ndarray, degradation: FixedDegradation, *, name: str, scale: int) -> Tensor:
    """Make the LR image of an HR image: a function of image, name and degradation alone.

    Args:
        hr: (H, W, 3) uint8, RGB, H and W multiples of ``scale``.
        degradation: what is done.
        name: of the image, which seeds the noise.
        scale: 2, 3 or 4.

    Returns:
        (3, H / scale, W / scale) in [0, 1], multiples of 1/255.

    Raises:
        InputError: the image is too small to be blurred.
    """
    x = torch.from_numpy(hr.transpose(2, 0, 1).copy())[None].float()
    kernel = degradation.kernel()
    if degradation.blurs:
        if min(hr.shape[:2]) <= kernel.shape[-1] // 2:
            raise InputError(
                f"image {name!r} is {hr.shape[1]}x{hr.shape[0]}, too small to be blurred by a 21x21 kernel"
            )
        x = blur(x, kernel)
    if degradation.how == "bicubic":
        x = bicubic_downsample(x, scale)
    else:
        x = F.interpolate(x, scale_factor=1 / scale, mode=degradation.how)
    parts = dict(
        sigma_x=degradation.sigma_x,
        sigma_y=degradation.sigma_y,
        theta=math.degrees(degradation.theta),
        noise_sigma=degradation.noise_sigma,
    )
    noise = benchmark_noise(name, parts, (3, *x.shape[-2:]))
    lq = to_8_bit(x if noise is None else x + noise)[0]
    if degradation.quality is not None:
        options = [cv2.IMWRITE_JPEG_QUALITY, degradation.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _CHROMA_420]
        data = cv2.imencode(".jpg", lq.byte().permute(1, 2, 0).numpy()[..., ::-1], options)[1]
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]
        lq = torch.from_numpy(decoded.transpose(2, 0, 1).copy()).float()
    return lq / 255.0
