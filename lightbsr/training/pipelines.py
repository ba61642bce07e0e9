"""Run BasicSR's ``train_pipeline`` or ``test_pipeline``, with its faults corrected, on a checked option file."""

import argparse
import os
import sys

from lightbsr.packaged import find_option_file
from lightbsr_compat import InputError, require_basicsr

EXIT_WORKER_DIED = 1


def train_pipeline(root_path: str, *, time_limit: float | None = None) -> None:
    """``basicsr.train.train_pipeline``: train with the option file that ``sys.argv`` names.

    Random numbers, resuming, saving and stopping are those of ``lightbsr train``, for every model in BasicSR's
    registries (``basicsr_fixes.py``); BasicSR is as it was afterwards.

    Args:
        root_path: the folder that ``experiments/`` and ``tb_logger/`` are made in.
        time_limit: seconds after which training stops in order, as at a signal; None: no limit.

    Raises:
        InputError: the option file, its data or a training state cannot be used, or a loss is not finite.
        SystemExit: with status 75 where a signal or the time limit has stopped training, everything saved.
    """
    require_basicsr("training")
    import basicsr.train

    import lightbsr_models  # noqa: F401  registers networks, models, losses and datasets
    from lightbsr_models.stopping import stopping_in_order

    from .basicsr_fixes import fixed_basicsr

    with fixed_basicsr(), stopping_in_order(time_limit):
        basicsr.train.train_pipeline(root_path)


def test_pipeline(root_path: str) -> None:
    """``basicsr.test.test_pipeline``, as ``train_pipeline``; ``results/`` is made in ``root_path``."""
    require_basicsr("testing")
    import basicsr.test

    import lightbsr_models  # noqa: F401  registers networks, models, losses and datasets

    from .basicsr_fixes import fixed_basicsr

    with fixed_basicsr():
        basicsr.test.test_pipeline(root_path)


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
    import torch

    import lightbsr_models  # noqa: F401  registers networks, models, losses and datasets

    from .option_files import load_checked_options

    path = find_option_file(args.opt)
    load_checked_options(path, args.force_yml, is_train=is_train, launcher=args.launcher, modules=args.modules)
    argv = ["lightbsr", "-opt", path, "--launcher", args.launcher]
    argv += ["--auto_resume"] * args.auto_resume + ["--debug"] * args.debug
    argv += ["--force_yml", *args.force_yml] * bool(args.force_yml)
    sys.argv = argv  # BasicSR's pipelines parse the command line themselves
    try:
        if is_train:
            train_pipeline(os.getcwd(), time_limit=args.time_limit)
        else:
            test_pipeline(os.getcwd())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # else gloo's threads may abort the process as it ends
    except RuntimeError as error:
        if isinstance(error, InputError) or not str(error).startswith("DataLoader worker"):
            raise
        print(f"lightbsr: error: a data-loading worker died: {error}", file=sys.stderr)
        print("lightbsr: --auto_resume goes on from the newest training state", file=sys.stderr)
        return EXIT_WORKER_DIED
    return 0
