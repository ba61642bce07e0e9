"""``lightbsr prepare``: a folder of HR images as one LMDB of overlapping sub-images, for BasicSR's data sets and ours.

Decoding a sub-image costs a training patch less than decoding a whole photograph. Places, names (``NAME_s001``) and
``meta_info.txt`` are those of BasicSR's ``extract_subimages.py`` and ``lmdb_util.py``.
"""

import argparse
import glob
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from lightbsr_cli import at_least
from lightbsr_compat import InputError, atomic_write

_COMPRESSION = 1  # PNG's level; 9 saves 6% and takes nine times as long
_KEY = re.compile(r"[\x20-\x2d\x2f-\x7e]{1,400}")  # BasicSR's keys are ASCII and end at the first dot
_MAX_FINDINGS = 20


class SubImage(NamedTuple):
    """An entry of the LMDB."""

    key: str
    height: int
    width: int
    png: bytes


def starts(side: int, *, size: int, step: int, thresh: int = 0) -> list[int]:
    """Return where the sub-images along one side of an image begin.

    Args:
        side: of the image, in pixels.
        size: side of a sub-image; an image with a smaller side keeps it.
        step: pixels from one sub-image to the next.
        thresh: a strip that is left at the end gets a sub-image of its own, flush with the edge, where it is wider.
    """
    if side <= size:
        return [0]
    places = list(range(0, side - size + 1, step))
    if side - (places[-1] + size) > thresh:
        places.append(side - size)
    return places


def cut(image: np.ndarray, *, size: int, step: int, thresh: int = 0) -> list[np.ndarray]:
    """Cut an image (H, W, C) into sub-images of at most ``size`` x ``size``, row by row; arguments as ``starts``."""
    tops, lefts = (starts(side, size=size, step=step, thresh=thresh) for side in image.shape[:2])
    return [image[top : top + size, left : left + size] for top in tops for left in lefts]


