"""Gaussian blur kernels, isotropic and anisotropic, as batches of tensors.

Source: LightBSR (ICCV 2025), Eq. 9 and Sec. 4.1; the widths are standard deviations, as in the released code (the paper
calls them eigenvalues of the covariance).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .settings import KERNEL_SIZE, DegradationSetting


class DegradationParameters(NamedTuple):
    """One classic degradation per image of a batch.

    Attributes:
        sigma_x: (B,) kernel width along the rotated first axis, in HR pixels.
        sigma_y: (B,) kernel width along the rotated second axis, in HR pixels.
        theta: (B,) angle from the column axis towards the row axis, in radians.
        noise_sigma: (B,) standard deviation of the noise on the 0-255 scale.
    """

    sigma_x: Tensor
    sigma_y: Tensor
    theta: Tensor
    noise_sigma: Tensor


def sample_degradation(setting: DegradationSetting, batch: int, generator: torch.Generator) -> DegradationParameters:
    """Draw classic degradations of ``batch`` images, on the generator's device, all uniform in the setting's ranges."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator, device=generator.device)

    sigma_x = uniform(*setting.sigma)
    if setting.isotropic:
        sigma_y, theta = sigma_x, torch.zeros_like(sigma_x)
    else:
        sigma_y, theta = uniform(*setting.sigma), uniform(*setting.theta)
    noise_sigma = uniform(*setting.noise_sigma) if setting.has_noise else torch.zeros_like(sigma_x)
    return DegradationParameters(sigma_x, sigma_y, theta, noise_sigma)


def gaussian_kernels(sigma_x: Tensor, sigma_y: Tensor, theta: Tensor, *, size: int = KERNEL_SIZE) -> Tensor:
    """Gaussian kernels exp(-v' C^-1 v / 2), C = R diag(sigma_x^2, sigma_y^2) R', R the rotation by theta.

    v is (column offset rightwards, row offset downwards) from the centre, in whole pixels.

    Args:
        sigma_x, sigma_y: (B,) positive widths in pixels.
        theta: (B,) angles in radians.
        size: odd side length.

    Returns:
        (B, size, size), each summing to 1, of the inputs' dtype and device.

    Raises:
        ValueError: ``size`` is even.
    """
    if size % 2 == 0:
        raise ValueError(f"size is {size}, but a blur kernel needs an odd side length")
    sigma_x, sigma_y, theta = (p[:, None, None] for p in (sigma_x, sigma_y, theta))  # (B, 1, 1)
    offset = torch.arange(size, dtype=sigma_x.dtype, device=sigma_x.device) - size // 2
    column, row = offset[None, None, :], offset[None, :, None]
    along = column * theta.cos() + row * theta.sin()  # first component of R' v
    across = row * theta.cos() - column * theta.sin()  # second component of R' v
    kernels = torch.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))  # (B, size, size)
    return kernels / kernels.sum((1, 2), keepdim=True)
