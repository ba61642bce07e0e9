"""Where HR images come from: a folder, a folder with a meta_info file, or BasicSR's LMDB."""

import os
import re
from typing import Any

import cv2
import lmdb
import numpy as np

from lightbsr_compat import InputError, nearest, require_basicsr

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_META_INFO_LINE = re.compile(r"(?P<name>.+?)(?: \((?P<height>\d+),(?P<width>\d+),\d+\)(?: \d+)?)?")

_Entry = tuple[str, tuple[int, int] | None]  # name, and (height, width) where known


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


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
            raise InputError(f"io_backend type is {io_backend!r}{nearest(io_backend, ('disk', 'lmdb'))}")
        if not os.path.isdir(dataroot):
            raise InputError(f"dataroot_gt {dataroot!r} is no folder")
        if io_backend == "lmdb":
            if meta_info_file is not None:
                raise InputError(f"meta_info_file {meta_info_file!r} goes with io_backend disk; an LMDB has its own")
            if not os.path.isfile(os.path.join(dataroot, "data.mdb")):
                raise InputError(f"dataroot_gt {dataroot!r} is no LMDB: it holds no data.mdb")
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
        """The image as (H, W, 3) uint8, RGB.

        Raises:
            InputError: the file or entry is missing or cannot be decoded.
        """
        path = self.path(index)
        image = None
        try:
            data = self._bytes(index)
            if data:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except (OSError, cv2.error, lmdb.Error, UnicodeEncodeError) as error:  # BasicSR's keys are ASCII
            raise InputError(f"image {path!r} cannot be read: {error}") from None
        if image is None:
            raise InputError(f"image {path!r} cannot be read: it is missing, empty or no image that OpenCV knows")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _bytes(self, index: int) -> bytes | None:
        if self._client is None:
            require_basicsr("reading a dataset")
            from basicsr.utils import FileClient

            options = {"db_paths": [self.dataroot], "client_keys": ["gt"]} if self.io_backend == "lmdb" else {}
            self._client = FileClient(self.io_backend, **options)
        if self.io_backend == "lmdb":
            return self._client.get(self.names[index], "gt")
        return self._client.get(self.path(index))
