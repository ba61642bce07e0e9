"""The command line: ``lightbsr COMMAND`` and ``python -m lightbsr COMMAND``.

A command is a module with ``add_arguments(parser)`` and ``run(args) -> exit status``, imported when it is called. This
module lies outside the package ``lightbsr`` and imports the standard library alone, so that help and mistakes on the
command line are answered without importing PyTorch.
"""

import argparse
import importlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn

EXIT_INPUT_ERROR = 2
EXIT_UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 128 + signal.SIGINT
# Freed memory is kept: large tensors would request it again page by page.
MALLOC_SETTINGS = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=0x10000000000"

# name: (module, what it does)
COMMANDS = {
    "upscale": ("lightbsr.upscaling.command", "upscale images"),
    "train": ("lightbsr.train", "train a network with BasicSR's train loop"),
    "test": ("lightbsr.test", "test a network with BasicSR's test loop"),
    "check": ("lightbsr.check", "check an option file, its data and this machine, without training"),
    "prepare": ("lightbsr.prepare", "make an LMDB of overlapping sub-images for training"),
    "benchmark": ("lightbsr.evaluation.benchmark", "score methods under a paper's test protocol"),
    "idr": ("lightbsr.evaluation.idr", "score how well a network tells degradations apart"),
    "convert": ("lightbsr.convert", "convert a checkpoint of the papers' released format, or packaged weights"),
    "export": ("lightbsr.export", "export weights as an ONNX model"),
    "demo": ("lightbsr.demo", "train, test and look at a tiny LightBSR on this machine's CPU"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_INPUT_ERROR, f"lightbsr: error: {message} ({self.prog} --help lists the options)\n")


def at_least(minimum: int) -> Callable[[str], int]:
    """The ``type`` of a command-line option that is a whole number from ``minimum`` up."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        return value

    return number


def _front_parser() -> Parser:
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"    {name:{width}}{text}" for name, (_, text) in COMMANDS.items())
    parser = Parser(
        prog="lightbsr",
        description="LightBSR for BasicSR: train, test and use light blind super-resolution networks.",
        epilog=f"commands:\n{listing}\n\nlightbsr COMMAND --help describes one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lightbsr {metadata.version('lightbsr')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unforeseen error")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    return parser


def _sentences(error: Exception) -> list[str]:
    """An error's sentences, without the traceback that torch puts around an error of a data-loading worker."""
    lines = str(error).splitlines()
    if len(lines) > 1 and "DataLoader worker" in lines[0]:
        lines = [lines[-1].partition("InputError: ")[2] or lines[-1]]
    return lines


def _report_unforeseen(error: Exception, argv: Sequence[str]) -> None:
    """Print one sentence, and write the traceback to a file in the working folder, or in the system's temporary one."""
    lines = str(error).strip().splitlines() or ["no message"]
    sentence = f"lightbsr: error: unforeseen {type(error).__name__}: {lines[0]}"
    text = f"lightbsr {metadata.version('lightbsr')}\ncommand: {list(argv)}\n\n{traceback.format_exc()}"
    for folder in (".", None):
        path = None
        try:
            descriptor, path = tempfile.mkstemp(".txt", "lightbsr_error_", folder)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            if path is not None:  # half written: the disk is full
                os.remove(path)
            continue
        sentence += f" (a bug: please report it with {path})"
        break
    print(sentence, file=sys.stderr)


def run_command(name: str, argv: Sequence[str]) -> int:
    """Import a command, parse its arguments and run it; returns the exit status."""
    command = importlib.import_module(COMMANDS[name][0])
    parser = Parser(prog=f"lightbsr {name}", description=f"{COMMANDS[name][1][0].upper()}{COMMANDS[name][1][1:]}.")
    command.add_arguments(parser)
    return command.run(parser.parse_args(argv))


def set_allocator() -> None:
    """On Linux, restart this process with glibc settings for large tensors, which hold from a process's start alone.

    Where ``GLIBC_TUNABLES`` is set already nothing happens; other C libraries ignore it.
    """
    if sys.platform.startswith("linux") and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = MALLOC_SETTINGS
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def console(argv: Sequence[str] | None = None) -> int:
    """Run one command in a process of its own; as ``main``."""
    set_allocator()
    return main(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 (some images failed, or a data-loading worker died), 2 (an error of the input), 70 (an
        error that nobody foresaw: one sentence, the traceback in a file) or 130 (interrupted at once).

    Raises:
        Exception: an error that nobody foresaw, under ``--debug`` before the command.
        SystemExit: with status 75 where a signal has stopped training in order, everything saved.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    num_front = 2 if argv[:1] == ["--debug"] else 1
    front = _front_parser().parse_args(argv[:num_front])
    try:
        return run_command(front.command, argv[num_front:])
    except KeyboardInterrupt:
        print("lightbsr: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        from lightbsr_compat.errors import InputError

        if not isinstance(error, InputError):
            if front.debug:
                raise
            _report_unforeseen(error, argv)
            return EXIT_UNFORESEEN
        for sentence in _sentences(error):
            print(f"lightbsr: error: {sentence}", file=sys.stderr)
        return EXIT_INPUT_ERROR


if __name__ == "__main__":
    sys.exit(console())
