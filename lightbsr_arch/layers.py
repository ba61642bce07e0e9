"""Layers that every network of this package shares (torch only, so the file can be lifted out).

Sources: LightBSR (ICCV 2025) Sec. 3; EDSR for the tail; ConvNeXt (CVPR 2022) Fig. 4 for the residual branch.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pooling import Pool, SampledAverages, global_average

# RGB mean of DIV2K, in [0, 1]; the SR networks work on mean-shifted images.
DIV2K_RGB_MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Module):
    """Add ``sign`` times the DIV2K RGB mean to an image.

    Args:
        sign: -1 before the head, +1 after the tail.

    Shape:
        (B, 3, H, W) -> (B, 3, H, W), nominally in [0, 1] before (or after) the shift.
    """

    mean: Tensor

    def __init__(self, *, sign: int) -> None:
        super().__init__()
        mean = torch.tensor([sign * value for value in DIV2K_RGB_MEAN]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mean


class PixelShuffleTail(nn.Module):
    """EDSR's tail, the papers': sub-pixel convolutions up to ``upscale``, then a 3x3 convolution to RGB.

    Args:
        num_feat: channels that come in.
        upscale: 2, 3 or 4 (x4 is two steps of x2).

    Shape:
        (B, num_feat, h, w) -> (B, 3, h * upscale, w * upscale)
    """

    def __init__(self, *, num_feat: int, upscale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in {2: (2,), 3: (3,), 4: (2, 2)}[upscale]:
            layers += [nn.Conv2d(num_feat, step * step * num_feat, 3, padding=1), nn.PixelShuffle(step)]
        self.upsample = nn.Sequential(*layers)
        self.conv = nn.Conv2d(num_feat, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.upsample(x))


class PixelShuffleDirectTail(nn.Sequential):
    """One convolution to 3 * upscale^2 channels and one PixelShuffle, as in SwinIR's lightweight networks.

    All of its work is done on the LR grid: for networks of few channels EDSR's tail is more than half of the work.
    Arguments and shapes: those of ``PixelShuffleTail``.
    """

    def __init__(self, *, num_feat: int, upscale: int) -> None:
        super().__init__(nn.Conv2d(num_feat, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))


UPSAMPLERS = {"pixelshuffle": PixelShuffleTail, "pixelshuffledirect": PixelShuffleDirectTail}


def build_tail(upsampler: str, *, num_feat: int, upscale: int) -> nn.Module:
    """The tail of that name in ``UPSAMPLERS``: (B, num_feat, h, w) -> (B, 3, h * upscale, w * upscale).

    Raises:
        ValueError: no such upsampler, or ``upscale`` is none of 2, 3, 4.
    """
    if upsampler not in UPSAMPLERS:
        raise ValueError(f"upsampler is {upsampler!r}, but must be {' or '.join(map(repr, UPSAMPLERS))}")
    if upscale not in (2, 3, 4):
        raise ValueError(f"upscale is {upscale!r}, but this network is defined for 2, 3 and 4 only")
    return UPSAMPLERS[upsampler](num_feat=num_feat, upscale=upscale)


class SRFrame(nn.Module):
    """EDSR-style head, long skip and tail around a body that a subclass adds.

    Args and shapes: those of ``build_tail``; the image is not clamped.

    Attributes:
        takes_averages: whether the body has global averages (``pooling``).
    """

    takes_averages = False

    def __init__(self, *, num_feat: int, upscale: int, upsampler: str) -> None:
        super().__init__()
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body_conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = build_tail(upsampler, num_feat=num_feat, upscale=upscale)
        self.add_mean = MeanShift(sign=1)

    def body(self, x: Tensor, idr: Any, pool: Pool = global_average) -> Tensor:
        """The blocks, guided by an IDR: (B, num_feat, h, w) -> (B, num_feat, h, w); ``pool`` takes their averages."""
        raise NotImplementedError

    def forward(self, lq: Tensor, idr: Any, pool: Pool = global_average) -> Tensor:
        """Super-resolve: (B, 3, h, w) -> (B, 3, h * upscale, w * upscale)."""
        head = self.head(self.sub_mean(lq))
        return self.add_mean(self.tail(self.body_conv(self.body(head, idr, pool)) + head))

    def sample_averages(self, patches: Tensor, idr: Any, weights: Tensor) -> Tensor:
        """What the blocks' global averages are in a large image, estimated from patches of it.

        Args:
            patches: (B, 3, h, w).
            idr: that of the large image, as far as it differs from place to place that of every patch.
            weights: (B, 1, h, w), what each pixel counts.

        Returns:
            (N, C) for ``GivenAverages``, float32; exact where the patch is the image and all weights are equal.
        """
        pool = SampledAverages(weights)
        self.body(self.head(self.sub_mean(patches)), idr, pool)
        return pool.averages


def encode_setting(name: str) -> Tensor:
    """The name of a degradation setting as a tensor, which a teacher can keep beside its weights: (len,) uint8."""
    return torch.tensor(list(name.encode()), dtype=torch.uint8)


def decode_setting(code: Tensor) -> str:
    """The name that ``encode_setting`` made ``code`` of ('' if unknown)."""
    return bytes(code.tolist()).decode()


def _on_cpu_step_by_step(x: Tensor) -> bool:
    """Whether an operator is about to run on the CPU by itself: not on a GPU, nor in a traced or compiled graph."""
    return x.device.type == "cpu" and not (torch.jit.is_tracing() or torch.compiler.is_compiling())


class DepthwiseConv(nn.Conv2d):
    """A convolution of every channel by itself, the border padded with zeros: (B, n, h, w) -> (B, n, h, w).

    With gradients on the CPU the bias is added by itself: its gradient within oneDNN's convolution takes a quarter of
    the backward pass, and next to nothing as a sum of its own.
    """

    def __init__(self, num_feat: int, kernel_size: int) -> None:
        super().__init__(num_feat, num_feat, kernel_size, padding=kernel_size // 2, groups=num_feat)

    def forward(self, x: Tensor) -> Tensor:
        if not (_on_cpu_step_by_step(x) and torch.is_grad_enabled()):
            return super().forward(x)
        assert self.bias is not None
        y = self._conv_forward(x, self.weight, None)
        return y + self.bias[:, None, None].to(y.dtype)  # under autocast: that of the convolution


def in_strips(function: Callable[[Tensor], Tensor], x: Tensor, num_pixels: int = 4096) -> Tensor:
    """Apply a function of single pixels to so many at a time, since what it makes on the way then stays in the cache.

    Args:
        function: (b, h, w, n) -> (b, h, w, n) for all b, h and w, of whatever type.
        x: (B, h, w, n).

    Returns:
        (B, h, w, n), as ``function(x)``.
    """
    b, h, w, n = x.shape
    if b * h * w <= num_pixels:
        return function(x)
    first, *others = x.reshape(1, 1, b * h * w, n).split(num_pixels, dim=2)
    y = function(first)
    result = y.new_empty(x.shape)
    place, *places = result.view(1, 1, b * h * w, n).split(num_pixels, dim=2)
    place.copy_(y)
    for place, strip in zip(places, others, strict=True):
        place.copy_(function(strip))
    return result


def _pixel_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not _on_cpu_step_by_step(x):
        return F.linear(x, weight, bias)
    return F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias).permute(0, 2, 3, 1)


class PixelLinear(nn.Linear):
    """A linear layer over the last axis of a feature map: (B, h, w, n_in) -> (B, h, w, n_out).

    On the CPU, step by step, it is computed as a 1x1 convolution of the map laid out channels last, which oneDNN does
    at up to twice the rate of the BLAS (``benchmarks/``). GPUs, traced and compiled graphs get the matrix product.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """``scale`` (n_out,) multiplies the result; in full precision on the CPU it multiplies the weights instead."""
        if scale is None:
            return _pixel_linear(x, self.weight, self.bias)
        if not _on_cpu_step_by_step(x) or torch.is_autocast_enabled("cpu"):
            return scale * _pixel_linear(x, self.weight, self.bias)
        return _pixel_linear(x, scale[:, None] * self.weight, scale * self.bias)


