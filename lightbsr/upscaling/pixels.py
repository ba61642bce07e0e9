"""Images as the tiler sees them: regions in as float tensors, regions out as what the caller gave."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lightbsr_compat import InputError

from .regions import Region, whole

# How much R, G and B count in the grey of an image that came in grey (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


class Pixels(Protocol):
    """An image, and the canvas that its enlargement is written to.

    Attributes:
        size: (height, width).
    """

    size: tuple[int, int]

    def read(self, region: Region) -> Tensor:
        """A region as (1, 3, h, w) float32 in [0, 1]."""

    def write(self, region: Region, sr: Tensor) -> None:
        """Put (3, h * scale, w * scale), not clamped yet, where the region's enlargement belongs."""


class ArrayPixels:
    """Pixels of a NumPy array.

    Args:
        image: (H, W, 3) or (H, W), uint8, uint16, or float32 in [0, 1].
        scale: the factor.

    Attributes:
        canvas: the enlargement, of the image's kind and type; no copy of it in floats is ever made.

    Raises:
        InputError: another shape or type.
    """

    def __init__(self, image: np.ndarray, scale: int) -> None:
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
            raise InputError(f"the image's shape is {image.shape}, but must be (H, W, 3) or (H, W)")
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise InputError(f"the image's type is {image.dtype}, but must be uint8, uint16 or float32 in [0, 1]")
        self._image, self._scale = image, scale
        self._white = np.float32(1 if image.dtype == np.float32 else np.iinfo(image.dtype).max)
        self.size = (image.shape[0], image.shape[1])
        self.canvas = np.empty((self.size[0] * scale, self.size[1] * scale, *image.shape[2:]), image.dtype)

    def read(self, region: Region) -> Tensor:
        part = self._image[region.inside(whole(self.size))].astype(np.float32) / self._white
        pixels = torch.from_numpy(part)
        return (pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1))[None]

    def write(self, region: Region, sr: Tensor) -> None:
        sr = sr.float()
        if self._image.ndim == 2:
            sr = torch.einsum("chw,c->hw", sr, sr.new_tensor(_LUMA))
        sr = sr.clamp(0, 1) * float(self._white)
        if self._image.dtype != np.float32:
            sr = sr.round()
        part = (sr.permute(1, 2, 0) if sr.ndim == 3 else sr).cpu().numpy()
        self.canvas[region.inside(whole(self.size), self._scale)] = part  # NumPy converts on the way


class TensorPixels:
    """Pixels of a tensor.

    Args:
        image: (3, H, W), floating, in [0, 1].
        scale: the factor.

    Attributes:
        canvas: the enlargement, of the image's type and on its device.
    """

    def __init__(self, image: Tensor, scale: int) -> None:
        self._image, self._scale = image, scale
        self.size = (image.shape[1], image.shape[2])
        self.canvas = image.new_empty(3, self.size[0] * scale, self.size[1] * scale)

    def read(self, region: Region) -> Tensor:
        rows, columns = region.inside(whole(self.size))
        return self._image[:, rows, columns].float()[None]

    def write(self, region: Region, sr: Tensor) -> None:
        rows, columns = region.inside(whole(self.size), self._scale)
        self.canvas[:, rows, columns] = sr.clamp(0, 1).to(self.canvas)


class View:
    """An image flipped and transposed: what self-ensemble averages over.

    Args:
        pixels: the image.
        flip_rows, flip_columns: whether it stands on its head, and whether it is mirrored.
        transpose: whether rows and columns then change places.

    Attributes:
        size: (height, width) of the view.
    """

    def __init__(
        self, pixels: Pixels, *, flip_rows: bool = False, flip_columns: bool = False, transpose: bool = False
    ) -> None:
        self._pixels = pixels
        self._flips = [axis for axis, flip in ((-2, flip_rows), (-1, flip_columns)) if flip]
        self._transpose = transpose
        h, w = pixels.size
        self.size = (w, h) if transpose else (h, w)

    def region(self, region: Region) -> Region:
        """Where a region of the image lies in the view."""
        return self._transposed(self._flipped(region))

    def read(self, region: Region) -> Tensor:
        """A region of the view as (1, 3, h, w) float32 in [0, 1]."""
        part = self._pixels.read(self._flipped(self._transposed(region))).flip(self._flips)
        return part.mT if self._transpose else part

    def _transposed(self, region: Region) -> Region:
        top, bottom, left, right = region
        return Region(left, right, top, bottom) if self._transpose else region

    def _flipped(self, region: Region) -> Region:
        top, bottom, left, right = region
        h, w = self._pixels.size
        if -2 in self._flips:
            top, bottom = h - bottom, h - top
        if -1 in self._flips:
            left, right = w - right, w - left
        return Region(top, bottom, left, right)

    def turned_back(self, sr: Tensor) -> Tensor:
        """(..., h, w) of the view as the image has it."""
        return (sr.mT if self._transpose else sr).flip(self._flips)


def views(pixels: Pixels, *, self_ensemble: bool) -> list[View]:
    """The image as it is, or its eight flips and transposes."""
    if not self_ensemble:
        return [View(pixels)]
    return [View(pixels, flip_rows=bool(i & 1), flip_columns=bool(i & 2), transpose=bool(i & 4)) for i in range(8)]
