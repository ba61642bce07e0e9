"""The degradation prior: blur kernels projected on a fixed basis, and the noise level behind it.

Source: LightBSR (ICCV 2025), Sec. 3.1; the basis as in the released code (SRMD's projection).
"""

import functools
import math

import torch
from torch import Tensor

from .kernels import gaussian_kernels
from .settings import NUM_KERNEL_COMPONENTS, NUM_NOISE_CHANNELS, DegradationSetting

_BASIS_SAMPLES = 5000
_BASIS_SEED = 0


@functools.cache
def _cached_basis() -> Tensor:
    generator = torch.Generator().manual_seed(_BASIS_SEED)
    draws = torch.rand(3, _BASIS_SAMPLES, generator=generator, dtype=torch.float64)
    variance_1 = 0.1 + 10.0 * draws[0]
    variance_2 = 0.1 + (variance_1 - 0.1) * draws[1]
    kernels = gaussian_kernels(variance_1.sqrt(), variance_2.sqrt(), math.pi * draws[2]).flatten(1)  # (5000, 441)
    vectors = torch.linalg.eigh(kernels.T @ kernels / _BASIS_SAMPLES).eigenvectors  # eigenvalues ascend
    basis = vectors.flip(1)[:, :NUM_KERNEL_COMPONENTS]
    # An eigenvector's sign is the library's choice: fix it, so that every machine has the same prior.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return (basis * largest.sign()).float()


def kernel_basis() -> Tensor:
    """The 15 leading eigenvectors of the uncentred second moment of 5000 random anisotropic 21x21 kernels.

    Their variances are l1 ~ U(0.1, 10.1), l2 ~ U(0.1, l1), their angle ~ U(0, pi); the seed is fixed. Used for
    ``iso`` too.

    Returns:
        (441, 15) float32 with orthonormal columns; a kernel is flattened row by row.
    """
    return _cached_basis().clone()


def degradation_prior(kernels: Tensor, noise_sigma: Tensor, *, basis: Tensor, setting: DegradationSetting) -> Tensor:
    """What the teacher is told of the degradation: ``kernels @ basis``, then the noise level three times if any.

    Args:
        kernels: (B, 21, 21).
        noise_sigma: (B,) on the 0-255 scale; unused where the setting has no noise.
        basis: (441, 15), ``kernel_basis`` or a teacher's own.
        setting: decides whether the noise level belongs to the prior.

    Returns:
        (B, P), P = ``setting.num_prior_channels``.
    """
    prior = kernels.flatten(1) @ basis.to(kernels)
    if setting.has_noise:
        noise = noise_sigma.to(kernels)[:, None].expand(-1, NUM_NOISE_CHANNELS)
        prior = torch.cat([prior, noise], dim=1)
    return prior
