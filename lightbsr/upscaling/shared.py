"""What all tiles of an image share, found piece by piece: its IDR and the averages of LightBSR's blocks.

The IDR is exact: the estimator's features depend on few pixels around them, so they are taken region by region with
that much context, and their mean over the whole image is the mean over all regions. The averages inside LightBSR's
blocks depend on everything before them; they are estimated from a stratified sample of patches, all blocks in one pass.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from lightbsr_arch import IDR, KDSR, LightBSR

from .pixels import View
from .regions import Region, cut, whole

PATCH = 64  # LR pixels, side of a patch of the sample
PATCH_MARGIN = 16  # of these, context on every side, which the averages leave out


class IDRParts(Protocol):
    """A network's IDR, taken apart into what is local and what belongs to the whole image.

    Attributes:
        margin: LR pixels of context that make local results exact.
        stride: LR pixels between features; regions start at multiples of it.
    """

    margin: int
    stride: int

    def features(self, lq: Tensor) -> Tensor:
        """The features whose mean over the image makes the shared part: (1, C, ceil(h / stride), ceil(w / stride))."""

    def shared(self, mean: Tensor) -> Tensor:
        """The part of the IDR that belongs to the whole image: (1, C) -> (1, D)."""

    def local(self, lq: Tensor) -> Tensor | None:
        """The part of the IDR that differs from place to place, (1, S, h, w), if there is one."""

    def joined(self, shared: Tensor, local: Tensor | None) -> IDR | Tensor:
        """What the SR network takes; ``shared`` is repeated for every image of ``local``."""


class LightBSRParts:
    """The channel IDR is shared, the spatial IDR local."""

    margin = 16  # the estimator sees 11 pixels around a feature of stride 4, the converter a feature further
    stride = 4

    def __init__(self, network: LightBSR) -> None:
        self._network = network

    def features(self, lq: Tensor) -> Tensor:
        return self._network.estimator(lq)

    def shared(self, mean: Tensor) -> Tensor:
        return self._network.converter.to_channel(mean)

    def local(self, lq: Tensor) -> Tensor:
        h, w = lq.shape[-2:]
        return self._network.converter.spatial(self._network.estimator(lq), (h, w))

    def joined(self, shared: Tensor, local: Tensor | None) -> IDR:
        assert local is not None
        return IDR(shared.expand(len(local), -1), local)


class KDSRParts:
    """The IDR is one vector for the whole image."""

    stride = 1

    def __init__(self, network: KDSR) -> None:
        self._network = network
        self.margin = sum(isinstance(layer, nn.Conv2d) for layer in network.estimator.features.modules())  # all 3x3

    def features(self, lq: Tensor) -> Tensor:
        return self._network.estimator.features(lq)

    def shared(self, mean: Tensor) -> Tensor:
        return self._network.converter(self._network.estimator.mlp(mean))

    def local(self, lq: Tensor) -> None:
        return None

    def joined(self, shared: Tensor, local: Tensor | None) -> Tensor:
        return shared


def idr_parts(network: nn.Module) -> IDRParts:
    """The parts of a student's IDR."""
    return LightBSRParts(network) if isinstance(network, LightBSR) else KDSRParts(network)  # type: ignore[arg-type]


def mean_features(network: nn.Module, view: View, *, side: int) -> Tensor:
    """The mean over a whole image of the features that its shared IDR is made of: (1, C), float32.

    Args:
        network: ``LightBSR`` or ``KDSR``.
        view: the image.
        side: LR pixels of the regions that the estimator sees at once.
    """
    parts, size, device = idr_parts(network), view.size, next(network.parameters()).device
    total, count = torch.zeros(1, 1, dtype=torch.float64), 0
    for region in cut(whole(size), side, parts.stride):
        seen = region.grown(parts.margin, size, parts.stride)
        rows, columns = (
            slice(part.start // parts.stride, math.ceil(part.stop / parts.stride)) for part in region.inside(seen)
        )
        own = parts.features(read(view, seen, device))[..., rows, columns]
        total = total + own.float().sum((2, 3)).cpu().double()
        count += own.shape[2] * own.shape[3]
    return (total / count).float().to(device)


def shared_idr(network: nn.Module, view: View, *, side: int) -> Tensor:
    """The part of an image's IDR that belongs to the whole image, (1, D); arguments as of ``mean_features``."""
    return idr_parts(network).shared(mean_features(network, view, side=side))


def read(view: View, region: Region, device: torch.device) -> Tensor:
    """A region's pixels on a device: (1, 3, h, w)."""
    return view.read(region).to(device).contiguous(memory_format=torch.channels_last)


class SharedByTiles:
    """What the tiles of one view of an image share, and the IDR of each of its regions.

    Args:
        network: ``LightBSR`` or ``KDSR``.
        view: the image.
        side: LR pixels, of the regions that the estimator sees at once.
        sample: LR pixels that the SR network sees at once where it takes averages; one that the whole image fits into
            gives exact ones.

    Attributes:
        averages: (N, C) for ``GivenAverages``; (0, 0) where the network has no global average.
    """

    def __init__(self, network: nn.Module, view: View, *, side: int, sample: int) -> None:
        self._parts = idr_parts(network)
        self._view = view
        self._device = next(network.parameters()).device
        self._vector = shared_idr(network, view, side=side)  # (1, D)
        self.averages = self._averages(network, sample)

    def read(self, region: Region) -> Tensor:
        """A region's pixels where the network is: (1, 3, h, w)."""
        return read(self._view, region, self._device)

    def idr(self, region: Region) -> IDR | Tensor:
        """The IDR that guides a region's super-resolution."""
        return self._parts.joined(self._vector, self._local(region))

    def _local(self, region: Region) -> Tensor | None:
        seen = region.grown(self._parts.margin, self._view.size, self._parts.stride)
        local = self._parts.local(self.read(seen))
        rows, columns = region.inside(seen)
        return None if local is None else local[..., rows, columns]

    def _averages(self, network: nn.Module, sample: int) -> Tensor:
        sr_network = network.sr_network
        if not sr_network.takes_averages:  # type: ignore[union-attr]
            return self._vector.new_empty(0, 0)
        patches = sample_patches(self._view.size, sample)
        weights = torch.zeros(len(patches), 1, patches[0][0].height, patches[0][0].width, device=self._device)
        for weight, (patch, inner) in zip(weights, patches, strict=True):
            rows, columns = inner.inside(patch)
            weight[:, rows, columns] = 1
        local = [self._local(patch) for patch, _ in patches]
        idr = self._parts.joined(self._vector, torch.cat(local))  # type: ignore[arg-type]
        pixels = torch.cat([self.read(patch) for patch, _ in patches])
        return sr_network.sample_averages(pixels, idr, weights)  # type: ignore[operator,union-attr]


def sample_patches(size: tuple[int, int], pixels: int) -> list[tuple[Region, Region]]:
    """A stratified sample of an image: in every cell of a grid one patch, at a place that is drawn (always the same).

    Args:
        size: of the image, (height, width).
        pixels: that all patches together may have.

    Returns:
        For each patch, which lies inside the image, its region, and that of its middle, which stands for its cell.
        Where ``pixels`` suffices for the whole image, that alone.
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
