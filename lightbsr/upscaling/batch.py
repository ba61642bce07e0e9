"""Upscale a list of image files; a bad one does not stop the rest."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
from torch import Tensor
from tqdm import tqdm

from lightbsr_compat.errors import InputError
from lightbsr_compat.files import atomic_write
from lightbsr_compat.images import MAX_BYTES, Picture, decode_picture, read_bytes

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


class Batch:
    """Upscales jobs one after the other.

    Args:
        upscaler: the network.
        size: of the results; None: as the network makes them.
        idr: in place of each image's own.
        strip_metadata: leave out EXIF, XMP and IPTC; the colour profile stays.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        *,
        size: TargetSize | None = None,
        idr: Tensor | None = None,
        strip_metadata: bool = False,
    ) -> None:
        self._upscaler, self._size, self._idr = upscaler, size, idr
        self._strip_metadata = strip_metadata

    def run(self, jobs: Sequence[Job], *, output: str, skip_existing: bool = False) -> int:
        """Do the jobs, and report on standard error.

        Args:
            jobs: the images.
            output: where results are, for the report.
            skip_existing: leave out images with a result that is no older than the image.

        Returns:
            The number of images that failed.
        """
        todo = [job for job in jobs if not (skip_existing and _is_done(job))]
        done, failed = 0, []
        try:
            with tqdm(total=len(todo), unit="image", disable=None) as bar:
                for job in todo:
                    try:
                        self._do(job)
                        done += 1
                    except (InputError, OSError, MemoryError, cv2.error) as error:
                        reason = str(error) or "not enough memory"
                        failed.append(reason if isinstance(error, InputError) else f"image {job.source!r}: {reason}")
                    bar.update()
        finally:
            for sentence in failed:
                print(f"lightbsr: error: {sentence}", file=sys.stderr)
            parts = [f"{done} upscaled" + (f" to {output!r}" if done and output != STANDARD else "")]
            if len(todo) < len(jobs):
                parts.append(f"{len(jobs) - len(todo)} skipped, which have results, by whatever weights and options")
            if failed:
                parts.append(f"{len(failed)} failed")
            print(f"lightbsr: {', '.join(parts)}", file=sys.stderr)
        return len(failed)

    def _do(self, job: Job) -> None:
        picture, colour = read_input(job.source)
        name = "standard input" if job.source == STANDARD else job.source
        try:
            data = encode_picture(self._upscaled(picture, colour, os.path.basename(name)), job.format)
        except InputError as error:
            raise InputError(f"image {name!r}: {error}") from None
        if job.target == STANDARD:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        with atomic_write(job.target) as temporary, open(temporary, "wb") as file:
            file.write(data)

    def _upscaled(self, picture: Picture, colour: np.ndarray, name: str) -> Picture:
        h, w = colour.shape[:2]
        scale = self._upscaler.scale
        size = (h * scale, w * scale) if self._size is None else self._size.of((h, w), scale)
        with tqdm(unit="tile", desc=ascii(name), leave=False, delay=1, disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            sr = self._upscaler(colour, idr=self._idr, progress=progress)
        alpha = None if picture.alpha is None else resized(picture.alpha, size)
        if self._strip_metadata:
            picture = replace(picture, exif=None, xmp=None, iptc=None)
        return replace(picture, colour=resized(sr, size), alpha=alpha)


def _is_done(job: Job) -> bool:
    """Whether there is a result that is no older than its image."""
    try:
        made = os.path.getmtime(job.target)
        return job.source == STANDARD or made >= os.path.getmtime(job.source)
    except OSError:
        return False
