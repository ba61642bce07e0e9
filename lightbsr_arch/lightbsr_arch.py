"""LightBSR, the student: blind super-resolution guided by an implicit degradation representation (IDR).

Source: LightBSR (ICCV 2025), Sec. 3.1 and Fig. 2. Where paper and released code differ the code's form is built, since
it is the one that gives Table 3's GFLOPs: the spatial modulation is a 1x1 and a 3x3 convolution (paper: two 3x3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .idr import IDR, IDRConverter, IDRCorrectionBlock, IDREstimator
from .layers import BlindSRNetwork, ConvNeXtBranch, SRFrame
from .pooling import Pool, SampledAverages, global_average


@dataclass(frozen=True)
class LightBSRSizes:
    """The sizes and ablations of a LightBSR network, as ``LightBSR`` documents them; student and teacher share them.

    Raises:
        ValueError: sizes that do not fit together.
    """

    num_feat: int
    num_group: int
    num_block: int
    upscale: int
    upsampler: str
    num_idr: int
    num_channel_idr: int
    layer_scale_init: float
    spatial_modulation: bool
    channel_modulation: bool
    idr_correction: bool

    def __post_init__(self) -> None:
        for name in ("num_group", "num_block", "num_channel_idr"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.num_feat < 4 or self.num_feat % 4:
            raise ValueError(
                f"num_feat is {self.num_feat}, but must be a positive multiple of 4 (split 1 : 3 in every block)"
            )
        if self.num_idr < 16 or self.num_idr % 16:
            raise ValueError(f"num_idr is {self.num_idr}, but must be a positive multiple of 16 (PixelShuffle(4))")

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "LightBSRSizes":
        """Pick the sizes out of the arguments of a network's constructor."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    @property
    def num_spatial_idr(self) -> int:
        """Channels of the spatial IDR: PixelShuffle(4) of the estimator's output."""
        return self.num_idr // 16


