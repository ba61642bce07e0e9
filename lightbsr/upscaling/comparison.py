"""The page of ``lightbsr upscale --compare``: bicubic interpolation and each result under a slider."""

import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from lightbsr.files import write_file
from lightbsr.pages import data_url, render
from lightbsr_compat.images import Picture, to_8_bits

from .encoding import encode_picture

_SIDE = 1024  # pixels; pictures are shown pixel by pixel, since a reduced one hides what differs
_MOST = 50  # pictures of at most a megabyte or two


class ComparisonPage:
    """Collects results, and writes the page.

    Args:
        path: of the page.
        weights: their name, for the results.
        read: what a picture's IDR says about it, in words, or ''.
    """

    def __init__(self, path: str, weights: str, read: Callable[[np.ndarray], str]) -> None:
        self.path = path
        self._weights = weights
        self._read = read
        self._count = 0
        self._figures: list[dict[str, object]] = []

    def add(self, name: str, lr: np.ndarray, result: Picture) -> None:
        """Add a result, or its middle 1024x1024 pixels; after 50 results count it only.

        Args:
            name: of the image.
            lr: (H, W, 3) or (H, W), uint8 or uint16, what the result was made of.
            result: of any size.
        """
        self._count += 1
        if self._count > _MOST:
            return
        (lr_h, lr_w), (h, w) = lr.shape[:2], result.colour.shape[:2]
        height, width = min(h, _SIDE), min(w, _SIDE)
        top, left = (h - height) // 2, (w - width) // 2
        place = np.s_[top : top + height, left : left + width]
        right, bottom = min((left + width) * lr_w / w, lr_w), min((top + height) * lr_h / h, lr_h)
        box = (left * lr_w / w, top * lr_h / h, right, bottom)
        bicubic = Image.fromarray(to_8_bits(lr)).resize((width, height), Image.Resampling.BICUBIC, box)
        alpha = None if result.alpha is None else result.alpha[place]
        format, kind = ("jpg", "jpeg") if alpha is None else ("webp", "webp")
        pictures = [
            (label, data_url(encode_picture(Picture(colour, alpha, result.icc_profile), format), kind))
            for label, colour in (("bicubic", np.asarray(bicubic)), (self._weights, result.colour[place]))
        ]
        part = "" if (h, w) == (height, width) else f", the middle {width}x{height}"
        reading = self._read(lr)
        text = f"{name}: {lr_w}x{lr_h} to {w}x{h}{part}" + (f"; read from its IDR: {reading}" if reading else "")
        self._figures.append({"text": text, "pictures": pictures, "after": 1})

    def write(self) -> None:
        """Write the page, whole or not at all; without results none.

        Raises:
            InputError: the folder cannot be written to, or the disk is full.
        """
        if self._figures:
            left_out = self._count - len(self._figures)
            page = render(
                "upscaling/compare.html",
                title=f"lightbsr upscale: bicubic and {self._weights}",
                comparisons=self._figures,
                notes=[f"{left_out} more results are not shown."] if left_out else [],
            )
            write_file(self.path, page)
            print(f"lightbsr: compared in {self.path!r}", file=sys.stderr)
