"""``lightbsr prepare``: a folder of HR images becomes one LMDB for BasicSR's data sets and ours.

Images are cut into overlapping sub-images (BasicSR's recipe for DIV2K: 480 pixels every 240), so that a training patch
costs the decoding of a small PNG and not of a whole photograph. Threads cut and encode; one writer puts the sub-images
into the LMDB in the order of the images' names, whole images at a time, so that its content does not depend on the
number of threads, and what is in it after a kill says itself where to go on.

All work is done in ``TARGET.unfinished``, which becomes ``TARGET`` when everything is in it. ``manifest.json`` holds
the options and the SHA-256 of every image and, in the end, of the LMDB's content.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import lmdb
from tqdm import tqdm

from lightbsr_cli import at_least
from lightbsr_compat import InputError, remove_unfinished
from lightbsr_data.images import check_lmdb, decode_image

from .files import atomic_write, sha256_file
from .sub_images import Cutting, SourceImage, SubImage, find_images, inspect_image, read_bytes, refuse_all

MANIFEST = "manifest.json"
_FORMAT = 1
_UNFINISHED = ".unfinished"
_COMMIT_BYTES, _COMMIT_SECONDS = 2**26, 5  # what a kill can cost of the writing
_GIB = 2**30

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Generator[_Result, None, None]:
    """``map`` on threads, at most two items a thread ahead of whoever takes the results.

    Threads, not processes: OpenCV and hashlib let go of Python's lock, and no process outlives a kill of this one.
    """
    waiting: collections.deque[Future[_Result]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _bar(what: str, total: int, *, initial: int = 0, unit: str = "image") -> Any:
    return tqdm(total=total, initial=initial, desc=what, unit=unit, disable=None)


def _inspect_all(
    folder: str, files: list[str], cutting: Cutting, min_side: int, workers: int
) -> tuple[list[SourceImage], int]:
    """All images, and an estimate of the LMDB's bytes; all bad images are named at once, before anything is written."""

    def inspect(file: str) -> tuple[SourceImage, int] | str:
        path = os.path.join(folder, file)
        try:
            return inspect_image(path, file, cutting, min_side)
        except InputError as error:
            return str(error)

    sources, findings, total = [], [], 0
    with _bar("looking at the images", len(files)) as bar:
        for result in _in_order(inspect, files, workers):
            bar.update()
            if isinstance(result, str):
                findings.append(result)
            else:
                sources.append(result[0])
                total += result[1]
    refuse_all(findings)
    return sources, total


def _write_manifest(folder: str, content: dict[str, Any]) -> None:
    with atomic_write(os.path.join(folder, MANIFEST)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def _read_manifest(folder: str) -> tuple[Cutting, list[SourceImage], dict[str, Any]]:
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']}, not {_FORMAT}")
        cutting = Cutting(**content["options"])
        return cutting, [SourceImage(**source) for source in content["sources"]], content
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path!r} is no manifest of lightbsr prepare: {error}") from None


def _check_same_sources(folder: str, files: list[str], sources: list[SourceImage], manifest: str, workers: int) -> None:
    """Raise InputError where the images are not those of a manifest."""
    before = {source.file: source.sha256 for source in sources}
    findings = [f"image {file!r} of {folder!r} is not in {manifest!r}" for file in files if file not in before]
    findings += [f"image {file!r} of {manifest!r} is missing in {folder!r}" for file in before.keys() - set(files)]
    with _bar("comparing the images", len(files)) as bar:
        paths = (os.path.join(folder, file) for file in files)
        for file, found in zip(files, _in_order(sha256_file, paths, workers), strict=True):
            bar.update()
            if before.get(file, found) != found:
                findings.append(f"image {file!r} of {folder!r} is not as it was for {manifest!r}")
    refuse_all(sorted(findings))


def _check_same_cutting(work: str, before: Cutting, now: Cutting) -> None:
    for name, value in dataclasses.asdict(before).items():
        if value != getattr(now, name):
            raise InputError(
                f"{work!r} was begun with {name} {value}, but now it is {getattr(now, name)}: give the same to go"
                " on, or remove that folder to start anew"
            )


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Make a folder and keep other processes from writing to it; the latter not where the system has no such lock.

    Raises:
        InputError: another process writes to it, or it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder!r} cannot be made: {error.strerror or error}") from None
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{folder!r} is being written by another process: wait for it, or stop it") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _check_disk(target: str, needed: int, sources: list[SourceImage], cutting: Cutting) -> None:
    """Say what will be written; raise InputError where the disk is too small for it."""
    folder = os.path.dirname(os.path.abspath(target))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    entries = sum(len(source.sub_images(cutting)) for source in sources)
    print(
        f"{target}: {entries:,} entries of {len(sources):,} images; about {max(0, needed) / _GIB:.2f} GiB to write,"
        f" {free / _GIB:.2f} GiB of the disk are free",
        flush=True,
    )
    if needed > free:
        raise InputError(
            f"{target!r} needs about {needed / _GIB:.2f} GiB more, but {free / _GIB:.2f} GiB of the disk are free: make"
            " room, or name another disk"
        )


