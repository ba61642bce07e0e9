"""Upscale a list of image files; a bad one does not stop the rest."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
from torch import Tensor
from tqdm import tqdm

from lightbsr.files import write_file
from lightbsr_compat.errors import InputError
from lightbsr_compat.images import MAX_BYTES, Picture, decode_picture, read_bytes

from .comparison import ComparisonPage
from .encoding import encode_picture
from .jobs import STANDARD, Job
from .sizes import TargetSize, fill_hidden, resized
from .upscaler import Upscaler

_SHARED_FRAMES = 8  # at most so many images of a call are averaged for a shared IDR


def warn(sentence: str) -> None:
    """Print a warning beside the progress bar."""
    tqdm.write(f"lightbsr: warning: {sentence}", file=sys.stderr)


def read_input(source: str) -> tuple[Picture, np.ndarray]:
    """Read an image file or standard input.

    Returns:
        The picture, and its colours for the network: (H, W, 3) or (H, W), transparent pixels filled.

    Raises:
        InputError: it cannot be read.
    """
    if source == STANDARD:
        picture = decode_picture(sys.stdin.buffer.read(MAX_BYTES), "standard input")
    else:
        picture = decode_picture(read_bytes(source), source)
    return picture, picture.colour if picture.alpha is None else fill_hidden(picture.colour, picture.alpha)


def shared_idr(upscaler: Upscaler, jobs: Sequence[Job]) -> Tensor:
    """One IDR for all images: that of up to eight of them together, spread evenly over the list.

    Raises:
        InputError: none of them can be read.
    """

    def readable() -> Iterator[np.ndarray]:
        count = min(len(jobs), _SHARED_FRAMES)
        for i in range(count):
            try:
                yield read_input(jobs[i * len(jobs) // count].source)[1]
            except InputError:
                continue  # named when its turn comes

    return upscaler.estimate_idr(readable())


def upscale_all(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    output: str,
    size: TargetSize | None = None,
    idr: Tensor | None = None,
    strip_metadata: bool = False,
    comparison: ComparisonPage | None = None,
) -> list[str]:
    """Upscale images one after the other, with a progress bar; a bad one is reported at the end.

    Args:
        upscaler: the network.
        jobs: the images.
        output: where results are, for the report.
        size: of the results; None: as the network makes them.
        idr: in place of each image's own.
        strip_metadata: leave out EXIF, XMP and IPTC; the colour profile stays.
        comparison: a page that every result is added to.

    Returns:
        A sentence for each image that failed.
    """
    failed: list[str] = []
    done = 0
    try:
        for job in tqdm(jobs, unit="image", disable=None):
            try:
                data = _upscaled(upscaler, job, size, idr, strip_metadata, comparison)
                if job.target == STANDARD:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                else:
                    write_file(job.target, data)
                done += 1
            except (InputError, OSError, MemoryError, cv2.error) as error:
                reason = str(error) or "not enough memory"
                failed.append(reason if isinstance(error, InputError) else f"image {job.source!r}: {reason}")
    finally:  # also where Ctrl-C ends it
        for sentence in failed:
            print(f"lightbsr: error: {sentence}", file=sys.stderr)
        where = f" to {output!r}" if done and output != STANDARD else ""
        print(f"lightbsr: {done} upscaled{where}{f', {len(failed)} failed' if failed else ''}", file=sys.stderr)
    return failed


def _upscaled(
    upscaler: Upscaler,
    job: Job,
    size: TargetSize | None,
    idr: Tensor | None,
    strip_metadata: bool,
    comparison: ComparisonPage | None,
) -> bytes:
    """The content of a job's result."""
    picture, colour = read_input(job.source)
    name = "standard input" if job.source == STANDARD else job.source
    h, w = colour.shape[:2]
    try:
        target = (h * upscaler.scale, w * upscaler.scale) if size is None else size.of((h, w), upscaler.scale)
        with tqdm(unit="tile", desc=ascii(os.path.basename(name)), leave=False, delay=1, disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            sr = upscaler(colour, idr=idr, progress=progress)
        alpha = None if picture.alpha is None else resized(picture.alpha, target)
        if strip_metadata:
            picture = replace(picture, exif=None, xmp=None, iptc=None)
        result = replace(picture, colour=resized(sr, target), alpha=alpha)
        if comparison is not None:
            comparison.add(name, colour, result)
        return encode_picture(result, job.format)
    except InputError as error:
        raise InputError(f"image {name!r}: {error}") from None


def is_done(job: Job) -> bool:
    """Whether there is a result that is no older than its image."""
    try:
        made = os.path.getmtime(job.target)
        return job.source == STANDARD or made >= os.path.getmtime(job.source)
    except OSError:
        return False
