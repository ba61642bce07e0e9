"""``lightbsr benchmark``: run methods on sets under a protocol, and write table, CSV, JSON and report."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

import lightbsr
from lightbsr.files import atomic_write
from lightbsr.upscaling.memory import keep_freed_memory
from lightbsr_cli import at_least
from lightbsr_compat import InputError, require_basicsr

from .cells import CellRunner, CellStore
from .cost import measure
from .image_sets import find_sets
from .methods import common_scale, make_methods
from .papers import paper_figures
from .protocols import Protocol, load_protocol
from .report import to_html
from .tables import Results, caption, cost_table, failures, markdown_table, score_table, to_csv, to_json, to_markdown


def _commit() -> str | None:
    """The git commit of this package's own checkout, '+changes' where it is not clean; None outside a checkout."""
    folder = os.path.dirname(os.path.abspath(lightbsr.__file__))

    def git(*words: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True)
        except OSError:  # no git
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed below somebody else's checkout
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain") else commit


def _about(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
    versions = {p: importlib.metadata.version(p) for p in ("lightbsr", "basicsr", "torch", "numpy", "opencv-python")}
    return {
        "device": name,
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def check_out(out: str, protocol: Protocol, scale: int) -> None:
    """Refuse a folder with the results of another protocol or scale, which would be overwritten."""
    path = os.path.join(out, "results.json")
    if not os.path.isfile(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        found = (before["protocol"]["name"], before["scale"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path!r} is not a result of lightbsr: name another folder with --out") from None
    if found != (protocol.name, scale):
        raise InputError(
            f"results folder {out!r} holds protocol {found[0]!r} at x{found[1]}, but this is {protocol.name!r} at"
            f" x{scale}: name another folder with --out"
        )


def write_text(path: str, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None takes the GPU where there is one.

    Raises:
        InputError: no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def benchmark(
    data: str,
    *,
    protocol: str = "iso",
    methods: Sequence[str] = (),
    sets: list[str] | None = None,
    out: str | None = None,
    scale: int | None = None,
    device: str | None = None,
    workers: int = 0,
    speed_side: int | None = None,
) -> int:
    """Run a benchmark, print its table, and write ``results.csv``, ``.json``, ``.md`` and ``report.html``.

    Args:
        data: the folder that holds the sets.
        protocol: name or path.
        methods: ``NAME=WEIGHTS`` or ``NAME=FOLDER`` each; bicubic is always there.
        sets: names; None takes those of the protocol that are there.
        out: folder of the results; finished cells in it are not computed again.
        scale: only needed without weights, which say it themselves.
        device: as in ``pick_device``.
        workers: processes that degrade images beside this one; the scores do not depend on it.
        speed_side: pixels of the square LR image that time and memory are measured with; None takes 256 on a GPU
            and 64 elsewhere.

    Returns:
        How many images failed; each is named on standard error.

    Raises:
        InputError: anything that makes the whole run meaningless.
    """
    the_protocol = load_protocol(protocol)
    the_device = pick_device(device)
    the_methods = make_methods(methods, the_device)
    the_scale = common_scale(the_methods, scale)
    settings = [setting.label for setting in the_protocol.settings(the_scale)]
    the_sets = find_sets(data, the_protocol, sets, the_scale)
    out = out or os.path.join("results", f"benchmark_{the_protocol.name}_x{the_scale}")
    check_out(out, the_protocol, the_scale)
    about = _about(the_device)
    store = CellStore(out)
    runner = CellRunner(the_protocol, the_scale, store, device=about["device"], workers=workers)
    cells = runner.run(the_methods, the_sets)
    results = Results(
        protocol=the_protocol,
        scale=the_scale,
        methods=the_methods,
        sets=[image_set.name for image_set in the_sets],
        settings=settings,
        cells=cells,
        costs=measure(the_methods, the_device, speed_side or (256 if the_device.type == "cuda" else 64)),
        paper=paper_figures(the_protocol.name, the_scale),
        about=about,
    )
    write_text(os.path.join(out, "results.json"), json.dumps(to_json(results), indent=1, allow_nan=False) + "\n")
    write_text(os.path.join(out, "results.csv"), to_csv(results))
    write_text(os.path.join(out, "results.md"), to_markdown(results))
    write_text(os.path.join(out, "report.html"), to_html(results, the_sets, store))
    print(f"{caption(results)}\n\n{markdown_table(*score_table(results))}\n")
    head, rows = cost_table(results)
    if rows:
        print(f"{markdown_table(head, rows)}\n")
    print(f"written: {os.path.join(out, 'report.html')}, results.md, results.csv, results.json")
    failed = failures(results)
    for sentence in failed:
        print(f"lightbsr: error: {sentence}", file=sys.stderr)
    return len(failed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the test sets, e.g. DIR/Set5/*.png")
    parser.add_argument(
        "--protocol",
        default="iso",
        metavar="P",
        help="iso (default), gaussian8, aniso9, aniso9_narrow, real or a file",
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a checkpoint, the name of packaged weights, or a folder of finished images SET/SETTING/IMAGE.png; may be"
        " given again",
    )
    parser.add_argument(
        "--sets", nargs="+", metavar="NAME", help="sets (default: those of the protocol that are there)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the results (results/benchmark_PROTOCOL_xS)")
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), help="needed without weights only (4)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--workers", type=at_least(0), default=1, metavar="N", help="processes that degrade (1)")
    parser.add_argument(
        "--speed-side",
        type=at_least(1),
        metavar="PIXELS",
        help="side of the LR image that speed is measured with",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    require_basicsr("lightbsr benchmark")
    keep_freed_memory()
    failed = benchmark(
        args.data,
        protocol=args.protocol,
        methods=args.method,
        sets=args.sets,
        out=args.out,
        scale=args.scale,
        device=args.device,
        workers=args.workers,
        speed_side=args.speed_side,
    )
    return 1 if failed else 0