def _fill(work: str, folder: str, sources: list[SourceImage], cutting: Cutting, workers: int) -> None:
    """Put in what the LMDB lacks, in the order of the images."""

    def encode(source: SourceImage) -> list[tuple[SubImage, bytes]]:
        path = os.path.join(folder, source.file)
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise InputError(f"image {path!r} was changed while the LMDB was written")
        image = decode_image(data, path)
        return [(part, part.encoded(image, cutting.compression)) for part in source.sub_images(cutting)]

    # Address space, not disk: a PNG is at most a little larger than its pixels.
    parts = [part for source in sources for part in source.sub_images(cutting)]
    map_size = 2**26 + sum(round(3.1 * part.height * part.width) + 2**14 for part in parts)
    if _size(work):
        check_lmdb(work, repr(work))
    with lmdb.open(work, map_size=map_size) as database:
        with database.begin() as reading:
            todo = [s for s in sources if reading.get(s.sub_images(cutting)[-1].key.encode()) is None]
        with (
            _bar("writing", len(sources), initial=len(sources) - len(todo)) as bar,
            contextlib.closing(_in_order(encode, todo, workers)) as results,
        ):
            while _write_some(database, results, bar):
                pass


def _write_some(database: Any, results: Iterator[list[tuple[SubImage, bytes]]], bar: Any) -> bool:
    """One transaction of whole images; returns whether there may be more."""
    written, start = 0, time.monotonic()
    with database.begin(write=True) as transaction:
        for encoded in results:
            for part, png in encoded:
                transaction.put(part.key.encode(), png)
                written += len(png)
            bar.update()
            if written >= _COMMIT_BYTES or time.monotonic() >= start + _COMMIT_SECONDS:
                return True
    return False


def _content_sha256(path: str, entries: int) -> str:
    """SHA-256 of an LMDB's keys and values, in the order of the keys.

    Raises:
        InputError: another number of entries.
    """
    digest = hashlib.sha256()
    with lmdb.open(path, readonly=True, lock=False) as database, database.begin() as reading:
        found = database.stat()["entries"]
        if found != entries:
            raise InputError(f"{path!r} holds {found} entries, but its manifest {entries}")
        with _bar("checksum", found, unit="entry") as bar:
            for key, value in reading.cursor():
                digest.update(key + b"\0" + len(value).to_bytes(8, "big"))
                digest.update(value)
                bar.update()
    return digest.hexdigest()


def _meta_info(sources: list[SourceImage], cutting: Cutting) -> str:
    return "".join(part.meta_info(cutting.compression) for source in sources for part in source.sub_images(cutting))


def _finish(work: str, sources: list[SourceImage], cutting: Cutting, content: dict[str, Any]) -> None:
    """Write what says that everything is there."""
    meta_info = _meta_info(sources, cutting)
    content["content_sha256"] = _content_sha256(work, meta_info.count("\n"))
    with atomic_write(os.path.join(work, "meta_info.txt")) as temporary:
        Path(temporary).write_text(meta_info, encoding="ascii")
    _write_manifest(work, content)
    remove_unfinished(work)
    Path(work, "lock.mdb").unlink(missing_ok=True)


