"""The implicit degradation representation (IDR) of LightBSR: how it is estimated, converted and corrected.

Source: LightBSR (ICCV 2025), Sec. 3.2-3.3. The sizes are those of the released code, which give Table 3's GFLOPs.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class IDR(NamedTuple):
    """What the converter makes of the estimator's output, and what the SR network is guided by.

    Attributes:
        channel: (B, C), C = 48 in the paper.
        spatial: (B, S, h, w), S = 8 in the paper.
    """

    channel: Tensor
    spatial: Tensor


class IDREstimator(nn.Sequential):
    """Six 3x3 convolutions with BatchNorm and LeakyReLU(0.1), the third and fifth with stride 2.

    Args:
        num_in_ch: 3 for the student (the LR image), 3 + P for the teacher (the stretched prior behind it).
        num_idr: channels that come out (128); the first layers have a quarter and a half of them.

    Shape:
        (B, num_in_ch, h, w) -> (B, num_idr, ceil(h / 4), ceil(w / 4)); the raw image, without mean shift. Or, for the
        same result at less cost, the image (B, 3, h, w) and the prior (B, P) that would have been stretched and joined.
    """

    def __init__(self, *, num_in_ch: int = 3, num_idr: int = 128) -> None:
        quarter, half = num_idr // 4, num_idr // 2
        widths = (num_in_ch, quarter, quarter, half, half, num_idr, num_idr)
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            stride = 2 if i in (2, 4) else 1
            layers += [nn.Conv2d(n_in, n_out, 3, stride, 1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.1)]
        super().__init__(*layers)

    def forward(self, x: Tensor, degradation_prior: Tensor | None = None) -> Tensor:
        if degradation_prior is None:
            return super().forward(x)
        first: nn.Conv2d = self[0]  # type: ignore[assignment]
        n, (h, w) = x.shape[1], x.shape[-2:]
        of_image = F.conv2d(x, first.weight[:, :n], first.bias, padding=1)
        x = of_image + convolve_stretched(degradation_prior.to(x), first.weight[:, n:], (h, w))
        for layer in list(self)[1:]:
            x = layer(x)
        return x


class IDRConverter(nn.Module):
    """Turn the estimator's output into a channel IDR and a spatial IDR.

    Channel: global average pool -> Linear without bias -> GELU.
    Spatial: PixelShuffle(4) -> crop to the top-left h x w -> Conv3x3 -> GELU.

    Args:
        num_idr: channels of the estimator's output, a multiple of 16.
        num_channel_idr: length of the channel IDR.

    Shape:
        (B, num_idr, ceil(h / 4), ceil(w / 4)), (h, w) -> channel (B, num_channel_idr), spatial (B, num_idr / 16, h, w)
    """

    def __init__(self, *, num_idr: int = 128, num_channel_idr: int = 48) -> None:
        super().__init__()
        num_spatial_idr = num_idr // 16
        self.to_channel = nn.Sequential(nn.Linear(num_idr, num_channel_idr, bias=False), nn.GELU())
        self.shuffle = nn.PixelShuffle(4)
        self.to_spatial = nn.Sequential(nn.Conv2d(num_spatial_idr, num_spatial_idr, 3, padding=1), nn.GELU())

    def forward(self, features: Tensor, size: tuple[int, int]) -> IDR:
        channel = self.to_channel(features.mean((2, 3)))  # (B, num_channel_idr)
        return IDR(channel, self.spatial(features, size))

    def spatial(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The spatial IDR alone, which depends on near features only: (B, num_idr / 16, h, w)."""
        h, w = size
        return self.to_spatial(self.shuffle(features)[..., :h, :w])


class IDRCorrectionBlock(nn.Module):
    """IDR-CB: a residual correction of both IDRs at the entry of every group.

    Args:
        num_channel_idr: length of the channel IDR.
        num_spatial_idr: channels of the spatial IDR.

    Shape:
        IDR -> IDR of the same shapes
    """

    def __init__(self, *, num_channel_idr: int = 48, num_spatial_idr: int = 8) -> None:
        super().__init__()
        n, m = num_channel_idr, num_spatial_idr
        self.channel_branch = nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n), nn.GELU())
        self.spatial_branch = nn.Sequential(
            nn.Conv2d(m, 2 * m, 3, padding=1), nn.GELU(), nn.Conv2d(2 * m, m, 3, padding=1), nn.GELU()
        )

    def forward(self, idr: IDR) -> IDR:
        return IDR(idr.channel + self.channel_branch(idr.channel), idr.spatial + self.spatial_branch(idr.spatial))


def fixed_uniform_noise(like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), the same for every tensor of these sizes: (B, C, h, w) -> (B, C, h, w)."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(like.shape[1:], generator=generator).to(like).expand_as(like)


def stretch_prior(degradation_prior: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat a degradation prior over the image plane: (B, P), (h, w) -> (B, P, h, w)."""
    return degradation_prior[:, :, None, None].expand(-1, -1, *size)


def convolve_stretched(values: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """A zero-padded 3x3 convolution of values stretched over the image plane, computed on 3x3 pixels.

    All pixels but the border's have the same sum: the middle row and column of the small map are repeated.

    Args:
        values: (B, P).
        weight: (n, P, 3, 3).
        size: (h, w).

    Returns:
        (B, n, h, w), as ``F.conv2d(stretch_prior(values, size), weight, padding=1)``.
    """
    h, w = size
    y = F.conv2d(stretch_prior(values, (min(h, 3), min(w, 3))), weight, padding=1)
    if h > 3:
        y = torch.cat([y[:, :, :1], y[:, :, 1:2].expand(-1, -1, h - 2, -1), y[:, :, 2:]], dim=2)
    if w > 3:
        y = torch.cat([y[..., :1], y[..., 1:2].expand(-1, -1, -1, w - 2), y[..., 2:]], dim=3)
    return y


def join_prior(lq: Tensor, degradation_prior: Tensor) -> Tensor:
    """Put the stretched prior behind the image's channels: (B, 3, h, w), (B, P) -> (B, 3 + P, h, w)."""
    h, w = lq.shape[-2:]
    return torch.cat([lq, stretch_prior(degradation_prior.to(lq), (h, w))], dim=1)