class IDRModulation(nn.Module):
    """Gate a quarter of the channels by the spatial IDR and the rest by the channel IDR (Sec. 3.1.2).

    The gated quarter then passes a 5x5 convolution (partial convolution, as in FasterNet). Either gate can be left out
    (Table 2's ablations); its channels then pass as they are.

    Shape:
        (B, num_feat, h, w), IDR -> (B, num_feat, h, w); ``pool`` takes the channel gate's global average
    """

    def __init__(self, sizes: LightBSRSizes) -> None:
        super().__init__()
        self.widths = (sizes.num_feat // 4, sizes.num_feat - sizes.num_feat // 4)  # 16 | 48
        n_spatial, n_channel = self.widths
        self.spatial_gate = self.channel_gate = None
        if sizes.spatial_modulation:
            self.spatial_gate = nn.Sequential(
                nn.Conv2d(sizes.num_spatial_idr + n_spatial, n_spatial, 1, bias=False),
                nn.GELU(),
                nn.Conv2d(n_spatial, n_spatial, 3, padding=1, bias=False),
                nn.Sigmoid(),
            )
        self.partial_conv = nn.Conv2d(n_spatial, n_spatial, 5, padding=2, bias=False)
        if sizes.channel_modulation:
            n_joined = n_channel + sizes.num_channel_idr
            self.channel_gate = nn.Sequential(
                nn.Linear(n_joined, n_joined // 4, bias=False),
                nn.GELU(),
                nn.Linear(n_joined // 4, n_channel, bias=False),
                nn.Sigmoid(),
            )

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        part, rest = x.split(self.widths, dim=1)
        if self.spatial_gate is not None:
            part = part * self.spatial_gate(torch.cat([idr.spatial, part], dim=1))
        if self.channel_gate is not None:
            gate = self.channel_gate(torch.cat([pool(rest), idr.channel], dim=1))  # (B, 48)
            rest = rest * gate[:, :, None, None]
        return torch.cat([self.partial_conv(part), rest], dim=1)


class IDRAdaptationBlock(nn.Module):
    """IDR-AB (Sec. 3.1.2): modulation by the IDR, GELU, then a ConvNeXt branch; the input is added."""

    def __init__(self, sizes: LightBSRSizes) -> None:
        super().__init__()
        self.modulation = IDRModulation(sizes)
        self.act = nn.GELU()
        self.branch = ConvNeXtBranch(num_feat=sizes.num_feat, layer_scale_init=sizes.layer_scale_init)

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        return self.branch(self.act(self.modulation(x, idr, pool)), x)


class IDRAdaptationGroup(nn.Module):
    """IDR-AG (Sec. 3.1.2): correct the IDRs, run the blocks, a ConvNeXt block and a 3x3 convolution, add the input.

    The corrected IDRs are returned too: the next group corrects them further.
    """

    def __init__(self, sizes: LightBSRSizes) -> None:
        super().__init__()
        self.correction: nn.Module = nn.Identity()
        if sizes.idr_correction:
            self.correction = IDRCorrectionBlock(
                num_channel_idr=sizes.num_channel_idr, num_spatial_idr=sizes.num_spatial_idr
            )
        self.blocks = nn.ModuleList(IDRAdaptationBlock(sizes) for _ in range(sizes.num_block))
        self.branch = ConvNeXtBranch(num_feat=sizes.num_feat, layer_scale_init=sizes.layer_scale_init)
        self.conv = nn.Conv2d(sizes.num_feat, sizes.num_feat, 3, padding=1)

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> tuple[Tensor, IDR]:
        idr = self.correction(idr)
        y = x
        for block in self.blocks:
            y = block(y, idr, pool)
        y = self.branch(y, y)
        return x + self.conv(y), idr


class IDRGuidedSRNetwork(SRFrame):
    """Head, IDR-AGs and tail, for student and teacher.

    Shape:
        lq (B, 3, h, w), IDR -> (B, 3, h * upscale, w * upscale), not clamped. Where lq is a tile of a larger image, a
        third argument, ``pool``, gives the blocks that image's averages (``pooling``).
    """

    def __init__(self, sizes: LightBSRSizes) -> None:
        super().__init__(num_feat=sizes.num_feat, upscale=sizes.upscale, upsampler=sizes.upsampler)
        self.takes_averages = sizes.channel_modulation
        self.groups = nn.ModuleList(IDRAdaptationGroup(sizes) for _ in range(sizes.num_group))

    def body(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        for group in self.groups:
            x, idr = group(x, idr, pool)
        return x

    def sample_averages(self, patches: Tensor, idr: IDR, weights: Tensor) -> Tensor:
        """Estimate the blocks' global averages in a large image from patches of it.

        Args:
            patches: (B, 3, h, w).
            idr: the large image's channel IDR, and the spatial IDR of every patch.
            weights: (B, 1, h, w), of every pixel in the averages.

        Returns:
            (N, C) for ``GivenAverages``, float32; exact where the patch is the image and all weights are equal.
        """
        pool = SampledAverages(weights)
        self.body(self.head(self.sub_mean(patches)), idr, pool)
        return pool.averages


class LightBSR(BlindSRNetwork):
    """LightBSR's student: sees the LR image alone.

    Args:
        num_feat: channels of the SR network, a multiple of 4.
        num_group: IDR-AGs.
        num_block: IDR-ABs in each group.
        upscale: 2, 3 or 4.
        upsampler: ``pixelshuffle``, EDSR's tail as in the paper, or ``pixelshuffledirect``, one convolution.
        num_idr: channels of the estimator's output, a multiple of 16; the spatial IDR has a sixteenth of them.
        num_channel_idr: length of the channel IDR.
        layer_scale_init: first value of the layer scales.
        spatial_modulation, channel_modulation: whether the blocks are gated by the spatial and by the channel IDR;
            False is an ablation (Table 2).
        idr_correction: whether the groups have IDR-CBs; False is an ablation (Table 2).

    The defaults are the paper's (x4: 3,259,947 trainable parameters; 205.93 GMACs at a 256x256 LR image).

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        *,
        num_feat: int = 64,
        num_group: int = 8,
        num_block: int = 8,
        upscale: int = 4,
        upsampler: str = "pixelshuffle",
        num_idr: int = 128,
        num_channel_idr: int = 48,
        layer_scale_init: float = 1e-6,
        spatial_modulation: bool = True,
        channel_modulation: bool = True,
        idr_correction: bool = True,
    ) -> None:
        super().__init__()
        sizes = LightBSRSizes.from_arguments(locals())
        self.upscale = upscale
        self.estimator = IDREstimator(num_in_ch=3, num_idr=num_idr)
        self.converter = IDRConverter(num_idr=num_idr, num_channel_idr=num_channel_idr)
        self.sr_network = IDRGuidedSRNetwork(sizes)

    def estimate_idr(self, lq: Tensor) -> IDR:
        """The IDR: (B, 3, h, w) -> channel (B, C), spatial (B, S, h, w)."""
        h, w = lq.shape[-2:]
        return self.converter(self.estimator(lq), (h, w))
