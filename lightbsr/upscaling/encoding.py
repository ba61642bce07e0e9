"""Write pictures as PNG, JPEG, WebP and TIFF, with colour profile and metadata."""

import io
import os
import re
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from lightbsr_compat.errors import InputError
from lightbsr_compat.images import Picture, to_8_bits

SUFFIXES = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff"}  # by format

_QUALITY = 95  # of JPEG and WebP
_LONGEST_SIDE = {"jpg": 65_500, "webp": 16_383}
_MAX_SEGMENT = 65_400  # bytes of metadata that a segment of a JPEG can hold
_XMP, _IPTC, _EXIF_IFD, _PIXEL_WIDTH, _PIXEL_HEIGHT = 700, 33_723, 0x8769, 0xA002, 0xA003
_BYTES, _ASCII, _UNDEFINED = 1, 2, 7  # TIFF's types


def format_of(path: str) -> str | None:
    """The format that a file's name asks for: ``png``, ``jpg``, ``webp``, ``tiff``; None where it cannot be written."""
    suffix = os.path.splitext(path)[1].lower()
    suffix = {".jpeg": ".jpg", ".tif": ".tiff"}.get(suffix, suffix)
    return next((name for name, its_suffix in SUFFIXES.items() if its_suffix == suffix), None)


def encode_picture(picture: Picture, format: str) -> bytes:
    """Encode a picture with its profile and metadata; JPEG and WebP have 8 bits and lose a little (quality 95).

    PNG and WebP hold EXIF and XMP; JPEG also IPTC; TIFF XMP, IPTC and the text of EXIF's first directory. In a PNG grey
    with alpha becomes RGB.

    Args:
        picture: the picture.
        format: ``png``, ``jpg``, ``webp`` or ``tiff``.

    Raises:
        InputError: the format cannot hold the picture.
    """
    if format == "png":
        return _encode_png(picture)
    return _encode_tiff(picture) if format == "tiff" else _encode_with_pillow(picture, format)


def _encode_png(picture: Picture) -> bytes:
    colour, profile = picture.colour, picture.icc_profile
    if picture.alpha is not None and colour.ndim == 2:
        colour, profile = np.dstack([colour] * 3), None  # OpenCV writes no grey with alpha; a grey profile fits grey
    pixels = colour if colour.ndim == 2 else colour[..., ::-1]
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    encoded, data = cv2.imencode(".png", pixels)
    if not encoded:
        raise InputError(f"{colour.shape[1]}x{colour.shape[0]} pixels cannot be written as a PNG: use tiff")
    file, rest = io.BytesIO(), data.tobytes()
    file.write(rest[:33])  # the signature and the header, which metadata follows
    if profile is not None:
        PngImagePlugin.putchunk(file, b"iCCP", b"ICC profile\0\0", zlib.compress(profile))
    if exif := _exif_bytes(picture):
        PngImagePlugin.putchunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    if xmp := _xmp_bytes(picture):
        PngImagePlugin.putchunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0", xmp)
    file.write(rest[33:])
    return file.getvalue()


def _encode_tiff(picture: Picture) -> bytes:
    import tifffile

    tags: list[tuple[int, int, int, bytes, bool]] = []
    if xmp := _xmp_bytes(picture):
        tags.append((_XMP, _BYTES, len(xmp), xmp, True))
    if picture.iptc:
        tags.append((_IPTC, _UNDEFINED, len(picture.iptc), picture.iptc, True))
    for tag, text in picture.exif.items() if picture.exif else ():
        if isinstance(text, str):
            tags.append((tag, _ASCII, len(text.encode()) + 1, text.encode() + b"\0", True))
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        picture.colour if picture.alpha is None else np.dstack([picture.colour, picture.alpha]),
        photometric="minisblack" if picture.colour.ndim == 2 else "rgb",
        planarconfig=None if picture.colour.ndim == 2 and picture.alpha is None else "contig",
        extrasamples=None if picture.alpha is None else ["unassalpha"],
        compression="zlib",
        predictor=True,
        iccprofile=picture.icc_profile,
        extratags=tags,
        software=False,
        metadata=None,
    )
    return file.getvalue()


def _encode_with_pillow(picture: Picture, format: str) -> bytes:
    h, w = picture.colour.shape[:2]
    if max(h, w) > _LONGEST_SIDE[format]:
        raise InputError(
            f"{w}x{h} pixels are more than {_LONGEST_SIDE[format]:,} on a side, which {format} cannot hold: use png"
        )
    image = Image.fromarray(to_8_bits(picture.colour))
    if picture.alpha is not None:
        if format == "jpg":
            raise InputError("it has alpha, which jpg cannot hold: use png, webp or tiff")
        image.putalpha(Image.fromarray(to_8_bits(picture.alpha)))
    blocks = {"exif": _exif_bytes(picture), "xmp": _xmp_bytes(picture)}
    options: dict[str, Any] = {name: block for name, block in blocks.items() if block and len(block) <= _MAX_SEGMENT}
    if picture.icc_profile is not None:
        options["icc_profile"] = picture.icc_profile
    file = io.BytesIO()
    if format == "webp":
        image.save(file, "WEBP", quality=_QUALITY, **options)
        return file.getvalue()
    if picture.iptc and len(picture.iptc) <= _MAX_SEGMENT:
        size = len(picture.iptc)
        resource = (
            b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + size.to_bytes(4, "big") + picture.iptc + b"\0" * (size % 2)
        )
        options["extra"] = b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0, **options)
    return file.getvalue()


def _exif_bytes(picture: Picture) -> bytes | None:
    """EXIF for a picture's file, with its size."""
    if picture.exif is None:
        return None
    exif = Image.Exif()
    exif.update(picture.exif)
    if _EXIF_IFD in exif:
        h, w = picture.colour.shape[:2]
        exif[_EXIF_IFD] = {**exif[_EXIF_IFD], _PIXEL_WIDTH: w, _PIXEL_HEIGHT: h}
    return exif.tobytes()


def _xmp_bytes(picture: Picture) -> bytes | None:
    """XMP for a picture's file, with its size and upright."""
    xmp, (h, w) = picture.xmp, picture.colour.shape[:2]
    for names, value in (
        (rb"tiff:Orientation", 1),
        (rb"tiff:ImageWidth|exif:PixelXDimension", w),
        (rb"tiff:ImageLength|exif:PixelYDimension", h),
    ):
        # An attribute, NAME="1", or an element, <NAME>1</NAME>.
        xmp = xmp and re.sub(rb"((?:%s)(?:\s*=\s*[\"']|>))\d+" % names, rb"\g<1>%d" % value, xmp)
    return xmp