def find_images(folder: str) -> list[Path]:
    """Return the images below a folder, sorted by name; links are followed, and no folder is searched twice.

    Raises:
        InputError: no folder, no image in it, or names that cannot be keys of one LMDB.
    """
    from lightbsr_data.images import IMAGE_SUFFIXES

    if not os.path.isdir(folder):
        raise InputError(f"no such folder of images: {folder!r}")
    paths, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        paths += [Path(root, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if not paths:
        raise InputError(f"folder {folder!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    paths.sort(key=lambda path: (path.stem, path))
    shared = Counter(path.stem for path in paths)
    findings = [
        f"image {str(path)!r} shares its name with another: rename one" for path in paths if shared[path.stem] > 1
    ]
    findings += [
        f"image {str(path)!r} cannot be a key of an LMDB, which is up to 400 ASCII characters without a dot: rename it"
        for path in paths
        if not _KEY.fullmatch(path.stem)
    ]
    _refuse(findings)
    return paths


def _refuse(findings: list[str]) -> None:

    if len(findings) > _MAX_FINDINGS:
        findings = [*findings[:_MAX_FINDINGS], f"... and {len(findings) - _MAX_FINDINGS} more"]
    if findings:
        raise InputError("\n".join(findings))


def _encode(path: Path, size: int, step: int, thresh: int) -> list[SubImage] | str:
    """Read and cut one image; returns the error where it cannot be read."""
    from lightbsr_compat.images import decode_rgb8, read_bytes

    try:
        image = decode_rgb8(read_bytes(path), str(path))
    except InputError as error:
        return str(error)
    parts = cut(image, size=size, step=step, thresh=thresh) if size else [image]
    result = []
    for number, part in enumerate(parts, 1):
        png = cv2.imencode(".png", part[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])[1].tobytes()
        key = f"{path.stem}_s{number:03d}" if size else path.stem
        result.append(SubImage(key, part.shape[0], part.shape[1], png))
    return result


def _put(database: lmdb.Environment, entries: Iterable[SubImage]) -> None:
    """Write one image's entries, doubling the LMDB's address space where it is full."""
    while True:
        try:
            with database.begin(write=True) as transaction:
                for entry in entries:
                    transaction.put(entry.key.encode(), entry.png)
            return
        except lmdb.MapFullError:
            database.set_mapsize(2 * database.info()["map_size"])


def _encode_all(paths: list[Path], *cutting: int, workers: int) -> Iterator[list[SubImage] | str]:
    """Encode on threads, in order, a few images ahead of the writer; OpenCV releases Python's lock."""
    ahead = 4 * workers
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(paths), ahead):
            yield from pool.map(lambda path: _encode(path, *cutting), paths[first : first + ahead])


def prepare(
    source: str, target: str, *, size: int = 480, step: int | None = None, thresh: int = 0, workers: int | None = None
) -> str:
    """Make an LMDB of the images below a folder.

    It is written to ``target.unfinished-PID``, which becomes ``target`` when everything is in it; what a killed run
    left of such folders is removed.

    Args:
        source: the folder; its sub-folders are searched too.
        target: the LMDB's folder, ``*.lmdb``.
        size: side of a sub-image in pixels; 0 keeps whole images.
        step: pixels from one sub-image to the next, at most ``size``; half of it by default.
        thresh: a strip at the edge that is not wider is left out.
        workers: threads; one a core by default.

    Returns:
        A sentence that says what was written.

    Raises:
        InputError: images, options or a target that cannot be used, or a full disk; ``target`` is not made then.
    """

    target = os.path.normpath(target)
    step = max(1, size // 2) if step is None else step
    if not target.endswith(".lmdb"):
        raise InputError(f"target {target!r} must end with .lmdb: BasicSR knows an LMDB by that")
    if os.path.lexists(target):
        raise InputError(f"target {target!r} exists: name another, or remove it")
    if size and not 1 <= step <= size:
        raise InputError(f"step is {step}, but must be from 1 to size, {size}: more would leave pixels out")
    paths = find_images(source)
    for leftover in glob.glob(f"{glob.escape(target)}.unfinished-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    work = f"{target}.unfinished-{os.getpid()}"
    findings, lines, smallest = [], [], 2**31
    try:
        os.makedirs(work)
        with (
            lmdb.open(work, map_size=2**26, sync=False, lock=False) as database,
            tqdm(total=len(paths), unit="image", disable=None) as bar,
        ):
            for entries in _encode_all(paths, size, step, thresh, workers=workers or os.cpu_count() or 1):
                bar.update()
                if isinstance(entries, str):
                    findings.append(entries)
                    continue
                _put(database, entries)
                lines += [f"{key}.png ({height},{width},3) {_COMPRESSION}\n" for key, height, width, _ in entries]
                smallest = min(smallest, *(min(entry.height, entry.width) for entry in entries))
            database.sync(True)
        _refuse(findings)
        with atomic_write(os.path.join(work, "meta_info.txt")) as temporary:
            Path(temporary).write_text("".join(lines), encoding="ascii")
        written = Path(work, "data.mdb").stat().st_size
        os.replace(work, target)
    except lmdb.Error as error:  # LMDB calls a full disk an input/output error
        free = shutil.disk_usage(work).free / 2**20
        raise InputError(f"{target!r} cannot be written: {error} ({free:,.0f} MiB of the disk are free)") from None
    except OSError as error:
        raise InputError(f"{target!r} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return (
        f"{target}: {len(lines):,} entries of {len(paths):,} images, {written / 2**30:.2f} GiB; the smallest side is"
        f" {smallest} pixels"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SRC", help="folder of HR images; its sub-folders are searched too")
    parser.add_argument("target", metavar="DST.lmdb", help="the LMDB to make")
    size: dict[str, Any] = dict(metavar="PIXELS", type=at_least(0))
    parser.add_argument("--size", default=480, help="side of a sub-image (480); 0: whole images", **size)
    parser.add_argument("--step", help="from one sub-image to the next (half of --size)", **size)
    parser.add_argument("--thresh", default=0, help="leave out strips at the edge up to this width (0)", **size)
    parser.add_argument("--workers", type=at_least(1), metavar="N", help="threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    print(prepare(args.source, args.target, size=args.size, step=args.step, thresh=args.thresh, workers=args.workers))
    return 0
