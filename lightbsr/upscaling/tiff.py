"""Write TIFF files of 8 and 16 bits with alpha and a colour profile, a band of rows at a time.

Neither Pillow (16-bit colour) nor OpenCV (profiles) writes all of these. TIFF 6.0, deflate with horizontal differences.
"""

import struct
import zlib
from typing import BinaryIO

from lightbsr_compat import InputError

from .picture import Picture
from .png import bands

_LARGEST = 2**32 - 1  # offsets have 32 bits
_LEVEL = 4
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_DEFLATE, _DIFFERENCES = 8, 2


def write_tiff(picture: Picture, file: BinaryIO) -> None:
    """Write a picture as a little-endian TIFF; ``file`` must be seekable.

    Raises:
        InputError: more than 4 GB.
    """
    h, w = picture.colour.shape[:2]
    file.write(struct.pack("<2sHI", b"II", 42, 0))  # the directory's place follows at the end
    offsets: list[int] = []
    lengths: list[int] = []
    rows_per_strip = channels = 0
    for band in bands(picture):
        rows_per_strip, channels = rows_per_strip or len(band), band.shape[2]
        rows = band.astype(f"<u{band.itemsize}")
        rows[:, 1:] -= band[:, :-1]  # modulo 256 or 65536
        compressed = zlib.compress(rows.data, _LEVEL)
        offsets.append(file.tell())
        lengths.append(len(compressed))
        file.write(compressed)
    entries: list[tuple[int, int, list[int] | bytes]] = [
        (256, _LONG, [w]),
        (257, _LONG, [h]),
        (258, _SHORT, [8 * picture.colour.itemsize] * channels),
        (259, _SHORT, [_DEFLATE]),
        (262, _SHORT, [2 if picture.colour.ndim == 3 else 1]),
        (273, _LONG, offsets),
        (277, _SHORT, [channels]),
        (278, _LONG, [rows_per_strip]),
        (279, _LONG, lengths),
        (317, _SHORT, [_DIFFERENCES]),
    ]
    if picture.alpha is not None:
        entries.append((338, _SHORT, [2]))  # not premultiplied
    if picture.icc_profile is not None:
        entries.append((34675, _UNDEFINED, picture.icc_profile))
    _write_directory(file, entries)


def _write_directory(file: BinaryIO, entries: list[tuple[int, int, list[int] | bytes]]) -> None:
    directory = struct.pack("<H", len(entries))
    for tag, kind, values in entries:
        code = "H" if kind == _SHORT else "I"
        value = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{code}", *values)
        directory += struct.pack("<HHI", tag, kind, len(values))
        if len(value) <= 4:
            directory += value.ljust(4, b"\0")
            continue
        file.write(b"\0" * (file.tell() % 2))  # places are even
        directory += struct.pack("<I", _checked(file.tell()))
        file.write(value)
    file.write(b"\0" * (file.tell() % 2))
    place = _checked(file.tell())
    file.write(directory + struct.pack("<I", 0))
    file.seek(4)
    file.write(struct.pack("<I", place))
    file.seek(0, 2)


def _checked(place: int) -> int:
    if place > _LARGEST:
        raise InputError("a TIFF can have 4 GB at most: use --format png")
    return place
