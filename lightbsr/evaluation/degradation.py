"""One fixed degradation of an HR image, as protocols name it."""

import math

import numpy as np
import torch
from torch import Tensor

from lightbsr_compat import InputError
from lightbsr_data.datasets import benchmark_noise, degrade_fixed
from lightbsr_data.photo import NO_BLUR, PhotoParameters
from lightbsr_data.settings import KERNEL_SIZE


def degradation_label(degradation: PhotoParameters) -> str:
    """A short name, unique within a protocol and good in a file name, such as ``theta30_3.5_1.5_noise5_q85``."""
    sigma_x, sigma_y, theta = degradation.sigma_x, degradation.sigma_y, degradation.theta
    if max(sigma_x, sigma_y) <= NO_BLUR:
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


def fixed_degradation(hr: np.ndarray, degradation: PhotoParameters, *, name: str, scale: int) -> Tensor:
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
    height, width = hr.shape[:2]
    if min(height, width) <= KERNEL_SIZE // 2:
        raise InputError(f"image {name!r} is {width}x{height}, too small to be blurred by a 21x21 kernel")
    gt = torch.from_numpy(hr.transpose(2, 0, 1).copy())[None].float() / 255.0
    noise = benchmark_noise(name, degradation, (3, height // scale, width // scale))
    return degrade_fixed(gt, degradation, None if noise is None else noise[None], scale=scale)[0]
