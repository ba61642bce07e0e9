"""The implicit degradation representation (IDR) of LightBSR: how it is estimated, converted and corrected.

Source: LightBSR (ICCV 2025), Sec. 3.1 and Fig. 2. The sizes are those that give Table 3's GFLOPs.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class IDR(NamedTuple):
    """The implicit degradation representation, which guides the SR network.

    Attributes:
        channel: (B, C), C = 48 in the paper.
        spatial: (B, S, h, w), S = 8 in the paper.
    """

    channel: Tensor
    spatial: Tensor


class IDREstimator(nn.Sequential):
    """IDR-EM (Sec. 3.1.1): six 3x3 convolutions with BatchNorm and LeakyReLU(0.1), the third and fifth with stride 2.

    Args:
        num_in_ch: 3 for the student (the LR image), 3 + P for the teacher (the stretched prior behind it).
        num_idr: output channels (128); the first layers have a quarter and a half of them.

    Shape:
        (B, 3, h, w), prior (B, P) or None -> (B, num_idr, ceil(h / 4), ceil(w / 4)); the image without mean shift
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
        return super().forward(x if degradation_prior is None else join_prior(x, degradation_prior))


class IDRConverter(nn.Module):
    """Convert the estimator's output into a channel IDR and a spatial IDR (Sec. 3.1.1).

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
        """The spatial IDR alone: (B, num_idr / 16, h, w)."""
        h, w = size
        # Not a slice, which PyTorch 2.11 cannot export with sizes that are not fixed.
        return self.to_spatial(self.shuffle(features).narrow(2, 0, h).narrow(3, 0, w))


class IDRCorrectionBlock(nn.Module):
    """IDR-CB (Sec. 3.1.2): a residual correction of both IDRs at the entry of every group.

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


def stretch_prior(degradation_prior: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat a degradation prior over the image plane: (B, P), (h, w) -> (B, P, h, w)."""
    return degradation_prior[:, :, None, None].expand(-1, -1, *size)


def join_prior(lq: Tensor, degradation_prior: Tensor) -> Tensor:
    """Put the stretched prior behind the image's channels: (B, 3, h, w), (B, P) -> (B, 3 + P, h, w)."""
    h, w = lq.shape[-2:]
    return torch.cat([lq, stretch_prior(degradation_prior.to(lq), (h, w))], dim=1)
