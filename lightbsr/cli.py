"""The command line: ``lightbsr COMMAND`` and ``python -m lightbsr COMMAND``."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import lightbsr
from lightbsr_compat import InputError, require_basicsr

EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightbsr", description="LightBSR for BasicSR: train, test and use light blind super-resolution networks."
    )
    parser.add_argument("--version", action="version", version=f"lightbsr {lightbsr.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    for name, text in (
        ("train", "train a network with BasicSR's train loop"),
        ("test", "test a network with BasicSR's test loop"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        command.add_argument("-opt", required=True, metavar="FILE", help="option file, or the name of a packaged one")
        command.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
        command.add_argument("--auto_resume", action="store_true", help="go on from the newest training state")
        command.add_argument("--debug", action="store_true", help="BasicSR's debug mode: short intervals")
        command.add_argument(
            "--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="change options, e.g. train:ema_decay=0.999"
        )

    command = commands.add_parser("upscale", help="upscale images", description="Upscale images to PNG files.")
    command.add_argument("input", nargs="+", help="image files, or folders of images")
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the results, NAME_xS.png")
    command.add_argument("--weights", required=True, metavar="FILE", help="a student's checkpoint (.pth)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")

    command = commands.add_parser(
        "convert",
        help="convert a checkpoint of the papers' released format",
        description="Convert a released student or teacher of LightBSR or KDSR into a .pth of this package.",
    )
    command.add_argument("source", help="the released checkpoint")
    command.add_argument("target", help="the .pth to write")
    command.add_argument("--kernel-basis", metavar="FILE", help="for LightBSR's teacher: its 441x15 basis")
    command.add_argument("--setting", metavar="NAME", help="for KDSR's teacher: its degradation, such as iso")

    command = commands.add_parser(
        "demo",
        help="train, test and look at a tiny LightBSR on this machine's CPU",
        description="Train a tiny teacher and student on photographs that installed packages carry, test the student"
        " on a photograph it has not seen, and write pictures. About five minutes on two CPU cores.",
    )
    command.add_argument("-o", "--output", default="demo", metavar="DIR", help="new folder for everything (demo)")
    return parser


def _run_basicsr(args: argparse.Namespace, *, is_train: bool) -> int:
    require_basicsr(f"lightbsr {args.command}")
    from .option_files import find_option_file, load_checked_options

    path = find_option_file(args.opt)
    load_checked_options(path, args.force_yml, is_train=is_train)
    argv = ["lightbsr", "-opt", path, "--launcher", args.launcher]
    argv += ["--auto_resume"] * args.auto_resume + ["--debug"] * args.debug
    argv += ["--force_yml", *args.force_yml] * bool(args.force_yml)
    sys.argv = argv  # BasicSR's pipelines parse the command line themselves
    if is_train:
        from basicsr.train import train_pipeline as pipeline
    else:
        from basicsr.test import test_pipeline as pipeline
    pipeline(os.getcwd())
    return 0


def _dispatch(args: argparse.Namespace) -> int:
    if args.command in ("train", "test"):
        return _run_basicsr(args, is_train=args.command == "train")
    if args.command == "upscale":
        from .upscale import upscale

        return 1 if upscale(args.input, args.output, weights=args.weights, device=args.device) else 0
    if args.command == "convert":
        from .convert import convert_file

        print(convert_file(args.source, args.target, kernel_basis_path=args.kernel_basis, setting=args.setting))
        return 0
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
    """Run one command; the exit status is 0, 1 (some images failed), 2 (an error of the input) or 130 (Ctrl-C)."""
    args = _parser().parse_args(argv)
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
