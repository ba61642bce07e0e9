"""What the command line takes: every command with its options."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

import lightbsr

from .weights import DEFAULT_WEIGHTS, packaged_weights


class _Parser(argparse.ArgumentParser):
    """One whose errors are a sentence, as all others are, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lightbsr: error: {message} ({self.prog} --help lists what there is)\n")


def _at_least(minimum: int) -> Callable[[str], int]:
    """The type of a command-line option that is a whole number."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        return value

    return number


def _add_benchmark(commands: Any) -> None:
    """Add ``lightbsr benchmark`` to the command line."""
    command = commands.add_parser(
        "benchmark",
        help="score methods under a paper's test protocol",
        description="Score bicubic interpolation, checkpoints and other tools' images under a test protocol, with the"
        " papers' figures beside ours; write a table, CSV, JSON and an HTML report. A second run computes only what"
        " is new.",
    )
    command.add_argument("--data", required=True, metavar="DIR", help="folder of the test sets, e.g. DIR/Set5/*.png")
    command.add_argument(
        "--protocol",
        default="iso",
        metavar="P",
        help="iso (default), gaussian8, aniso9, aniso9_narrow, real or a file",
    )
    command.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a checkpoint, the name of packaged weights, or a folder of finished images SET/SETTING/IMAGE.png; may be"
        " given again",
    )
    command.add_argument(
        "--sets", nargs="+", metavar="NAME", help="sets (default: those of the protocol that are there)"
    )
    command.add_argument("--out", metavar="DIR", help="folder of the results (results/benchmark_PROTOCOL_xS)")
    command.add_argument("--scale", type=int, choices=(2, 3, 4), help="needed without weights only (4)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    command.add_argument("--workers", type=_at_least(0), default=1, metavar="N", help="processes that degrade (1)")
    command.add_argument(
        "--speed-side",
        type=_at_least(1),
        metavar="PIXELS",
        help="side of the LR image that speed is measured with",
    )


def _add_idr(commands: Any) -> None:
    """Add ``lightbsr idr`` to the command line."""
    command = commands.add_parser(
        "idr",
        help="score how well a network tells degradations apart",
        description="Put several degradations on the same images and look at a network's representations of them:"
        " t-SNE pictures and scores (silhouette, nearest neighbours, Davies-Bouldin, linear probes).",
    )
    command.add_argument("--data", required=True, metavar="DIR", help="folder of HR images")
    command.add_argument(
        "--weights", required=True, nargs="+", metavar="[NAME=]FILE", help="students' or teachers', or packaged"
    )
    command.add_argument("--protocol", default="idr_iso", metavar="P", help="idr_iso (default), idr_aniso_noise, ...")
    command.add_argument("--out", metavar="DIR", help="folder of the results (results/idr_PROTOCOL_xS)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    command.add_argument("--images", type=_at_least(1), default=100, metavar="N", help="use at most N images (100)")


def _tile(text: str) -> int | str:
    """The type of --tile: auto, or a whole number."""
    return text if text == "auto" else _at_least(0)(text)


def _add_upscale(commands: Any) -> None:
    """Add ``lightbsr upscale`` to the command line."""
    command = commands.add_parser(
        "upscale",
        help="upscale images",
        description="Upscale images of any size. Bits (8 or 16), alpha, grey and colour profile are kept, orientation"
        " is applied; one bad image does not stop the rest (exit status 1), and images whose results are there"
        " already, and no older, are skipped."
        " Under torchrun each process takes its share of the images.",
    )
    command.add_argument("input", nargs="+", help="image files, folders, patterns, or - for standard input")
    command.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PATH",
        help="folder for the results, NAME_xS.png; for one image also a file, or - for standard output",
    )
    command.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="FILE",
        help=f"a student's checkpoint, or packaged weights: {', '.join(packaged_weights())} ({DEFAULT_WEIGHTS})",
    )
    command.add_argument("--format", choices=("png", "jpg", "webp", "tiff", "same"), help="of the results (png)")
    command.add_argument("--overwrite", action="store_true", help="make results anew that exist")
    command.add_argument("--self-ensemble", action="store_true", help="the mean over 8 flips: 8 times the work")
    command.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="N",
        help="side of tiles in pixels, 0 for none; auto (default): as large as memory allows",
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    command.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="to compute in (fp32)")
    command.add_argument(
        "--engine", choices=("torch", "onnx", "openvino"), default="torch", help="what runs the network (torch)"
    )


def _add_prepare(commands: Any) -> None:
    """Add ``lightbsr prepare`` to the command line."""
    command = commands.add_parser(
        "prepare",
        help="make an LMDB of overlapping sub-images for training",
        description="Cut the HR images below a folder into overlapping sub-images and write them into an LMDB that"
        " BasicSR reads. Killed at any moment, the same command goes on where it was.",
    )
    command.add_argument("source", metavar="SRC", help="folder of HR images; its sub-folders are looked into")
    command.add_argument("target", nargs="?", metavar="DST.lmdb", help="the LMDB to make")
    command.add_argument(
        "--size", type=_at_least(0), default=480, metavar="PIXELS", help="side of a sub-image (480); 0: whole images"
    )
    command.add_argument(
        "--step", type=_at_least(1), metavar="PIXELS", help="from one sub-image to the next (half of --size)"
    )
    command.add_argument(
        "--thresh",
        type=_at_least(0),
        default=0,
        metavar="PIXELS",
        help="leave out narrower strips at the edge (0)",
    )
    command.add_argument(
        "--min-side", type=_at_least(1), default=256, metavar="PIXELS", help="refuse smaller images; gt_size (256)"
    )
    command.add_argument(
        "--compression", type=_at_least(0), default=1, metavar="0-9", help="PNG's level: 1 (default) is fast, 9 small"
    )
    command.add_argument("--workers", type=_at_least(1), metavar="N", help="threads (default: one a core)")
    command.add_argument(
        "--verify",
        action="store_true",
        help="write nothing; compare DST.lmdb, which may stand alone, and SRC with the checksums in DST.lmdb",
    )


def _add_export(commands: Any) -> None:
    """Add ``lightbsr export`` to the command line."""
    command = commands.add_parser(
        "export",
        help="export weights as an ONNX model",
        description="Export a student's weights as an ONNX model of any batch, height and width, for ONNX Runtime,"
        " TensorRT, OpenVINO and ncnn. It is compared with PyTorch before it is written.",
    )
    command.add_argument("--weights", required=True, metavar="FILE", help="a student's checkpoint, or packaged")
    command.add_argument("--onnx", required=True, metavar="FILE", help="the .onnx to write")
    command.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="fp32 (default) or fp16")
    command.add_argument(
        "--opset", type=int, default=18, metavar="N", help="version of ONNX's operator set, 18 (default) to 22"
    )


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``command`` holds the command's name."""
    parser = _Parser(
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
        if name == "train":
            command.add_argument(
                "--time-limit",
                type=_at_least(1),
                metavar="SECONDS",
                help="stop in order after so long, as on Ctrl-C; --auto_resume goes on",
            )

    command = commands.add_parser(
        "check",
        help="check an option file, its data and this machine, without training",
        description="Name everything that would fail later; train and test do so themselves at their start.",
    )
    command.add_argument("-opt", required=True, metavar="FILE", help="option file, or the name of a packaged one")
    command.add_argument("--full", action="store_true", help="read all images, not a sample")
    command.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
    command.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="change options, e.g. train:ema_decay=0.999"
    )

    _add_upscale(commands)

    _add_prepare(commands)

    command = commands.add_parser(
        "convert",
        help="convert a checkpoint of the papers' released format, or packaged weights",
        description="Convert a released student or teacher of LightBSR or KDSR, or weights of ours, into a .pth or"
        " .safetensors of this package.",
    )
    command.add_argument("source", help="the checkpoint, or the name of packaged weights")
    command.add_argument("target", help="the .pth or .safetensors to write")
    command.add_argument("--kernel-basis", metavar="FILE", help="for LightBSR's teacher: its 441x15 basis")
    command.add_argument("--setting", metavar="NAME", help="for KDSR's teacher: its degradation, such as iso")

    _add_export(commands)
    _add_benchmark(commands)
    _add_idr(commands)

    command = commands.add_parser(
        "demo",
        help="train, test and look at a tiny LightBSR on this machine's CPU",
        description="Train a tiny teacher and student on photographs that installed packages carry, test the student"
        " on a photograph it has not seen, and write pictures. About five minutes on two CPU cores.",
    )
    command.add_argument("-o", "--output", default="demo", metavar="DIR", help="new folder for everything (demo)")
    return parser