class ConvNeXtBranch(nn.Module):
    """The residual branch of a ConvNeXt block; the caller adds the shortcut.

    Depthwise 7x7 -> LayerNorm -> Linear(n -> 2n) -> GELU -> Linear(2n -> n) -> layer scale.

    Args:
        num_feat: channels n.
        layer_scale_init: first value of the per-channel layer scale (1e-6 in the paper's code).

    Shape:
        (B, n, h, w) -> (B, n, h, w)
    """

    def __init__(self, *, num_feat: int, layer_scale_init: float) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(num_feat, 7)
        self.norm = nn.LayerNorm(num_feat, eps=1e-6)
        self.expand = PixelLinear(num_feat, 2 * num_feat)
        self.act = nn.GELU()
        self.reduce = PixelLinear(2 * num_feat, num_feat)
        self.layer_scale = nn.Parameter(torch.full((num_feat,), layer_scale_init))

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x).permute(0, 2, 3, 1)  # (B, h, w, n): free of copies in channels_last
        strips = _on_cpu_step_by_step(x) and not torch.is_grad_enabled()
        x = in_strips(self._of_pixels, x) if strips else self._of_pixels(x)
        return x.permute(0, 3, 1, 2)

    def _of_pixels(self, x: Tensor) -> Tensor:
        """What follows the depthwise convolution, every pixel by itself: (B, h, w, n) -> (B, h, w, n)."""
        return self.reduce(self.act(self.expand(self.norm(x))), scale=self.layer_scale)
