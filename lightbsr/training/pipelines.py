"""Run BasicSR's ``train_pipeline`` or ``test_pipeline`` with a checked option file."""

import argparse
import contextlib
import os
import sys

import torch

from lightbsr.packaged import find_option_file
from lightbsr_compat import InputError, require_basicsr

EXIT_WORKER_DIED = 1


def add_option_file_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add what ``train``, ``test`` and ``check`` have in common."""
    parser.add_argument("-opt", required=required, metavar="FILE", help="option file, or the name of a packaged one")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="change options, e.g. train:ema_decay=0.999"
    )
    parser.add_argument(
        "--import",
        nargs="+",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="modules of yours to import first, which register networks, losses, metrics or data sets",
    )


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``train`` and ``test`` have in common."""
    add_option_file_arguments(parser)
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest training state")
    parser.add_argument("--debug", action="store_true", help="BasicSR's debug mode: short intervals")


def run_pipeline(args: argparse.Namespace, *, is_train: bool) -> int:
    """Check the option file, then train or test; returns the exit status."""
    require_basicsr(f"lightbsr {'train' if is_train else 'test'}")
    from .option_files import load_checked_options

    path = find_option_file(args.opt)
    load_checked_options(path, args.force_yml, is_train=is_train, launcher=args.launcher, modules=args.modules)
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
