"""Read image files, for upscaling, training, preparing and evaluating alike.

Files are not trusted: only regular files of a bounded size are read, the number of pixels is bounded before they are
decoded, and the decoding library says whether a file is whole. Importing this module imports no torch.
"""

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFile

from .errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SUFFIXES_READ = (*IMAGE_SUFFIXES, ".jp2", ".j2k", ".pbm", ".pgm", ".ppm")
MAX_PIXELS = 2**26  # 8192 x 8192; a small file can claim any size, and decoding it takes the memory
MAX_BYTES = 2**30

_KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000")

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_EXTRA_SAMPLES, _TIFF_SAMPLE_FORMAT = 258, 262, 284, 338, 339
_BLACK_IS_ZERO, _RGB, _UNSIGNED, _PREMULTIPLIED, _SEPARATE = 1, 2, 1, 1, 2
_ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x0112, 0x8769, 0x8825
_IPTC_IN_TIFF, _IPTC_IN_JPEG = 33_723, 0x0404
# Of EXIF's first directory, what describes the picture rather than the file: description, camera, resolution,
# software, date, artist, copyright, rating, and Windows' title, comment, author, keywords and subject.
_DESCRIPTIVE = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33_432, 0x4746, *range(0x9C9B, 0x9CA0))


class UnreadableImage(InputError):
    """An image that cannot be read now; another try may succeed."""


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright.

    Attributes:
        colour: (H, W, 3), RGB, or (H, W), grey; uint8 or uint16.
        alpha: (H, W) of the same type, not premultiplied; None where the image has none.
        icc_profile: the colour profile; None for sRGB or unknown.
        exif: EXIF's descriptive tags, with the camera's and GPS's, without orientation and thumbnail.
        xmp, iptc: as stored; None where the image has none.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None


# --- reading ---


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file of at most 1 GiB; a pipe or device is refused without waiting for it.

    Raises:
        UnreadableImage: no such file, or one that cannot be read.
        InputError: no regular file, or too large.
    """
    path = os.fspath(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"image {path!r} is no regular file")
            if status.st_size > MAX_BYTES:
                raise InputError(f"image {path!r} has {status.st_size:,} bytes, but at most {MAX_BYTES:,} are read")
            return file.read(MAX_BYTES)
    except OSError as error:
        raise UnreadableImage(f"image {path!r} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _errors_named(path: str) -> Iterator[None]:
    """Turn whatever the bytes of an image provoke into one sentence."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InputError(f"image {path!r} is larger than the {MAX_PIXELS:,} pixels that are decoded") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage(f"image {path!r} cannot be read: it is no image, or of a kind that is not read") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnreadableImage(f"image {path!r} cannot be read: it is cut off or damaged ({reason})") from None


def decode_picture(data: bytes | None, path: str) -> Picture:
    """Decode an image file with its true depth; its orientation is applied.

    Samples of fewer than 8 bits become 8, those of 9 to 15 bits (PGM, PPM, JPEG 2000) are scaled to 16.

    Args:
        data: the whole file.
        path: to be named in errors.

    Raises:
        UnreadableImage: missing, empty, cut off, damaged, or of no kind that is read.
        InputError: too large, an animation, CMYK, or pixels of a kind that cannot be kept (floating point, 32 bits,
            Lab, 16 bits with premultiplied alpha).
    """
    if not data:
        raise UnreadableImage(f"image {path!r} cannot be read: it is missing or empty")
    with _errors_named(path), Image.open(io.BytesIO(data), formats=_KINDS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"image {path!r} is {width}x{height}, but at most {MAX_PIXELS:,} pixels are decoded")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a phone's JPEG with other views behind it
            raise InputError(f"image {path!r} has {frames} frames or pages, but must be a single picture")
        if image.mode == "CMYK":
            raise InputError(f"image {path!r} is CMYK, but must be RGB or grey: its colours depend on a profile")
        white = _white(image, data, path)
        if image.format == "PNG":  # verify() checks the checksums, and leaves an image that cannot be decoded
            with Image.open(io.BytesIO(data), formats=_KINDS) as again:
                again.verify()
        image.load()
        exif, orientation = _exif(image)
        colour, alpha = _decode_8_bits(image, path) if white == 255 else _decode_deep(image, data, white)
        if image.format != "TIFF":  # which both libraries turn themselves
            colour, alpha = _upright(colour, orientation), None if alpha is None else _upright(alpha, orientation)
        profile = image.info.get("icc_profile")
        if profile and profile[16:20] != (b"GRAY" if colour.ndim == 2 else b"RGB "):
            profile = None  # grey with a profile of colours: readers refuse such files
        return Picture(colour, alpha, profile or None, exif, _xmp(image), _iptc(image))


def _white(image: Image.Image, data: bytes, path: str) -> int:
    """The largest value that a sample can have in the file; 255 too where Pillow scales fewer bits to it."""
    assert isinstance(image, ImageFile.ImageFile)
    decoder, arguments = (image.tile[0][0], image.tile[0][3]) if image.tile else ("", "")
    if image.format == "PNG":
        return 65_535 if str(arguments).endswith("16B") else 255
    if image.format == "PPM":
        if decoder.startswith("ppm") and isinstance(arguments, tuple):  # (kind of pixels, the file's maximum)
            return max(arguments[1], 255)
        return 65_535 if arguments == "I;16B" else 255
    if image.format == "JPEG2000":
        bits = data[data.index(b"\xff\x4f\xff\x51") + 42] + 1  # Ssiz of the codestream's SIZ segment
        if not 8 <= bits <= 16:  # the highest bit of Ssiz: signed
            raise InputError(f"image {path!r} has samples with a sign or of fewer than 8 bits, but must have 8 to 16")
        return 2**bits - 1
    if image.format == "TIFF":
        return _white_of_tiff(image.tag_v2, path)  # type: ignore[attr-defined]
    return 255


