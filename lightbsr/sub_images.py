"""HR images for ``lightbsr prepare``: which files are taken, and how they are cut into overlapping sub-images.

The places and names of the sub-images are those of BasicSR's recipe for DIV2K (``NAME_s001``, row by row, the last ones
flush with the right and bottom edges).
"""

import dataclasses
import hashlib
import itertools
import os
import re

import cv2
import numpy as np

from lightbsr_compat import InputError
from lightbsr_data.images import IMAGE_SUFFIXES, decode_image

_SAMPLE_SIDE = 256  # of the patch that an image's size as PNGs is estimated from
_PAGE = 4096  # of an LMDB: an entry begins on a page of its own
_MOST_FINDINGS = 20
# X4, LR_bicubic, DIV2K_train_LR_bicubic, LRbicx4: how folders of low-resolution images are called.
_LR_FOLDER = re.compile(r"(^|[_\- ])(x[2-9]|lr(bic\w*)?(x?\d)?)([_\- ]|$)", re.IGNORECASE)
_LR_FILE = re.compile(r"(?P<hr>.+?)(x[2-9]|[_-]LR)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How images become entries of the LMDB.

    Args:
        size: side of a sub-image in pixels; an image that is smaller keeps its side. 0 takes images whole.
        step: pixels from one sub-image to the next, at most ``size``.
        thresh: a strip that remains at the right or bottom gets a sub-image of its own, flush with the edge, where it
            is wider than this.
        compression: PNG's level, 0 to 9.

    Raises:
        InputError: sizes that leave pixels out, or no level of PNG's.
    """

    size: int = 480
    step: int = 240
    thresh: int = 0
    compression: int = 1

    def __post_init__(self) -> None:
        if self.size < 0 or self.thresh < 0:
            raise InputError(f"size is {self.size} and thresh {self.thresh}, but neither may be negative")
        if self.size and not 1 <= self.step <= self.size:
            raise InputError(
                f"step is {self.step}, but must be from 1 to size, {self.size}: more would leave pixels out"
            )
        if not 0 <= self.compression <= 9:
            raise InputError(f"compression is {self.compression}, but PNG's levels are 0 to 9")

    def starts(self, side: int) -> list[int]:
        """Where the sub-images of an image's side begin, in pixels."""
        if not self.size or side <= self.size:
            return [0]
        starts = list(range(0, side - self.size + 1, self.step))
        if side - (starts[-1] + self.size) > self.thresh:
            starts.append(side - self.size)
        return starts


@dataclasses.dataclass(frozen=True)
class SubImage:
    """A sub-image: the LMDB's key, and its place in the image."""

    key: str
    top: int
    left: int
    height: int
    width: int

    def meta_info(self, compression: int) -> str:
        return f"{self.key}.png ({self.height},{self.width},3) {compression}\n"

    def encoded(self, image: np.ndarray, compression: int) -> bytes:
        return _png(image[self.top : self.top + self.height, self.left : self.left + self.width], compression)


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """An image: its path below the folder with forward slashes, checksum and size; as the manifest has it."""

    file: str
    sha256: str
    height: int
    width: int

    def sub_images(self, cutting: Cutting) -> list[SubImage]:
        """Its sub-images, row by row; the names are BasicSR's, ``NAME_s001``, or NAME for a whole image."""
        height, width = (min(side, cutting.size or side) for side in (self.height, self.width))
        places = [(top, left) for top in cutting.starts(self.height) for left in cutting.starts(self.width)]
        stem = _stem(self.file)
        if not cutting.size:
            return [SubImage(stem, 0, 0, height, width)]
        return [SubImage(f"{stem}_s{n:03d}", *place, height, width) for n, place in enumerate(places, 1)]


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _png(image: np.ndarray, compression: int) -> bytes:
    """(H, W, 3) uint8, RGB, as a PNG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, compression])[1].tobytes()


def read_bytes(path: str) -> bytes:
    """A whole file; raises InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"image {path!r} cannot be read: {error.strerror or error}") from None


def refuse_all(findings: list[str]) -> None:
    """Raise InputError with the findings, a line each and at most twenty of them; does nothing where there is none."""
    if findings:
        more = len(findings) - _MOST_FINDINGS
        shown = findings[:_MOST_FINDINGS] + ([f"... and {more} more"] if more > 0 else [])
        raise InputError("\n".join(shown))


def find_images(folder: str) -> list[str]:
    """The image files below a folder, as paths from it with forward slashes, sorted; links are followed.

    Raises:
        InputError: no folder, no image, low-resolution images, or names that cannot be keys of one LMDB.
    """
    if not os.path.isdir(folder):
        raise InputError(f"no such folder of images: {folder!r}")
    files, seen = [], set()
    for path, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(path))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(path, name)) not in seen]
        below = os.path.relpath(path, folder).replace(os.sep, "/")
        images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
        files += images if below == "." else [f"{below}/{name}" for name in images]
    if not files:
        raise InputError(f"folder {folder!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    files.sort(key=lambda file: (_stem(file), file))
    low = _low_resolution(files)
    if low is not None:
        raise InputError(
            f"folder {folder!r} holds low-resolution images, such as {low!r}: give HR images alone, since training"
            " makes the LR images from them"
        )
    findings = []
    for before, file in itertools.pairwise(files):
        if _stem(before) == _stem(file):
            findings.append(f"images {before!r} and {file!r} of {folder!r} would get the same key: rename one")
    for file in files:
        if not re.fullmatch(r"[\x20-\x7e]{1,400}", _stem(file)) or "." in _stem(file):
            findings.append(
                f"image {file!r} of {folder!r} cannot be a key: BasicSR reads keys of up to 400 ASCII characters"
                " without a dot, so rename it"
            )
    refuse_all(findings)
    return files


def _low_resolution(files: list[str]) -> str | None:
    """A file that is a low-resolution image by its folder, or by its name beside that of an HR image."""
    for file in files:
        if any(_LR_FOLDER.search(name) for name in file.split("/")[:-1]):
            return file
    stems = {_stem(file) for file in files}
    matches = {file: _LR_FILE.fullmatch(_stem(file)) for file in files}
    for file, match in matches.items():
        if match is not None and (all(matches.values()) or stems & {match["hr"], f"{match['hr']}_HR"}):
            return file
    return None


def inspect_image(path: str, file: str, cutting: Cutting, min_side: int) -> tuple[SourceImage, int]:
    """Decode an image; returns it and an estimate of the bytes that its sub-images take in an LMDB.

    Raises:
        InputError: it cannot be read, ``decode_image`` refuses it, or it is too small.
    """
    data = read_bytes(path)
    image = decode_image(data, path)
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise InputError(
            f"image {path!r} is {width}x{height}, but both sides must be at least min-side, {min_side}: that should be"
            " gt_size, since training cuts patches of this size"
        )
    source = SourceImage(file, hashlib.sha256(data).hexdigest(), height, width)
    top, left = max(0, (height - _SAMPLE_SIDE) // 2), max(0, (width - _SAMPLE_SIDE) // 2)
    sample = image[top : top + _SAMPLE_SIDE, left : left + _SAMPLE_SIDE]
    per_pixel = len(_png(sample, cutting.compression)) / sample[..., 0].size
    return source, sum(round(per_pixel * part.height * part.width) + _PAGE for part in source.sub_images(cutting))
