"""``lightbsr upscale``: image files and folders in, upscaled images out."""

import argparse
import math
import os
import sys
import warnings
from typing import Any

from lightbsr.packaged import DEFAULT_WEIGHTS, packaged_weights
from lightbsr_cli import at_least
from lightbsr_compat.errors import InputError


def _tile(text: str) -> int | str:
    """The type of --tile: auto, or a whole number."""
    return text if text == "auto" else at_least(0)(text)


def _factor(text: str) -> float:
    """The type of --outscale: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is no factor above 0")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", nargs="+", help="image files, folders, or - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        default="results",
        metavar="PATH",
        help="folder for the results, NAME_xS.png (results); for one image also a file, or - for standard output",
    )
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="FILE",
        help=f"a student's checkpoint, or packaged weights: {', '.join(packaged_weights())} ({DEFAULT_WEIGHTS})",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--outscale", type=_factor, metavar="F", help="factor of the results, such as 2.5")
    size.add_argument("--width", type=at_least(1), metavar="N", help="width of the results in pixels")
    size.add_argument("--height", type=at_least(1), metavar="N", help="height of the results in pixels")
    size.add_argument("--max-side", type=at_least(1), metavar="N", help="the longer side has at most N pixels")
    parser.add_argument("--format", choices=("png", "jpg", "webp", "tiff", "same"), help="of the results (png)")
    parser.add_argument("--strip-metadata", action="store_true", help="leave out EXIF, XMP and IPTC")
    parser.add_argument("--compare", action="store_true", help="write compare.html: bicubic and ours under a slider")
    parser.add_argument("--skip-existing", action="store_true", help="leave out images that have a result")
    idr = parser.add_mutually_exclusive_group()
    idr.add_argument("--share-idr", action="store_true", help="one IDR for all images: frames of a clip")
    idr.add_argument("--like", metavar="IMAGE", help="the IDR of this image for all: a crop, a cleaner copy")
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="how much blur, noise and compression is removed: 0 as of a clean image, 1 as estimated (default), to 2",
    )
    parser.add_argument("--self-ensemble", action="store_true", help="the mean over 8 flips: 8 times the work")
    parser.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="N",
        help="side of tiles in pixels, 0 for none; auto (default): halved where memory runs out",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="to compute in (fp32)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from .batch import is_done, read_input, shared_idr, upscale_all, warn
    from .comparison import ComparisonPage
    from .jobs import STANDARD, find_images, plan
    from .sizes import TargetSize
    from .stated import in_words
    from .upscaler import Upscaler

    warnings.filterwarnings("ignore", module="PIL")  # it warns of damaged metadata, which the result leaves out
    sizes = {kind: getattr(args, kind) for kind in ("outscale", "width", "height", "max_side")}
    size = next((TargetSize(kind, value) for kind, value in sizes.items() if value is not None), None)
    if args.share_idr and STANDARD in args.input:
        raise InputError("--share-idr reads images twice, which standard input cannot be")
    if args.compare and args.output == STANDARD:
        raise InputError("--compare writes a page beside the results, which standard output has no place for")
    found, left_out = find_images(args.input, args.output)
    if left_out:
        others = f" and {len(left_out) - 3} others" if len(left_out) > 3 else ""
        warn(f"left out, of formats that are not read: {', '.join(map(repr, left_out[:3]))}{others}")
    upscaler = Upscaler(
        args.weights,
        device=args.device,
        precision=args.precision,
        tile=args.tile,
        self_ensemble=args.self_ensemble,
        strength=args.strength,
        notice=warn,
    )
    label = f"x{upscaler.scale}" if size is None else size.label
    jobs = plan(args.input, found, args.output, label=label, format=args.format)
    if args.output != STANDARD:
        folder = os.path.dirname(jobs[0].target) or "."
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {folder!r} cannot be made: {error.strerror}") from None
    idr = shared_idr(upscaler, jobs) if args.share_idr else None
    if args.like:
        idr = upscaler.estimate_idr([read_input(args.like)[1]])
    todo = [job for job in jobs if not (args.skip_existing and is_done(job))]
    if len(todo) < len(jobs):
        print(
            f"lightbsr: {len(jobs) - len(todo)} skipped, which have results, by whatever weights and options",
            file=sys.stderr,
        )
    comparison = None
    if args.compare:
        folder = os.path.dirname(args.output) if jobs[0].target == args.output else args.output
        weights = os.path.splitext(os.path.basename(args.weights))[0]

        def read(lr: Any) -> str:
            return in_words(args.weights, upscaler.estimate_idr([lr]) if idr is None else idr)

        comparison = ComparisonPage(os.path.join(folder, "compare.html"), weights, read)
    failed = upscale_all(
        upscaler,
        todo,
        output=args.output,
        size=size,
        idr=idr,
        strip_metadata=args.strip_metadata,
        comparison=comparison,
    )
    if comparison is not None:
        comparison.write()
    return 1 if failed else 0
