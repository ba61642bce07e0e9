"""Target sizes, resampling and what transparency hides."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from lightbsr_compat.errors import InputError
from lightbsr_compat.images import MAX_PIXELS

_MOST_PIXELS = 16 * MAX_PIXELS  # of a result: x4 of the largest image that is read


class TargetSize(NamedTuple):
    """The size of the results.

    Attributes:
        kind: ``outscale`` (a factor), ``width`` or ``height`` (pixels; the other follows), or ``max_side`` (pixels that
            the longer side has at most).
        value: the factor, or the pixels.
    """

    kind: str
    value: float

    @property
    def label(self) -> str:
        """In the names of results: x2.5, w1920, h1080, max1920."""
        return {"outscale": "x", "width": "w", "height": "h", "max_side": "max"}[self.kind] + f"{self.value:.12g}"

    def of(self, size: tuple[int, int], scale: int) -> tuple[int, int]:
        """The result's (height, width) for an LR image of ``size`` and a network of ``scale``; halves are rounded up.

        Raises:
            InputError: more than 2^30 pixels.
        """
        h, w = size
        if self.kind == "max_side":
            factor = min(self.value / max(h, w), scale)
        else:
            factor = {"outscale": self.value, "width": self.value / w, "height": self.value / h}[self.kind]
        height, width = (max(math.floor(round(side * factor, 6) + 0.5), 1) for side in size)
        if height * width > _MOST_PIXELS:
            raise InputError(f"the result would be {width}x{height}, more than {_MOST_PIXELS:,} pixels")
        return height, width


def resized(samples: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample (H, W, ...), uint8 or uint16, to ``size`` (height, width): area averages down, bicubic up."""
    h, w = samples.shape[:2]
    if (h, w) == size:
        return samples
    interpolation = cv2.INTER_AREA if size[0] <= h and size[1] <= w else cv2.INTER_CUBIC
    return cv2.resize(samples, size[::-1], interpolation=interpolation)


def fill_hidden(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give fully transparent pixels the colour of the nearest pixel that shows.

    Files hold an arbitrary colour there, often black, which a network would draw into the edges that show.

    Args:
        colour: (H, W, 3) or (H, W).
        alpha: (H, W).

    Returns:
        As ``colour``; unchanged where everything shows, or nothing.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    _, labels = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shown = ~hidden
    colours = np.zeros((labels.max() + 1, *colour.shape[2:]), colour.dtype)
    colours[labels[shown]] = colour[shown]  # every pixel that shows has a label of its own
    return colours[labels]
