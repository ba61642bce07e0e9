"""Super-resolve an image of any size: at once where it fits, else in tiles that show no seams."""

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightbsr_compat import InputError

from .engines import Engine
from .memory import is_out_of_memory
from .pixels import Pixels, View
from .regions import Region, cut, whole
from .shared import PATCH, SharedByTiles, read

OVERLAP = 32  # LR pixels that a tile sees beyond its own on every side (test_tiling.py measures the seams)
LEAST_TILE = 16
SAMPLE = 4  # times the pixels of a tile: the averages need the SR network's body alone, not its hungry tail
LEAST_SAMPLE = 32 * PATCH**2  # LR pixels; from there on a quarter of the image is enough

Progress = Callable[[int, int], None]  # (tiles done, tiles in all)


class Tiler:
    """Super-resolves images with one network and one engine.

    Args:
        network: ``LightBSR`` or ``KDSR``, where its IDR and averages are taken.
        engine: what super-resolves whole images and tiles.
        pixels_at_once: LR pixels that may pass the engine at once, what tiles overlap included; None: any number.

    Thread-safe; where memory runs out all threads go on with smaller tiles.
    """

    def __init__(self, network: nn.Module, engine: Engine, pixels_at_once: int | None) -> None:
        self._network, self._engine = network, engine
        self._at_once = math.inf if pixels_at_once is None else pixels_at_once
        self._tiles = pixels_at_once is not None
        self._device = next(network.parameters()).device

    def __call__(self, pixels: Pixels, views: list[View], progress: Progress | None = None) -> None:
        """Read ``pixels`` through its ``views``, write the mean of what becomes of them.

        Raises:
            InputError: there is not even memory for small tiles.
        """
        image = whole(pixels.size)
        if image.area <= self._at_once:
            try:
                pixels.write(image, self._mean(views, lambda i: self._whole(views[i])))
                return
            except Exception as error:  # runtimes have classes of their own
                self._back_off(error, image.area)
        self._in_tiles(pixels, views, progress)

    def _whole(self, view: View) -> Tensor:
        return self._engine.whole(read(view, whole(view.size), self._device))

    @staticmethod
    def _mean(views: list[View], sr: Callable[[int], Tensor]) -> Tensor:
        """The mean of the views' SR images, (3, h, w), float32."""
        total = views[0].turned_back(sr(0)[0].float())
        for i in range(1, len(views)):
            total = total + views[i].turned_back(sr(i)[0].float())
        return total / len(views)

    def _back_off(self, error: Exception, area: int) -> None:
        """After running out of memory at ``area`` pixels: less from now on.

        Raises:
            InputError: less is not allowed or makes no sense.
        """
        if not is_out_of_memory(error):
            raise error
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._tiles:
            raise InputError(f"{area:,} pixels do not fit into memory at once: let them be tiled (tile auto)") from None
        least = (LEAST_TILE + 2 * OVERLAP) ** 2
        if area <= least:
            raise InputError(f"there is not enough memory for tiles of {LEAST_TILE} pixels") from None
        self._at_once = min(self._at_once, max(area // 2, least))

    @property
    def _side(self) -> int:
        """Of a tile without its overlap."""
        return max(math.isqrt(int(self._at_once)) - 2 * OVERLAP, LEAST_TILE)

    def _shared(self, view: View) -> SharedByTiles:
        while True:
            try:
                sample = min(SAMPLE * int(self._at_once), max(LEAST_SAMPLE, view.size[0] * view.size[1] // 4))
                return SharedByTiles(self._network, view, side=self._side + 2 * OVERLAP, sample=sample)
            except Exception as error:  # runtimes have classes of their own
                self._back_off(error, int(self._at_once))

    def _in_tiles(self, pixels: Pixels, views: list[View], progress: Progress | None) -> None:
        shared = [self._shared(view) for view in views]
        todo = deque(cut(whole(pixels.size), self._side))
        done = 0
        while todo:
            tile = todo.popleft()
            if max(tile.height, tile.width) > self._side:  # memory ran out meanwhile
                todo.extendleft(reversed(cut(tile, self._side)))
                continue
            seen = tile.grown(OVERLAP, pixels.size)
            try:
                sr = self._mean(views, lambda i, seen=seen: self._tile(shared[i], views[i].region(seen)))  # type: ignore[misc]
            except Exception as error:  # runtimes have classes of their own
                self._back_off(error, seen.area)
                todo.appendleft(tile)
                continue
            rows, columns = tile.inside(seen, self._engine.scale)
            pixels.write(tile, sr[:, rows, columns])
            done += 1
            if progress is not None:
                progress(done, done + len(todo))

    def _tile(self, shared: SharedByTiles, region: Region) -> Tensor:
        return self._engine.tile(shared.read(region), shared.idr(region), shared.averages)