def prepare(
    source: str, target: str, *, cutting: Cutting | None = None, min_side: int = 256, workers: int | None = None
) -> str:
    """Make an LMDB of the images below a folder, or go on with one that was interrupted.

    Args:
        source: the folder; sub-folders are looked into.
        target: the LMDB's folder, ``*.lmdb``; beside it ``target.unfinished`` while it is being made.
        cutting: how the images are cut.
        min_side: images with a smaller side are refused; the ``gt_size`` that is trained with, or more. At most
            ``cutting.size``.
        workers: threads; as many as there are cores by default.

    Returns:
        A line that says what was written.

    Raises:
        InputError: images, options or a target that cannot be used; nothing is written then. Or the disk is full,
            or an image has changed meanwhile: ``target.unfinished`` stays, and the same call goes on with it.
    """
    cutting, workers, target = cutting or Cutting(), workers or usable_cores(), os.path.normpath(target)
    if not target.endswith(".lmdb"):
        raise InputError(f"target {target!r} must end with .lmdb: BasicSR knows an LMDB by that")
    if os.path.lexists(target):
        raise InputError(f"{target!r} exists and is not overwritten: name another, or remove it")
    if cutting.size and min_side > cutting.size:
        raise InputError(f"size is {cutting.size}, but must be at least min-side, {min_side}, or 0 for whole images")
    files = find_images(source)
    work = target + _UNFINISHED
    begun = any(os.path.lexists(os.path.join(work, name)) for name in (MANIFEST, "data.mdb"))
    if not begun:
        sources, estimate = _inspect_all(source, files, cutting, min_side, workers)
        _check_disk(target, estimate, sources, cutting)
    with _alone(work):
        if begun:
            before, sources, content = _read_manifest(work)
            _check_same_cutting(work, before, cutting)
            _check_same_sources(source, files, sources, work, workers)
            _check_disk(target, content["estimated_bytes"] - _size(work), sources, cutting)
        else:
            content = {"format": _FORMAT, "options": dataclasses.asdict(cutting), "estimated_bytes": estimate}
            content |= {"content_sha256": None, "sources": [dataclasses.asdict(image) for image in sources]}
            _write_manifest(work, content)
        try:
            _fill(work, source, sources, cutting, workers)
            _finish(work, sources, cutting, content)
            os.replace(work, target)
        except (lmdb.Error, OSError) as error:
            raise InputError(f"{work!r} cannot be written: {error}") from None
    return _summary(target, sources, content)


def verify(target: str, source: str | None = None, *, workers: int | None = None) -> str:
    """Compare an LMDB that ``prepare`` made with its manifest: every byte of it, and the images where they are given.

    Returns:
        A line that says what was compared.

    Raises:
        InputError: they differ, or there is no finished LMDB of ``prepare``.
    """
    if not os.path.isdir(target):
        raise InputError(f"no such LMDB: {target!r}")
    cutting, sources, content = _read_manifest(target)
    if not content.get("content_sha256"):
        raise InputError(f"{target!r} is not finished: run lightbsr prepare again with what it was begun with")
    check_lmdb(target, repr(target))
    meta_info = _meta_info(sources, cutting)
    path = os.path.join(target, "meta_info.txt")
    if not os.path.isfile(path) or Path(path).read_bytes() != meta_info.encode("ascii"):
        raise InputError(f"{path!r} is not what lightbsr prepare wrote")
    if _content_sha256(target, meta_info.count("\n")) != content["content_sha256"]:
        raise InputError(f"{target!r} is damaged: its content does not have the checksum of its manifest")
    if source is not None:
        _check_same_sources(source, find_images(source), sources, target, workers or usable_cores())
    return f"{_summary(target, sources, content)}: as it was written"


def _size(folder: str) -> int:
    path = os.path.join(folder, "data.mdb")
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _summary(target: str, sources: list[SourceImage], content: dict[str, Any]) -> str:
    entries = sum(len(source.sub_images(Cutting(**content["options"]))) for source in sources)
    return (
        f"{target}: {entries:,} entries of {len(sources):,} images, {_size(target) / _GIB:.2f} GiB, content SHA-256"
        f" {content['content_sha256']}"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SRC", help="folder of HR images; its sub-folders are looked into")
    parser.add_argument("target", nargs="?", metavar="DST.lmdb", help="the LMDB to make")
    parser.add_argument(
        "--size", type=at_least(0), default=480, metavar="PIXELS", help="side of a sub-image (480); 0: whole images"
    )
    parser.add_argument(
        "--step", type=at_least(1), metavar="PIXELS", help="from one sub-image to the next (half of --size)"
    )
    parser.add_argument(
        "--thresh",
        type=at_least(0),
        default=0,
        metavar="PIXELS",
        help="leave out narrower strips at the edge (0)",
    )
    parser.add_argument(
        "--min-side", type=at_least(1), default=256, metavar="PIXELS", help="refuse smaller images; gt_size (256)"
    )
    parser.add_argument(
        "--compression", type=at_least(0), default=1, metavar="0-9", help="PNG's level: 1 (default) is fast, 9 small"
    )
    parser.add_argument("--workers", type=at_least(1), metavar="N", help="threads (default: one a core)")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="write nothing; compare DST.lmdb, which may stand alone, and SRC with the checksums in DST.lmdb",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.verify:
        source, target = (args.source, args.target) if args.target else (None, args.source)
        print(verify(target, source, workers=args.workers))
        return 0
    if args.target is None:
        raise InputError(f"prepare {args.source!r} needs a second path: the .lmdb to make")
    step = args.step or max(1, args.size // 2)
    cutting = Cutting(size=args.size, step=step, thresh=args.thresh, compression=args.compression)
    print(prepare(args.source, args.target, cutting=cutting, min_side=args.min_side, workers=args.workers))
    return 0
