"""``lightbsr test`` and ``python -m lightbsr.test``: test a network with BasicSR's test loop."""

import argparse
import sys

from lightbsr_cli import console

from .training.pipelines import add_pipeline_arguments, run_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_pipeline_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return run_pipeline(args, is_train=False)


if __name__ == "__main__":
    sys.exit(console(["test", *sys.argv[1:]]))
