"""LightBSR, the student: blind super-resolution guided by an implicit degradation representation (IDR).

Source: LightBSR (ICCV 2025), Sec. 3 and Fig. 3. Where paper and released code differ the code's form is built, since
it is the one that gives Table 3's GFLOPs: the spatial modulation is a 1x1 and a 3x3 convolution (paper: two 3x3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .idr import IDR, IDRConverter, IDRCorrectionBlock, IDREstimator, fixed_uniform_noise
from .layers import ConvNeXtBranch, SRFrame
from .pooling import Pool, global_average


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

    @property
    def num_spatial_idr(self) -> int:
        """Channels of the spatial IDR: PixelShuffle(4) of the estimator's output."""
        return self.num_idr // 16


class IDRModulation(nn.Module):
    """Gate a quarter of the channels by the spatial IDR and the rest by the channel IDR.

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
    """IDR-AB: modulation by the IDR, GELU, then a ConvNeXt branch; the block's input is added at the end."""

    def __init__(self, sizes: LightBSRSizes) -> None:
        super().__init__()
        self.modulation = IDRModulation(sizes)
        self.act = nn.GELU()
        self.branch = ConvNeXtBranch(num_feat=sizes.num_feat, layer_scale_init=sizes.layer_scale_init)

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        return x + self.branch(self.act(self.modulation(x, idr, pool)))


class IDRAdaptationGroup(nn.Module):
    """IDR-AG: correct the IDRs, run the blocks, a plain ConvNeXt block and a 3x3 convolution, add the input.

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
        y = y + self.branch(y)
        return x + self.conv(y), idr


class IDRGuidedSRNetwork(SRFrame):
    """The part of LightBSR that super-resolves: head, groups, tail; student and teacher share it.

    Shape:
        lq (B, 3, h, w), IDR -> (B, 3, h * upscale, w * upscale), not clamped; where lq is a tile of a larger image,
        ``pool`` gives the blocks that image's averages
    """

    def __init__(self, sizes: LightBSRSizes) -> None:
        super().__init__(num_feat=sizes.num_feat, upscale=sizes.upscale, upsampler=sizes.upsampler)
        self.takes_averages = sizes.channel_modulation
        self.groups = nn.ModuleList(IDRAdaptationGroup(sizes) for _ in range(sizes.num_group))

    def body(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        for group in self.groups:
            x, idr = group(x, idr, pool)
        return x


class LightBSROutput(NamedTuple):
    """The SR image (B, 3, h * upscale, w * upscale) and the IDR that guided it."""

    sr: Tensor
    idr: IDR


class LightBSR(nn.Module):
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
        estimator_noise: an ablation (Table 2) that shows whether the SR network heeds the estimator at all: so much
            uniform noise, [0, estimator_noise), is added to the estimator's output. The same noise for every image of
            a size, in training as in testing; meant for test option files.

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
        estimator_noise: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = LightBSRSizes(
            num_feat=num_feat,
            num_group=num_group,
            num_block=num_block,
            upscale=upscale,
            upsampler=upsampler,
            num_idr=num_idr,
            num_channel_idr=num_channel_idr,
            layer_scale_init=layer_scale_init,
            spatial_modulation=spatial_modulation,
            channel_modulation=channel_modulation,
            idr_correction=idr_correction,
        )
        self.upscale = upscale
        self.estimator_noise = estimator_noise
        self.estimator = IDREstimator(num_in_ch=3, num_idr=num_idr)
        self.converter = IDRConverter(num_idr=num_idr, num_channel_idr=num_channel_idr)
        self.sr_network = IDRGuidedSRNetwork(sizes)

    def forward(self, lq: Tensor) -> Tensor:
        """Super-resolve: (B, 3, h, w) in [0, 1], h, w >= 1 -> (B, 3, h * upscale, w * upscale), not clamped."""
        return self.sr_network(lq, self.estimate_idr(lq))

    def forward_with_idr(self, lq: Tensor) -> LightBSROutput:
        """As ``forward``, with the IDR that guided it (what distillation needs)."""
        idr = self.estimate_idr(lq)
        return LightBSROutput(self.sr_network(lq, idr), idr)

    def estimate_idr(self, lq: Tensor) -> IDR:
        """The IDR alone, at a fraction of the cost: (B, 3, h, w) -> channel (B, C), spatial (B, S, h, w)."""
        h, w = lq.shape[-2:]
        features = self.estimator(lq)
        if self.estimator_noise:
            features = features + self.estimator_noise * fixed_uniform_noise(features)
        return self.converter(features, (h, w))
