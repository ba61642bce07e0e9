"""Super-resolve an image of any size: at once where it fits, else in tiles that show no seams."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .regions import Region, cut, whole
from .shared import PATCH, Guidance, LRImage

OVERLAP = 32  # LR pixels that a tile sees beyond its own on every side (test_tiling.py measures the seams)
LEAST_TILE = 16
SAMPLE = 4  # times the pixels of a tile: the averages need the SR network's body alone, not its hungry tail
LEAST_SAMPLE = 32 * PATCH**2  # LR pixels; from there on a quarter of the image is enough

SRFunction = Callable[..., Tensor]  # (lq, *guidance) -> SR, as of the networks' sr_network
Store = Callable[[Region, Tensor], None]  # (LR region, its SR image (3, h * scale, w * scale), not clamped)
Progress = Callable[[int, int], None]  # (tiles done, tiles in all)


class NotFiniteError(ArithmeticError):
    """The SR image holds NaN or infinity."""


def super_resolve(
    network: nn.Module,
    image: LRImage,
    store: Store,
    *,
    pixels_at_once: int,
    sr_function: SRFunction,
    idr: Tensor | None = None,
    progress: Progress | None = None,
) -> None:
    """Super-resolve an image and store it tile by tile.

    Args:
        network: ``LightBSR`` or ``KDSR``, which gives the IDR and the averages.
        image: the image.
        store: takes each tile.
        pixels_at_once: LR pixels that may pass the network at once, the overlap of tiles included.
        sr_function: super-resolves tiles, as the network's own ``sr_network``.
        idr: the shared part of the IDR, (1, D); None estimates the image's own.
        progress: called after every tile.

    Raises:
        NotFiniteError: NaN or infinity came out.
    """
    size, scale = image.size, network.upscale
    if size[0] * size[1] <= pixels_at_once:
        side, sample = max(size), None
    else:
        side = max(math.isqrt(pixels_at_once) - 2 * OVERLAP, LEAST_TILE)
        sample = min(SAMPLE * pixels_at_once, max(LEAST_SAMPLE, size[0] * size[1] // 4))
    guidance = Guidance(network, image, side=side + 2 * OVERLAP, sample=sample, idr=idr)
    tiles = cut(whole(size), side)
    for i, tile in enumerate(tiles):
        padded = tile.grown(OVERLAP, size)
        sr = sr_function(image.read(padded), *guidance.of(padded))[0].float()
        if not torch.isfinite(sr).all():
            raise NotFiniteError
        rows, columns = tile.inside(padded, scale)  # type: ignore[arg-type]
        store(tile, sr[:, rows, columns])
        if progress is not None:
            progress(i + 1, len(tiles))
