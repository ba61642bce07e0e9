"""The command line: ``lightbsr COMMAND`` and ``python -m lightbsr COMMAND``."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

import torch

from lightbsr_compat import InputError, require_basicsr

from .arguments import make_parser

EXIT_WORKER_DIED = 1
EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def _run_basicsr(args: argparse.Namespace, *, is_train: bool) -> int:
    require_basicsr(f"lightbsr {args.command}")
    from .option_files import find_option_file, load_checked_options

    path = find_option_file(args.opt)
    load_checked_options(path, args.force_yml, is_train=is_train, launcher=args.launcher)
    argv = ["lightbsr", "-opt", path, "--launcher", args.launcher]
    argv += ["--auto_resume"] * args.auto_resume + ["--debug"] * args.debug
    argv += ["--force_yml", *args.force_yml] * bool(args.force_yml)
    sys.argv = argv  # BasicSR's pipelines parse the command line themselves
    signals: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if is_train:
        from basicsr.train import train_pipeline as pipeline

        from lightbsr_compat.training import stopping_in_order

        signals = stopping_in_order(args.time_limit)
    else:
        from basicsr.test import test_pipeline as pipeline
    try:
        with signals:
            pipeline(os.getcwd())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # else gloo's threads may abort the process as it ends
    except RuntimeError as error:
        if isinstance(error, InputError) or not str(error).startswith("DataLoader worker"):
            raise
        print(f"lightbsr: error: a data-loading worker died: {error}", file=sys.stderr)
        print("lightbsr: --auto_resume goes on from the newest training state", file=sys.stderr)
        return EXIT_WORKER_DIED
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from .prepare import prepare, verify
    from .sub_images import Cutting

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


def _check(args: argparse.Namespace) -> int:
    require_basicsr("lightbsr check")
    from lightbsr_compat import load_options

    from .option_files import find_option_file, load_checked_options
    from .preflight import summary

    path = find_option_file(args.opt)
    is_train = "train" in load_options(path, args.force_yml)
    options = load_checked_options(path, args.force_yml, is_train=is_train, launcher=args.launcher, full=args.full)
    print(f"{path}: {summary(options, is_train=is_train)}")
    return 0


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "check":
        return _check(args)
    if args.command in ("train", "test"):
        return _run_basicsr(args, is_train=args.command == "train")
    if args.command == "prepare":
        return _prepare(args)
    if args.command in ("upscale", "benchmark"):
        from .upscaling.memory import keep_freed_memory

        keep_freed_memory()
    if args.command == "upscale":
        from .upscale import upscale

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
    if args.command == "convert":
        from .convert import convert_file

        print(convert_file(args.source, args.target, kernel_basis_path=args.kernel_basis, setting=args.setting))
        return 0
    if args.command == "export":
        from .export_command import export_file

        print(export_file(args.weights, args.onnx, precision=args.precision, opset=args.opset))
        return 0
    if args.command == "benchmark":
        require_basicsr("lightbsr benchmark")
        from .benchmark.command import benchmark

        failed = benchmark(
            args.data,
            protocol=args.protocol,
            methods=args.method,
            sets=args.sets,
            out=args.out,
            scale=args.scale,
            device=args.device,
            workers=args.workers,
            speed_side=args.speed_side,
        )
        return 1 if failed else 0
    if args.command == "idr":
        require_basicsr("lightbsr idr")
        from .idr import idr

        options = dict(protocol=args.protocol, out=args.out, device=args.device, limit=args.images)
        return 1 if idr(args.data, weights=args.weights, **options) else 0
    from .demo import demo

    require_basicsr("lightbsr demo")
    demo(args.output)
    return 0


def _sentences(error: InputError) -> list[str]:
    """An error's sentences, without the traceback that torch puts around an error of a data-loading worker."""
    lines = str(error).splitlines()
    if len(lines) > 1 and "DataLoader worker" in lines[0]:
        lines = [lines[-1].partition("InputError: ")[2] or lines[-1]]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 (some images failed, or a data-loading worker died), 2 (an error of the input) or 130
        (interrupted at once).

    Raises:
        SystemExit: with status 75 where a signal has stopped training in order, everything saved.
    """
    args = make_parser().parse_args(argv)
    try:
        return _dispatch(args)
    except InputError as error:
        for sentence in _sentences(error):
            print(f"lightbsr: error: {sentence}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("lightbsr: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
