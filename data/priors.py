"""The degradation prior: blur kernels projected on a fixed basis, and what else was done to the image behind it.

Source: LightBSR (ICCV 2025), Sec. 3.1; the basis as in the released code (SRMD's projection). The prior of the
real-world setting, which its authors never released, is ours.
"""

import functools
import math

import torch
from torch import Tensor

from .kernels import gaussian_kernels
from .second_order import OrderParameters, SecondOrderParameters, identity_kernels
from .settings import DOWNSAMPLERS, NO_JPEG, NUM_KERNEL_COMPONENTS, NUM_NOISE_CHANNELS, DegradationSetting

_BASIS_SAMPLES = 5000
_BASIS_SEED = 0
_PHOTO_NOISE_UNIT = 15.0  # of 255
_PHOTO_JPEG_UNIT = 70.0


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


def degradation_prior(
    kernels: Tensor, noise_sigma: Tensor, *, basis: Tensor, setting: DegradationSetting, photo: Tensor | None = None
) -> Tensor:
    """The degradation as the teacher sees it.

    Classic settings (Sec. 3.2.1): ``kernels @ basis``, then the noise level three times if any. Others, which are ours:
    ``kernels @ basis``; level / 15 of Gaussian noise, of Poisson noise, and of noise that is the same in all channels;
    JPEG, (100 - quality) / 70, 0 for none; a one for the way to down-sample (bicubic, area, bilinear). Grain widths are
    left out.

    Args:
        kernels: (B, 21, 21).
        noise_sigma: (B,) on the 0-255 scale; unused where a classic setting has no noise.
        basis: (441, 15), ``kernel_basis`` or a teacher's own.
        setting: decides which channels there are.
        photo: (B, 4), ``PhotoParameters.scalars`` of each image; None: bicubic down-sampling, no JPEG. Unused in
            classic settings.

    Returns:
        (B, P), P = ``setting.num_prior_channels``.
    """
    prior = kernels.flatten(1) @ basis.to(kernels)
    if not setting.is_classic:
        if photo is None:
            photo = prior.new_tensor([0.0, 0.0, 0.0, NO_JPEG]).expand(len(prior), -1)
        poisson, gray, how, quality = photo.to(prior).unbind(1)
        level = noise_sigma.to(prior) / _PHOTO_NOISE_UNIT
        scalars = [level * (1 - poisson), level * poisson, level * gray, (NO_JPEG - quality) / _PHOTO_JPEG_UNIT]
        ways = [(how == i).to(prior) for i in range(len(DOWNSAMPLERS))]
        return torch.cat([prior, torch.stack([*scalars, *ways], dim=1)], dim=1)
    if setting.has_noise:
        noise = noise_sigma.to(kernels)[:, None].expand(-1, NUM_NOISE_CHANNELS)
        prior = torch.cat([prior, noise], dim=1)
    return prior


# These map Real-ESRGAN's ranges onto [0, 1]. They are fixed: a prior means the same whatever an option file says.
_NOISE_UNIT = 30.0  # of 255
_POISSON_UNIT = 3.0
_JPEG_UNIT = 100.0

SECOND_ORDER_PRIOR_CHANNELS = 3 * NUM_KERNEL_COMPONENTS + 2 * 5 + 1


def second_order_prior(parameters: SecondOrderParameters, *, basis: Tensor) -> Tensor:
    """The degradation prior of a second-order degradation; every channel lies in about [-3, 1].

    Channels, in this order: kernel 1, kernel 2 and sinc kernel on the basis (3 x 15); of the first and then of the
    second degradation: Gaussian noise level / 30, Poisson noise scale / 3, whether the noise is gray, log2 of the
    resize factor, JPEG quality / 100 (2 x 5); whether JPEG came last (1). A noise that was not drawn has level 0, a
    kernel that was not applied is a single 1. The interpolation modes are left out.

    Args:
        parameters: as ``SecondOrderDegradation`` returns them.
        basis: (441, 15), ``kernel_basis`` or a teacher's own.

    Returns:
        (B, 56)
    """
    first, second = parameters.first, parameters.second
    kernels = [k.flatten(1) @ basis.to(k) for k in (first.kernel, second.kernel, parameters.sinc_kernel)]
    scalars = [
        value
        for order in (first, second)
        for value in (
            order.noise_sigma / _NOISE_UNIT,
            order.poisson_scale / _POISSON_UNIT,
            order.gray_noise,
            order.resize.log2(),
            order.jpeg_quality / _JPEG_UNIT,
        )
    ]
    return torch.cat([*kernels, torch.stack([*scalars, parameters.jpeg_last], dim=1)], dim=1)


def classic_as_second_order(kernels: Tensor, noise_sigma: Tensor) -> SecondOrderParameters:
    """A classic degradation in the words of the second-order one, so that its teacher can be shown a benchmark.

    Args:
        kernels: (B, 21, 21) blur, then down-sampling.
        noise_sigma: (B,) of the noise that follows, on the 0-255 scale.
    """
    batch = kernels.shape[0]
    identity = identity_kernels(batch).to(kernels)
    zero, one = kernels.new_zeros(batch), kernels.new_ones(batch)
    first = OrderParameters(kernels, one, zero, zero, zero, 100 * one)
    second = OrderParameters(identity, one, noise_sigma.to(kernels), zero, zero, 100 * one)
    return SecondOrderParameters(first, second, identity, zero)
