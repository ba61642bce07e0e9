"""``lightbsr check``: name everything in an option file that would fail later; train and test do so at their start."""

import argparse

from .packaged import find_option_file
from .training.pipelines import add_option_file_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_option_file_arguments(parser)
    parser.add_argument("--full", action="store_true", help="read all images, not a sample")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from .training.option_files import load_checked_options

    path = find_option_file(args.opt)
    load_checked_options(path, args.force_yml, launcher=args.launcher, full=args.full, modules=args.modules)
    print(f"{path}: no findings")
    return 0