def _white_of_tiff(tags: Mapping[int, Any], path: str) -> int:
    if tags.get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))[0] != _UNSIGNED:
        raise InputError(f"image {path!r} has floating-point or signed pixels, but must have 8 or 16 bits")
    bits = max(tags.get(_TIFF_BITS, (1,)))
    if bits <= 8:
        return 255
    if bits != 16:
        raise InputError(f"image {path!r} has {bits} bits a sample, but must have 8 or 16 bits")
    # OpenCV, which keeps 16 bits, reads these wrongly.
    if tags.get(_TIFF_PHOTOMETRIC) not in (_BLACK_IS_ZERO, _RGB):
        raise InputError(f"image {path!r} has 16 bits and is neither RGB nor grey with black as 0")
    if tags.get(_TIFF_PLANES) == _SEPARATE:
        raise InputError(f"image {path!r} has 16 bits and a plane for each colour: save it with interleaved pixels")
    if _PREMULTIPLIED in tags.get(_TIFF_EXTRA_SAMPLES, ()):
        raise InputError(f"image {path!r} has 16 bits and premultiplied alpha: save it with plain alpha")
    return 65_535


def _decode_8_bits(image: Image.Image, path: str) -> tuple[np.ndarray, np.ndarray | None]:
    mode = image.mode
    if mode in ("1", "L", "LA", "La"):
        kind = "L"
    elif mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        kind = "RGB"
    else:
        raise InputError(f"image {path!r} has pixels of the kind {mode}, but must be RGB or grey of 8 or 16 bits")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        colour = pixels[..., 0] if kind == "L" else pixels[..., :3]
        return np.ascontiguousarray(colour), np.ascontiguousarray(pixels[..., 3])
    return np.array(image.convert(kind)), None


def _decode_deep(image: Image.Image, data: bytes, white: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode more than 8 bits by OpenCV: Pillow drops bits of colours."""
    pixels = cv2.imdecode(np.frombuffer(data + b"\n", np.uint8), cv2.IMREAD_UNCHANGED)  # PPM as text ends in a line
    if pixels is None or pixels.dtype != np.uint16 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError("OpenCV cannot decode it")
    if white != 65_535:
        pixels = ((np.minimum(pixels, white).astype(np.uint32) * 65_535 + white // 2) // white).astype(np.uint16)
    if pixels.ndim == 2:
        key = image.info.get("transparency")  # the grey that a PNG calls transparent, which OpenCV forgets
        return pixels, np.where(pixels == key, 0, 65_535).astype(np.uint16) if isinstance(key, int) else None
    grey = image.format == "PNG" and data[25] == 4  # the header's colour type: with alpha, which OpenCV makes RGB
    colour = pixels[..., 0].copy() if grey else np.ascontiguousarray(pixels[..., 2::-1])
    return colour, pixels[..., 3].copy() if pixels.shape[2] == 4 else None


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation: 2 to 4 flip, 5 to 8 also swap rows and columns."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """uint8 as it is, of uint16 the upper byte, as OpenCV and libpng do."""
    return samples if samples.dtype == np.uint8 else (samples >> 8).astype(np.uint8)


def decode_rgb8(data: bytes | None, path: str) -> np.ndarray:
    """Decode an image file as (H, W, 3) uint8, RGB; grey becomes RGB, transparency is dropped.

    Raises:
        InputError: as of ``decode_picture``.
    """
    colour = to_8_bits(decode_picture(data, path).colour)
    return colour if colour.ndim == 3 else np.repeat(colour[..., None], 3, axis=2)


def read_rgb8(path: str) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8, RGB.

    Raises:
        InputError: as of ``read_bytes`` and ``decode_picture``.
    """
    return decode_rgb8(read_bytes(path), path)


# --- metadata ---


def _exif(image: Image.Image) -> tuple[Image.Exif | None, int]:
    """The descriptive tags of a loaded image, and its orientation; metadata that is damaged is left out."""
    with contextlib.suppress(Exception):  # Pillow raises whatever the bytes provoke
        found, kept = image.getexif(), Image.Exif()
        kept.update({tag: found[tag] for tag in _DESCRIPTIVE if tag in found})
        kept.update({tag: dict(found.get_ifd(tag)) for tag in (_EXIF_IFD, _GPS_IFD) if found.get_ifd(tag)})
        kept.tobytes()
        return (kept if len(kept) else None), found.get(_ORIENTATION, 1)
    return None, 1


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return xmp.encode() if isinstance(xmp, str) else xmp or None


def _iptc(image: Image.Image) -> bytes | None:
    if image.format == "TIFF":
        iptc = image.tag_v2.get(_IPTC_IN_TIFF)  # type: ignore[attr-defined]
    else:
        iptc = image.info.get("photoshop", {}).get(_IPTC_IN_JPEG)
    return iptc if isinstance(iptc, bytes) and iptc else None
