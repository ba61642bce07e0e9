"""Sources of HR images: a folder, a folder with a meta_info file, or BasicSR's LMDB."""

import os
import re
import time

import lmdb
import numpy as np

from lightbsr_compat.errors import InputError, did_you_mean
from lightbsr_compat.images import IMAGE_SUFFIXES, MAX_PIXELS, UnreadableImage, read_bytes
from lightbsr_compat.images import decode_rgb8 as decode_image

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "HRImages", "MissingImages", "UnreadableImage", "check_lmdb", "decode_image"]

_META_INFO_LINE = re.compile(r"(?P<name>.+?)(?: \((?P<height>\d+),(?P<width>\d+),\d+\)(?: \d+)?)?")

_Entry = tuple[str, tuple[int, int] | None]  # name, and (height, width) where known


class MissingImages(InputError):
    """The folder of a data set's images is not there."""


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


_PAUSES = (0.1, 0.5)  # seconds before an image that cannot be read is tried again: a network file system may hiccup


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
        self._database: lmdb.Environment | None = None  # opened by the process that reads: it must not outlive a fork
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
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:  # names may be any bytes
                lines = [line.strip() for line in file if line.strip()]
        except OSError as error:
            raise InputError(f"meta_info file {path!r} cannot be read: {error.strerror}") from None
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
                self._database = None
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _bytes(self, index: int) -> bytes | None:
        if self.io_backend == "disk":
            return read_bytes(self.path(index))
        try:
            if self._database is None:
                self._database = lmdb.open(self.dataroot, readonly=True, lock=False, readahead=False, meminit=False)
            with self._database.begin() as transaction:
                return transaction.get(os.fsencode(self.names[index]))
        except lmdb.Error as error:
            raise UnreadableImage(f"image {self.path(index)!r} cannot be read: {error}") from None
