"""Where HR images come from: a folder, a folder with a meta_info file, or BasicSR's LMDB.

Image files are not trusted: their size is bounded before they are decoded, and one that is cut off is refused, where
OpenCV would fill up with grey.
"""

import contextlib
import io
import os
import re
import time
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import lmdb
import numpy as np
from PIL import Image, UnidentifiedImageError

from lightbsr_compat import InputError, did_you_mean, require_basicsr

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_META_INFO_LINE = re.compile(r"(?P<name>.+?)(?: \((?P<height>\d+),(?P<width>\d+),\d+\)(?: \d+)?)?")

_Entry = tuple[str, tuple[int, int] | None]  # name, and (height, width) where known


class MissingImages(InputError):
    """The folder of a data set's images is not there."""


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


MAX_PIXELS = 2**26  # 8192 x 8192; a small file can claim any size, and decoding it takes the memory
_PAUSES = (0.1, 0.5)  # seconds before an image that cannot be read is tried again: a network file system may hiccup


class UnreadableImage(InputError):
    """An image that cannot be read now; another try may succeed."""


def _is_whole(data: bytes, kind: str | None) -> bool:
    """Whether a PNG has all of its chunks, each with the right checksum, and a JPEG its end marker."""
    if kind == "PNG":
        position = 8
        while position + 12 <= len(data):
            end = position + 12 + int.from_bytes(data[position : position + 4], "big")
            checksum = int.from_bytes(data[end - 4 : end], "big")
            if end > len(data) or zlib.crc32(data[position + 4 : end - 4]) != checksum:
                return False
            if data[position + 4 : position + 8] == b"IEND":
                return True
            position = end
        return False
    if kind in ("JPEG", "MPO"):
        position = 2
        while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")  # over a segment, to a scan
        return b"\xff\xd9" in data[position:]  # a scan holds no 0xff but before 0x00 and marker numbers
    return True


@contextlib.contextmanager
def opened_image(data: bytes | None, path: str) -> Iterator[Image.Image]:
    """An image file of which only the header is read yet; whatever decoding it provokes becomes a sentence.

    Args:
        data: the whole file.
        path: to be named in errors.

    Raises:
        InputError: empty, cut off, damaged, too large, CMYK, or no image at all.
    """
    if not data:
        raise UnreadableImage(f"image {path!r} cannot be read: it is missing or empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f"image {path!r} is {width}x{height}, but at most {MAX_PIXELS:,} pixels are decoded")
            if image.mode == "CMYK":
                raise InputError(f"image {path!r} is CMYK, but must be RGB or grey: its colours depend on a profile")
            if not _is_whole(data, image.format):
                raise UnreadableImage(f"image {path!r} cannot be read: it is cut off or damaged")
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"image {path!r} is larger than the {MAX_PIXELS:,} pixels that are decoded") from None
    except UnidentifiedImageError:
        raise UnreadableImage(f"image {path!r} cannot be read: it is no image of a known kind") from None
    except Exception as error:  # Pillow and OpenCV raise whatever the bytes provoke
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnreadableImage(f"image {path!r} cannot be read: {reason}") from None


def decode_image(data: bytes | None, path: str) -> np.ndarray:
    """Decode an image file; grey, palette and 16-bit images become RGB of 8 bits, transparency is dropped.

    Args:
        data: the whole file.
        path: to be named in errors.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        InputError: empty, cut off, damaged, too large, CMYK, or no image at all.
    """
    with opened_image(data, path):
        assert data is not None
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UnreadableImage(f"image {path!r} cannot be read: it is no image that OpenCV knows")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def check_lmdb(path: str, name: str) -> None:
    """Raise InputError, with ``name`` in it, where an LMDB is damaged so that a read of it could crash the process."""
    try:
        with lmdb.open(path, readonly=True, lock=False, readahead=False) as database:
            expected = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    except lmdb.Error as error:
        raise InputError(f"{name} cannot be read as an LMDB: {error}") from None
    size = os.path.getsize(os.path.join(path, "data.mdb"))
    if size < expected:
        raise InputError(f"{name} is cut off: data.mdb has {size:,} bytes of {expected:,}")


