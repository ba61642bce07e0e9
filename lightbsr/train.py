"""``lightbsr train`` and ``python -m lightbsr.train``: train a network with BasicSR's train loop."""

import argparse
import sys

from lightbsr_cli import at_least, console

from .training.pipelines import add_pipeline_arguments, run_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_pipeline_arguments(parser)
    parser.add_argument(
        "--time-limit",
        type=at_least(1),
        metavar="SECONDS",
        help="stop in order after so long, as on Ctrl-C; --auto_resume goes on",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return run_pipeline(args, is_train=True)


if __name__ == "__main__":
    sys.exit(console(["train", *sys.argv[1:]]))
