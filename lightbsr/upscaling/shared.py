"""The guidance that all tiles of an image share: the IDR and the averages of LightBSR's blocks.

The IDR is exact: the estimator's features depend on few pixels around them, so they are taken region by region with
that much context, and their mean over the whole image is the mean over all regions. The averages inside LightBSR's
blocks depend on everything before them; they are estimated from a stratified sample of patches, all blocks in one pass.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightbsr_arch import IDR, KDSR, LightBSR
from lightbsr_arch.pooling import GivenAverages, global_average

from .regions import Region, cut, whole

PATCH = 64  # LR pixels, side of a patch of the sample
PATCH_MARGIN = 16  # of these, context on every side, which the averages leave out


class LRImage:
    """An LR image that is read region by region.

    Args:
        pixels: (H, W, 3) or (H, W), uint8, uint16, or float32 in [0, 1].
        device: where regions are read to.

    Attributes:
        size: (H, W).
    """

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        self._pixels, self._device = pixels, device
        self._white = np.float32(1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max)
        self.size = (pixels.shape[0], pixels.shape[1])

    def read(self, region: Region) -> Tensor:
        """A region as (1, 3, h, w), float32 in [0, 1]."""
        part = torch.from_numpy(self._pixels[region.inside(whole(self.size))].astype(np.float32) / self._white)
        part = part.permute(2, 0, 1) if part.ndim == 3 else part.expand(3, -1, -1)
        return part[None].to(self._device).contiguous(memory_format=torch.channels_last)


class LightBSRParts:
    """LightBSR's IDR in parts: the channel IDR is shared by the whole image, the spatial IDR local.

    Attributes:
        has_local: whether there is a local part.
        margin: LR pixels of context that make local results exact.
        stride: LR pixels between features; regions start at multiples of it.
    """

    has_local = True
    margin = 16  # the estimator sees 11 pixels around a feature of stride 4, the converter a feature further
    stride = 4

    def __init__(self, network: LightBSR) -> None:
        self._network = network

    def features(self, lq: Tensor) -> Tensor:
        """The features whose mean makes the shared part: (1, C, ceil(h / stride), ceil(w / stride))."""
        return self._network.estimator(lq)

    def shared(self, mean: Tensor) -> Tensor:
        """The part of the IDR that belongs to the whole image: (1, C) -> (1, D)."""
        return self._network.converter.to_channel(mean)

    def local(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The part of the IDR that differs from place to place, of features of (h, w) pixels: (1, S, h, w)."""
        return self._network.converter.spatial(features, size)


class KDSRParts:
    """KDSR's IDR is one vector for the whole image; as ``LightBSRParts``, without ``local``."""

    has_local = False
    stride = 1

    def __init__(self, network: KDSR) -> None:
        self._network = network
        self.margin = sum(isinstance(layer, nn.Conv2d) for layer in network.estimator.features.modules())  # all 3x3

    def features(self, lq: Tensor) -> Tensor:
        return self._network.estimator.features(lq)

    def shared(self, mean: Tensor) -> Tensor:
        return self._network.converter(self._network.estimator.mlp(mean))


def idr_parts(network: nn.Module) -> LightBSRParts | KDSRParts:
    """The parts of a student's IDR."""
    return LightBSRParts(network) if isinstance(network, LightBSR) else KDSRParts(network)  # type: ignore[arg-type]


