"""``lightbsr test``: test a network with BasicSR's test loop."""

import argparse

import lightbsr_models  # noqa: F401  registers networks, models, losses and datasets

from .training.pipelines import add_pipeline_arguments, run_pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_pipeline_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return run_pipeline(args, is_train=False)
