"""``lightbsr check``: name everything in an option file that would fail later; train and test do so at their start."""

import argparse

import lightbsr_models  # noqa: F401  registers networks, models, losses and datasets
from lightbsr_compat import load_options

from .packaged import find_option_file
from .training.option_files import load_checked_options
from .training.pipelines import add_option_file_arguments
from .training.preflight import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_option_file_arguments(parser)
    parser.add_argument("--full", action="store_true", help="read all images, not a sample")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    path = find_option_file(args.opt)
    is_train = "train" in load_options(path, args.force_yml)
    options = load_checked_options(path, args.force_yml, is_train=is_train, launcher=args.launcher, full=args.full)
    print(f"{path}: {summary(options, is_train=is_train)}")
    return 0
