"""The file formats that pictures are written in."""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image

from lightbsr_compat import InputError

from .picture import Picture
from .png import write_png
from .tiff import write_tiff

SUFFIXES = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff"}
SAME = "same"
FORMATS = (*SUFFIXES, SAME)
_FORMAT_OF_SUFFIX = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_QUALITY = 95
_LONGEST_SIDE = {"jpg": 65_500, "webp": 16_383}


def format_of(path: str) -> str:
    """The format that a file's name asks for; PNG where it is one that is only read."""
    return _FORMAT_OF_SUFFIX.get(os.path.splitext(path)[1].lower(), "png")


def has_format(path: str) -> bool:
    """Whether a name is that of a file that can be written."""
    return os.path.splitext(path)[1].lower() in _FORMAT_OF_SUFFIX


def write_picture(picture: Picture, file: BinaryIO, name: str) -> None:
    """Write a picture; PNG and TIFF keep everything, JPEG and WebP have 8 bits and lose a little (quality 95).

    Args:
        picture: the picture.
        file: opened for writing; for TIFF, seekable.
        name: of the format: ``png``, ``jpg``, ``webp`` or ``tiff``.

    Raises:
        InputError: the format cannot hold the picture.
    """
    if name == "png":
        write_png(picture, file)
    elif name == "tiff":
        write_tiff(picture, file)
    else:
        _write_with_pillow(picture, file, name)


def _write_with_pillow(picture: Picture, file: BinaryIO, name: str) -> None:
    h, w = picture.colour.shape[:2]
    if max(h, w) > _LONGEST_SIDE[name]:
        raise InputError(
            f"{w}x{h} pixels are more than {_LONGEST_SIDE[name]:,} on a side, which {name} cannot hold: use png"
        )
    image = Image.fromarray(_to_8_bits(picture.colour))
    if picture.alpha is not None:
        if name == "jpg":
            raise InputError("it has alpha, which jpg cannot hold: use png, webp or tiff")
        image.putalpha(Image.fromarray(_to_8_bits(picture.alpha)))
    options = {} if picture.icc_profile is None else {"icc_profile": picture.icc_profile}
    if name == "jpg":
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0, **options)
    else:
        image.save(file, "WEBP", quality=_QUALITY, **options)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """uint8 as it is, uint16 rounded: 65535 / 255 = 257."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
