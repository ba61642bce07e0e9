"""``lightbsr upscale``: files, folders and patterns in, pictures out."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from lightbsr.files import atomic_write
from lightbsr.packaged import DEFAULT_WEIGHTS, packaged_weights
from lightbsr_cli import at_least
from lightbsr_compat import InputError, did_you_mean
from lightbsr_data.images import decode_image

from .formats import FORMATS, write_picture
from .inputs import STANDARD, Job, find_images, plan
from .memory import keep_freed_memory
from .picture import Picture, enlarge_alpha, fill_hidden, read_picture
from .upscaler import Upscaler

__all__ = ["find_images", "read_image", "upscale", "write_png"]


def read_image(path: str) -> np.ndarray:
    """Read an image as (H, W, 3) uint8, RGB.

    Raises:
        InputError: no image, one that is cut off, or one of too many pixels.
    """
    with open(path, "rb") as file:
        return decode_image(file.read(), path)


def write_png(path: str, image: np.ndarray) -> None:
    """Write (H, W, 3) or (H, W), uint8 or uint16, RGB, as a PNG, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        write_picture(Picture(image), file, "png")


class Run:
    """One run over a list of images: what it did, and what it has to say.

    Args:
        upscaler: upscales them.
        show: whether to show progress, on a terminal.
    """

    def __init__(self, upscaler: Upscaler, *, show: bool) -> None:
        self._upscaler = upscaler
        self._show = show
        self._done = 0
        self._skipped: list[str] = []
        self._failed: list[str] = []

    def over(self, jobs: Sequence[Job], *, overwrite: bool) -> int:
        """Do the jobs, one bad image not stopping the rest, and report on standard error.

        Returns:
            How many images failed.
        """
        done = set() if overwrite else {job for job in jobs if _is_done(job)}
        todo = [job for job in jobs if job not in done]
        self._skipped = [job.target for job in jobs if job in done]
        try:
            with tqdm(total=len(todo), unit="image", disable=None if self._show else True) as bar:
                for job in todo:
                    try:
                        self._do(job)
                        self._done += 1
                    except (InputError, OSError) as error:
                        self._failed.append(str(error))
                    bar.update()
        finally:
            for sentence in self._failed:
                print(f"lightbsr: error: {sentence}", file=sys.stderr)
            print(f"lightbsr: {self._summary()}", file=sys.stderr)
        return len(self._failed)

    def _summary(self) -> str:
        parts = [f"{self._done} upscaled"]
        if self._skipped:
            which = f"{self._skipped[0]!r} and others" if len(self._skipped) > 1 else repr(self._skipped[0])
            parts.append(f"{len(self._skipped)} skipped, since there is {which} already (--overwrite makes it anew)")
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        return ", ".join(parts)

    def _do(self, job: Job) -> None:
        name = "standard input" if job.source == STANDARD else job.source
        picture = read_picture(_read_bytes(job.source), name)
        colour = picture.colour if picture.alpha is None else fill_hidden(picture.colour, picture.alpha)
        distance = self._upscaler.degradation_distance(colour)
        if distance is not None and distance > 1:
            tqdm.write(
                f"lightbsr: warning: image {name!r} is degraded in another way than the weights were trained for"
                f" (distance {distance:.1f}, usual up to 1): the result may be poor",
                file=sys.stderr,
            )
        alpha = None if picture.alpha is None else enlarge_alpha(picture.alpha, self._upscaler.scale)
        enlarged = Picture(self._upscaled(colour, os.path.basename(name)), alpha, picture.icc_profile)
        try:
            _write(enlarged, job)
        except InputError as error:
            raise InputError(f"the result of {name!r} cannot be kept: {error}") from None

    def _upscaled(self, colour: np.ndarray, name: str) -> np.ndarray:
        with tqdm(unit="tile", desc=name, leave=False, delay=1, disable=None if self._show else True) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return self._upscaler(colour, progress=progress)


def _is_done(job: Job) -> bool:
    """Whether there is a result already, from whatever weights and options, that is no older than its image."""
    try:
        made = os.path.getmtime(job.target)
        return job.source == STANDARD or made >= os.path.getmtime(job.source)
    except OSError:
        return False


def _read_bytes(path: str) -> bytes:
    if path == STANDARD:
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return file.read()


