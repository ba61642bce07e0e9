"""Layers that all networks of this package share.

Sources: EDSR (CVPRW 2017) for head, tail and mean shift; ConvNeXt (CVPR 2022), Fig. 4, for the residual branch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .pretrained import Pretrained

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
        num_feat: input channels.
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

    It works on the LR grid alone; in networks of few channels EDSR's tail is more than half of the work.
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
    """EDSR-style head, long skip and tail; a subclass defines ``body``, (B, num_feat, h, w) -> the same shape.

    Args and shapes: those of ``build_tail``; the image is not clamped.

    Attributes:
        takes_averages: whether the blocks take averages over the image plane (``pooling``).
    """

    takes_averages = False

    def __init__(self, *, num_feat: int, upscale: int, upsampler: str) -> None:
        super().__init__()
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body_conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = build_tail(upsampler, num_feat=num_feat, upscale=upscale)
        self.add_mean = MeanShift(sign=1)

    def body(self, x: Tensor, *guidance: Any) -> Tensor:
        raise NotImplementedError

    def forward(self, lq: Tensor, *guidance: Any) -> Tensor:
        """Super-resolve: (B, 3, h, w) -> (B, 3, h * upscale, w * upscale); ``guidance`` is passed to ``body``."""
        head = self.head(self.sub_mean(lq))
        return self.add_mean(self.tail(self.body_conv(self.body(head, *guidance)) + head))


class SROutput(NamedTuple):
    """The SR image (B, 3, h * upscale, w * upscale), not clamped, and the IDR that guided it."""

    sr: Tensor
    idr: Any


class BlindSRNetwork(Pretrained):
    """Base of students and teachers: an estimated IDR guides the SR network.

    A student takes the LR image alone; a teacher takes a condition too, the degradation prior or the HR image.
    """

    sr_network: SRFrame
    estimate_idr: Callable[..., Any]  # (lq, *condition) -> IDR

    def forward(self, lq: Tensor, *condition: Tensor) -> Tensor:
        """Super-resolve: (B, 3, h, w) in [0, 1], h, w >= 1 -> (B, 3, h * upscale, w * upscale), not clamped."""
        return self.forward_with_idr(lq, *condition).sr

    def forward_with_idr(self, lq: Tensor, *condition: Tensor) -> SROutput:
        """As ``forward``, with the IDR (for distillation)."""
        idr = self.estimate_idr(lq, *condition)
        return SROutput(self.super_resolve(lq, idr), idr)

    def super_resolve(self, lq: Tensor, idr: Any) -> Tensor:
        """Super-resolve, guided by an IDR that was estimated before."""
        return self.sr_network(lq, idr)


class ConvNeXtBranch(nn.Module):
    """The residual branch of a ConvNeXt block, added to a shortcut.

    Depthwise 7x7 -> LayerNorm -> Linear(n -> 2n) -> GELU -> Linear(2n -> n) -> layer scale.

    Args:
        num_feat: channels n.
        layer_scale_init: initial value of the layer scale, one factor a channel (1e-6 in the paper's code).

    Shape:
        x (B, n, h, w), shortcut (B, n, h, w) -> (B, n, h, w)
    """

    def __init__(self, *, num_feat: int, layer_scale_init: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(num_feat, num_feat, 7, padding=3, groups=num_feat)
        self.norm = nn.LayerNorm(num_feat, eps=1e-6)
        self.expand = nn.Linear(num_feat, 2 * num_feat)
        self.act = nn.GELU()
        self.reduce = nn.Linear(2 * num_feat, num_feat)
        self.layer_scale = nn.Parameter(torch.full((num_feat,), layer_scale_init))

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        x = self.depthwise(x).permute(0, 2, 3, 1)  # (B, h, w, n)
        x = self.reduce(self.act(self.expand(self.norm(x))))
        return shortcut + (self.layer_scale * x).permute(0, 3, 1, 2)


def encode_setting(name: str) -> Tensor:
    """The name of a degradation setting as a tensor, for a buffer beside a teacher's weights: (len,) uint8."""
    return torch.tensor(list(name.encode()), dtype=torch.uint8)


def decode_setting(code: Tensor) -> str:
    """The inverse of ``encode_setting``; '' if unknown."""
    return bytes(code.tolist()).decode()
