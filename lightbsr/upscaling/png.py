"""Write PNG files of 8 and 16 bits with alpha and a colour profile, a band of rows at a time.

Pillow writes no 16-bit colour and OpenCV (before 5) no profiles; both copy the whole picture, which is large here.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from .picture import Picture

BAND_BYTES = 2**22
_LEVEL = 4  # of zlib; higher ones take far longer than they save
_UP = 2  # the filter "up": what differs from the row above


def bands(picture: Picture) -> Iterator[np.ndarray]:
    """The picture's rows, some at a time, with alpha as the last channel: (rows, W, C)."""
    h, w = picture.colour.shape[:2]
    rows = max(BAND_BYTES // (w * 4 * picture.colour.itemsize), 1)
    for top in range(0, h, rows):
        parts = [picture.colour[top : top + rows].reshape(-1, w, picture.colour.size // (h * w))]
        if picture.alpha is not None:
            parts.append(picture.alpha[top : top + rows, :, None])
        yield np.concatenate(parts, axis=2)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(picture: Picture, file: BinaryIO) -> None:
    """Write a picture as PNG; ``file`` need not be seekable."""
    h, w = picture.colour.shape[:2]
    colour_type = (2 if picture.colour.ndim == 3 else 0) + (0 if picture.alpha is None else 4)
    bits = 8 * picture.colour.itemsize
    file.write(b"\x89PNG\r\n\x1a\n")
    file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, colour_type, 0, 0, 0)))
    if picture.icc_profile is not None:
        file.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc_profile)))
    compressor = zlib.compressobj(_LEVEL)
    above: np.ndarray | None = None
    for band in bands(picture):
        rows = band.astype(f">u{band.itemsize}").reshape(len(band), -1).view(np.uint8)  # (rows, bytes)
        if above is None:
            above = np.zeros_like(rows[0])
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = _UP
        np.subtract(rows, np.concatenate([above[None], rows[:-1]]), out=filtered[:, 1:])  # modulo 256
        above = rows[-1]
        if compressed := compressor.compress(filtered.data):
            file.write(_chunk(b"IDAT", compressed))
    file.write(_chunk(b"IDAT", compressor.flush()))
    file.write(_chunk(b"IEND", b""))