def _write(picture: Picture, job: Job) -> None:
    if job.target == STANDARD:
        if job.format == "png":
            write_picture(picture, sys.stdout.buffer, "png")
        else:
            buffer = io.BytesIO()
            write_picture(picture, buffer, job.format)
            sys.stdout.buffer.write(buffer.getbuffer())
        sys.stdout.buffer.flush()
        return
    with atomic_write(job.target) as temporary, open(temporary, "wb") as file:
        write_picture(picture, file, job.format)


def _number_in_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(f"the environment's {name} is {text!r}, but must be a whole number")
    return int(text)


def _own_gpu(device: str | None) -> str | None:
    """Under torchrun each process takes a GPU of its own, unless one is named."""
    if device not in (None, "cuda") or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return device
    return f"cuda:{_number_in_environment('LOCAL_RANK', 0) % torch.cuda.device_count()}"


def _check_output(folder: str) -> None:
    """Make the output folder.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"output folder {folder!r} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"output folder {folder!r} cannot be written to")


def upscale(
    inputs: Sequence[str],
    output: str,
    *,
    weights: str = DEFAULT_WEIGHTS,
    device: str | None = None,
    precision: str = "fp32",
    tile: int | str = "auto",
    engine: str = "torch",
    self_ensemble: bool = False,
    format: str | None = None,
    overwrite: bool = False,
) -> int:
    """Upscale images; one that cannot be does not stop the rest, and one that has a newer result is skipped.

    Bits (8 or 16), alpha, grey and colour profile are kept as far as the format can hold them, the orientation is
    applied. Alpha is enlarged by bicubic interpolation, and what it hides takes the nearest colour that shows, so that
    no hidden colour bleeds into the edges. Under torchrun each process does its share of the list.

    Args:
        inputs: files, folders (with the folders in them), patterns, or ``-`` for standard input.
        output: a folder for ``NAME_xS.png``, a file where the input is one, or ``-`` for standard output.
        weights, device, precision, tile, engine, self_ensemble: as of ``Upscaler``.
        format: ``png``, ``jpg``, ``webp``, ``tiff``, ``same`` as the input; None for PNG or what ``output`` is called.
        overwrite: do what is done already once more.

    Returns:
        How many images failed; each is named on standard error.

    Raises:
        InputError: inputs, weights, options or output that cannot be used at all.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"format is {format!r}{did_you_mean(format, FORMATS)}")
    found = find_images(inputs, output)
    upscaler = Upscaler(
        weights,
        device=_own_gpu(device),
        precision=precision,
        tile=tile,
        engine=engine,
        self_ensemble=self_ensemble,
    )
    jobs = plan(inputs, found, output, scale=upscaler.scale, format=format)
    if output != STANDARD:
        _check_output(output if jobs[0].target != output else os.path.dirname(output) or ".")
    rank, world_size = _number_in_environment("RANK", 0), _number_in_environment("WORLD_SIZE", 1)
    return Run(upscaler, show=rank == 0).over(jobs[rank::world_size], overwrite=overwrite)


def _tile(text: str) -> int | str:
    """The type of --tile: auto, or a whole number."""
    return text if text == "auto" else at_least(0)(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", nargs="+", help="image files, folders, patterns, or - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PATH",
        help="folder for the results, NAME_xS.png; for one image also a file, or - for standard output",
    )
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="FILE",
        help=f"a student's checkpoint, or packaged weights: {', '.join(packaged_weights())} ({DEFAULT_WEIGHTS})",
    )
    parser.add_argument("--format", choices=("png", "jpg", "webp", "tiff", "same"), help="of the results (png)")
    parser.add_argument("--overwrite", action="store_true", help="make results anew that exist")
    parser.add_argument("--self-ensemble", action="store_true", help="the mean over 8 flips: 8 times the work")
    parser.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="N",
        help="side of tiles in pixels, 0 for none; auto (default): as large as memory allows",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="to compute in (fp32)")
    parser.add_argument(
        "--engine", choices=("torch", "onnx", "openvino"), default="torch", help="what runs the network (torch)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    keep_freed_memory()
    failed = upscale(
        args.input,
        args.output,
        weights=args.weights,
        device=args.device,
        precision=args.precision,
        tile=args.tile,
        engine=args.engine,
        self_ensemble=args.self_ensemble,
        format=args.format,
        overwrite=args.overwrite,
    )
    return 1 if failed else 0
