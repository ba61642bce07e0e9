"""Rectangles of an image, and how an image is cut into them."""

import math
from typing import NamedTuple


class Region(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def grown(self, margin: int, size: tuple[int, int], multiple: int = 1) -> "Region":
        """With ``margin`` more on every side as far as an image of ``size`` (height, width) reaches.

        Top and left go on outwards to a multiple of ``multiple``.
        """
        top, left = (max(start - margin, 0) // multiple * multiple for start in (self.top, self.left))
        return Region(top, min(self.bottom + margin, size[0]), left, min(self.right + margin, size[1]))

    def inside(self, outer: "Region", scale: int = 1) -> tuple[slice, slice]:
        """The rows and columns of this region in an array that holds ``outer``, ``scale`` times as large."""
        return (
            slice((self.top - outer.top) * scale, (self.bottom - outer.top) * scale),
            slice((self.left - outer.left) * scale, (self.right - outer.left) * scale),
        )


def whole(size: tuple[int, int]) -> Region:
    """All of an image of ``size`` (height, width)."""
    return Region(0, size[0], 0, size[1])


def cut(region: Region, side: int, multiple: int = 1) -> list[Region]:
    """Cut a region into a grid of about equal tiles, none wider or higher than ``side``.

    Args:
        region: what is cut.
        side: the longest side, at least ``multiple``.
        multiple: tiles start at multiples of it (from the region's start).
    """

    def spans(start: int, end: int) -> list[tuple[int, int]]:
        number = math.ceil((end - start) / (side // multiple * multiple))
        step = math.ceil((end - start) / number / multiple) * multiple
        return [(at, min(at + step, end)) for at in range(start, end, step)]

    rows, columns = spans(region.top, region.bottom), spans(region.left, region.right)
    return [Region(top, bottom, left, right) for top, bottom in rows for left, right in columns]