class HRImages:
    """A sorted list of images that are read on demand, safe to use in workers.

    Args:
        dataroot: a folder of images, or an LMDB folder (``*.lmdb``) as BasicSR writes it.
        io_backend: ``disk`` or ``lmdb``.
        meta_info_file: with ``disk``, a text file with an image name per line and perhaps ``(height,width,channels)``
            behind it; None takes all images of the folder.

    Attributes:
        names: names without folder and suffix, sorted: the same order from a folder and from an LMDB made of it.
        sizes: (height, width) per image where the meta_info says it, else None.

    Raises:
        InputError: no such folder or file, no image in it, or a backend that does not fit.
    """

    def __init__(self, dataroot: str, *, io_backend: str = "disk", meta_info_file: str | None = None) -> None:
        self.dataroot = dataroot
        self.io_backend = io_backend
        self._client: Any = None  # opened in the process that reads: an LMDB must not be shared over a fork
        if io_backend not in ("disk", "lmdb"):
            raise InputError(f"io_backend type is {io_backend!r}{did_you_mean(io_backend, ('disk', 'lmdb'))}")
        if not os.path.isdir(dataroot):
            raise MissingImages(f"dataroot_gt {dataroot!r} is no folder")
        if io_backend == "lmdb":
            if meta_info_file is not None:
                raise InputError(f"meta_info_file {meta_info_file!r} goes with io_backend disk; an LMDB has its own")
            if not os.path.isfile(os.path.join(dataroot, "data.mdb")):
                raise InputError(f"dataroot_gt {dataroot!r} is no LMDB: it holds no data.mdb")
            check_lmdb(dataroot, f"dataroot_gt {dataroot!r}")
            meta_info_file = os.path.join(dataroot, "meta_info.txt")
        if meta_info_file is None:
            names = [name for name in os.listdir(dataroot) if name.lower().endswith(IMAGE_SUFFIXES)]
            entries: list[_Entry] = [(name, None) for name in names]
        else:
            entries = self._read_meta_info(meta_info_file)
        if not entries:
            raise InputError(f"dataroot_gt {dataroot!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        entries.sort(key=lambda entry: (_stem(entry[0]), entry[0]))
        self._files = [name for name, _ in entries]
        self.names = [_stem(name) for name, _ in entries]
        self.sizes = [size for _, size in entries]

    @staticmethod
    def _read_meta_info(path: str) -> list[_Entry]:
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line.strip() for line in file if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"meta_info file {path!r} cannot be read: {error}") from None
        entries: list[_Entry] = []
        for line in lines:
            match = _META_INFO_LINE.fullmatch(line)
            assert match is not None  # every line has a name
            size = (int(match["height"]), int(match["width"])) if match["height"] else None
            entries.append((match["name"], size))
        return entries

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Path of an image; in an LMDB, the folder and the key."""
        name = self.names[index] if self.io_backend == "lmdb" else self._files[index]
        return os.path.join(self.dataroot, name)

    def read(self, index: int) -> np.ndarray:
        """The image as (H, W, 3) uint8, RGB; one that cannot be read is tried again after a pause.

        Raises:
            InputError: the file or entry is missing, or ``decode_image`` refuses it.
        """
        for pause in (*_PAUSES, None):
            try:
                return decode_image(self._bytes(index), self.path(index))
            except UnreadableImage:
                self._client = None
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _bytes(self, index: int) -> bytes | None:
        if self._client is None:
            require_basicsr("reading a dataset")
            from basicsr.utils import FileClient

            options = {"db_paths": [self.dataroot], "client_keys": ["gt"]} if self.io_backend == "lmdb" else {}
            self._client = FileClient(self.io_backend, **options)
        try:
            if self.io_backend == "lmdb":
                return self._client.get(self.names[index], "gt")
            return self._client.get(self.path(index))
        except (OSError, lmdb.Error, UnicodeEncodeError) as error:  # BasicSR's keys are ASCII
            raise UnreadableImage(f"image {self.path(index)!r} cannot be read: {error}") from None
