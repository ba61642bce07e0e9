"""The classic degradation: blur, bicubic down-sampling, noise, rounding; pure functions on batches, on any device.

Source: LightBSR (ICCV 2025), Eq. 9; borders and rounding as in the released code (blur mirrors at the border, the
down-sampling replicates it).
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter every image with its own kernel; the border is mirrored without repeating the edge pixel.

    Args:
        images: (B, C, H, W), H and W larger than half the kernel.
        kernels: (B, k, k), k odd.

    Returns:
        (B, C, H, W)
    """
    batch, channels = images.shape[:2]
    padded = F.pad(images, [kernels.shape[-1] // 2] * 4, mode="reflect")
    # One group per plane, which is several times faster on the CPU than one per image.
    weight = kernels[:, None].to(images).repeat_interleave(channels, 0)  # (B C, 1, k, k)
    return F.conv2d(padded.flatten(0, 1)[None], weight, groups=batch * channels)[0].unflatten(0, (batch, channels))


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


@functools.cache
def _bicubic_taps(scale: int) -> tuple[Tensor, int]:
    """Weights of an antialiased down-sampling by ``scale``, and how many lie before the first of its pixels."""
    centre = (scale - 1) / 2  # of output pixel 0, in input pixels
    reach = math.ceil(2 * scale - centre) - 1  # the cubic is zero from 2 * scale on
    positions = torch.arange(-reach, scale + reach, dtype=torch.float64)
    weights = _cubic((positions - centre) / scale)
    return (weights / weights.sum()).float(), reach


def bicubic_downsample(images: Tensor, scale: int) -> Tensor:
    """MATLAB's antialiased bicubic (a = -0.5) by a whole factor, with replicated borders.

    Args:
        images: (B, C, H, W), H and W multiples of ``scale``.
        scale: whole factor >= 1.

    Returns:
        (B, C, H / scale, W / scale)

    Raises:
        ValueError: H or W is no multiple of ``scale``.
    """
    if scale == 1:
        return images
    height, width = images.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"the image is {width}x{height}, but both sides must be multiples of the scale, {scale}")
    weights, reach = _bicubic_taps(scale)
    x = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]  # (1, B C, H + .., W + ..)
    planes = x.shape[1]
    weights = weights.to(images).expand(planes, 1, 1, -1)
    x = F.conv2d(x, weights.mT, stride=(scale, 1), groups=planes)
    x = F.conv2d(x, weights, stride=(1, scale), groups=planes)
    return x[0].unflatten(0, images.shape[:2])


def to_8_bit(images: Tensor) -> Tensor:
    """Round (half to even) and clamp to the whole numbers 0..255 that an image file holds; the dtype stays."""
    return images.round().clamp(0, 255)


def downsample(images: Tensor, scale: int, how: str) -> Tensor:
    """Down-sample (B, C, H, W) by a whole factor that divides both sides: (B, C, H / scale, W / scale).

    Args:
        how: ``bicubic`` (``bicubic_downsample``), ``area`` (the mean of scale x scale pixels) or ``bilinear`` (a
            triangle of twice the factor's width, as Pillow and antialiased PyTorch have it).
    """
    if how == "area":
        return F.avg_pool2d(images, scale)
    if how == "bilinear":
        return F.interpolate(images, scale_factor=1 / scale, mode="bilinear", antialias=True)
    return bicubic_downsample(images, scale)


def degrade(images: Tensor, kernels: Tensor, noise: Tensor | None, *, scale: int, how: str = "bicubic") -> Tensor:
    """Make LR images of HR images (Eq. 9).

    Args:
        images: (B, C, H, W) in [0, 1], H and W multiples of ``scale``.
        kernels: (B, k, k), summing to 1.
        noise: (B, C, H / scale, W / scale) to be added, on the 0-255 scale, or None.
        scale: 2, 3 or 4.
        how: as of ``downsample``.

    Returns:
        (B, C, H / scale, W / scale) in [0, 1], multiples of 1/255.
    """
    lq = downsample(blur(images * 255.0, kernels), scale, how)
    if noise is not None:
        lq = lq + noise
    return to_8_bit(lq) / 255.0


class ClassicDegradation:
    """``degrade`` for D views of B images, as the models use it on the training device.

    Args:
        scale: 2, 3 or 4.
    """

    def __init__(self, *, scale: int) -> None:
        self.scale = scale

    def __call__(
        self, gt: Tensor, kernel: Tensor, noise_sigma: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """All views of an image share its kernel and noise level; the noise itself is drawn for every view.

        Args:
            gt: (B, D, 3, H, W) in [0, 1], H and W multiples of the scale.
            kernel: (B, k, k).
            noise_sigma: (B,) on the 0-255 scale, or None for no noise, which draws no random numbers.
            generator: of the noise, on the device of ``gt``; None draws from torch's own.

        Returns:
            (B, D, 3, H / scale, W / scale) in [0, 1].
        """
        batch, views, channels, height, width = gt.shape
        size = (batch, views * channels, height // self.scale, width // self.scale)
        noise = None
        if noise_sigma is not None:
            noise = torch.randn(size, generator=generator, device=gt.device, dtype=gt.dtype)
            noise = noise * noise_sigma.to(gt)[:, None, None, None]
        lq = degrade(gt.flatten(1, 2), kernel, noise, scale=self.scale)
        return lq.view(batch, views, channels, *lq.shape[-2:])