def mean_features(network: nn.Module, image: LRImage, *, side: int) -> Tensor:
    """The mean over a whole image of the features that its shared IDR is made of: (1, C), float32.

    Args:
        network: ``LightBSR`` or ``KDSR``.
        image: the image.
        side: LR pixels of the regions that the estimator sees at once.
    """
    parts = idr_parts(network)
    total, count = torch.zeros(1, 1, dtype=torch.float64), 0
    for region in cut(whole(image.size), side, parts.stride):
        padded = region.grown(parts.margin, image.size, parts.stride)
        rows, columns = (
            slice(part.start // parts.stride, math.ceil(part.stop / parts.stride)) for part in region.inside(padded)
        )
        own = parts.features(image.read(padded))[..., rows, columns]
        total = total + own.float().sum((2, 3)).cpu().double()
        count += own.shape[2] * own.shape[3]
    return (total / count).float().to(next(network.parameters()).device)


class Guidance:
    """The guidance of the SR network for every region of one image.

    Args:
        network: ``LightBSR`` or ``KDSR``.
        image: the image.
        side: LR pixels of the regions that the estimator sees at once.
        sample: LR pixels that the SR network's body sees at once for averages of the whole image; None: none are
            taken, every region has its own.
        idr: the shared part of the IDR, (1, D); None estimates it.
    """

    def __init__(
        self, network: nn.Module, image: LRImage, *, side: int, sample: int | None, idr: Tensor | None = None
    ) -> None:
        self._parts: Any = idr_parts(network)
        self._image = image
        self._features: Tensor | None = None  # of the whole image, where it is seen at once and they are needed again
        if max(image.size) <= side and self._parts.has_local:
            self._features = self._parts.features(image.read(whole(image.size)))
        if idr is None:
            seen = self._features
            mean = mean_features(network, image, side=side) if seen is None else seen.float().mean((2, 3))
            idr = self._parts.shared(mean)
        self._shared = idr
        self.averages: Tensor | None = None  # (N, C) for GivenAverages
        if sample is not None and network.sr_network.takes_averages:  # type: ignore[union-attr]
            self.averages = self._sampled_averages(network, sample)

    def of(self, region: Region) -> tuple[Any, ...]:
        """The SR network's guidance for a region of the LR image: the IDR, and LightBSR's global averages."""
        if not self._parts.has_local:
            return (self._shared,)
        pool = global_average if self.averages is None else GivenAverages(self.averages)
        return IDR(self._shared, self._local(region)), pool

    def _local(self, region: Region) -> Tensor:
        if self._features is None:
            padded = region.grown(self._parts.margin, self._image.size, self._parts.stride)
            features = self._parts.features(self._image.read(padded))
        else:
            padded, features = whole(self._image.size), self._features
        local = self._parts.local(features, (padded.height, padded.width))
        rows, columns = region.inside(padded)
        return local[..., rows, columns]

    def _sampled_averages(self, network: nn.Module, sample: int) -> Tensor:
        patches = sample_patches(self._image.size, sample)
        pixels = torch.cat([self._image.read(patch) for patch, _ in patches])
        weights = torch.zeros_like(pixels[:, :1])
        for weight, (patch, inner) in zip(weights, patches, strict=True):
            rows, columns = inner.inside(patch)
            weight[:, rows, columns] = 1
        local = torch.cat([self._local(patch) for patch, _ in patches])
        idr = IDR(self._shared.expand(len(patches), -1), local)  # a network with averages has a local part
        return network.sr_network.sample_averages(pixels, idr, weights)  # type: ignore[operator,union-attr]


def sample_patches(size: tuple[int, int], pixels: int) -> list[tuple[Region, Region]]:
    """A stratified sample of an image: one patch in every cell of a grid, at a place that is drawn with a fixed seed.

    Args:
        size: of the image, (height, width).
        pixels: that all patches together may have.

    Returns:
        For each patch its region, inside the image, and that of its middle, which stands for its cell. Where ``pixels``
        suffices for the whole image, that alone.
    """
    h, w = size
    if h * w <= pixels:
        return [(whole(size), whole(size))]
    height, width = min(PATCH, h), min(PATCH, w)
    inner_height, inner_width = (min(PATCH - 2 * PATCH_MARGIN, side) for side in size)
    number = max(pixels // (height * width), 1)
    rows = min(max(round(math.sqrt(number * h / w)), 1), number, h // inner_height)
    columns = min(max(number // rows, 1), w // inner_width)
    draw = torch.rand(rows, columns, 2, generator=torch.Generator().manual_seed(0)).tolist()
    patches = []
    for i in range(rows):
        for j in range(columns):
            top = _place(i, rows, h, inner_height, draw[i][j][0])
            left = _place(j, columns, w, inner_width, draw[i][j][1])
            y = min(max(top - PATCH_MARGIN, 0), h - height)
            x = min(max(left - PATCH_MARGIN, 0), w - width)
            inner = Region(top, top + inner_height, left, left + inner_width)
            patches.append((Region(y, y + height, x, x + width), inner))
    return patches


def _place(cell: int, cells: int, length: int, side: int, draw: float) -> int:
    """Where a stretch of ``side`` pixels starts in a cell of ``length / cells`` pixels; ``draw`` is in [0, 1)."""
    start, end = cell * length // cells, (cell + 1) * length // cells
    return start + int(draw * (end - start - side + 1))
