"""``lightbsr benchmark``: score methods on test sets under a protocol; a table, CSV, Markdown and an HTML report."""

import argparse
import sys
from typing import TYPE_CHECKING

from lightbsr_cli import at_least
from lightbsr_compat import InputError, require_basicsr

if TYPE_CHECKING:
    from .scoring import Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the test sets, e.g. DIR/Set5/*.png")
    parser.add_argument(
        "--protocol", default="iso", metavar="P", help="iso (default), gaussian8, aniso9, paired, real or a file"
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
    parser.add_argument(
        "--speed-size",
        type=at_least(1),
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the LR image that is timed (256 256 on a GPU, else 64 64)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status, 1 where an image has no score."""
    require_basicsr("lightbsr benchmark")
    return 1 if benchmark(args).failures else 0


def benchmark(args: argparse.Namespace) -> "Results":
    """Score, print the tables, and write ``results.csv``, ``results.md`` and ``report.html``.

    Args:
        args: of the command line.

    Returns:
        All scores; ``failures`` has a sentence for every image without a score.

    Raises:
        InputError: anything that makes the whole run meaningless.
    """
    import os
    import platform

    import torch

    import lightbsr
    from lightbsr.files import write_file
    from lightbsr.upscaling.upscaler import pick_device

    from .cost import measure
    from .image_sets import find_sets
    from .methods import common_scale, make_methods
    from .protocols import load_protocol, paper_tables
    from .report import to_html
    from .scoring import Results, make_metrics, score_all
    from .tables import ablation_tables, caption, set_table, to_csv

    protocol, device = load_protocol(args.protocol), pick_device(args.device)
    methods = make_methods(args.method, device)
    scale = common_scale(methods, args.scale)
    labels = list(protocol.degradations(scale))
    sets, missing = find_sets(args.data, protocol, args.sets, scale)
    metrics, notes = make_metrics(protocol.metrics, crop_border=scale, device=device)
    if not metrics:
        raise InputError(f"protocol {args.protocol!r} has no score that can be computed here: {'; '.join(notes)}")
    results = Results(protocol, scale, sets, labels, list(metrics), [method.name for method in methods])
    score_all(results, methods, metrics)

    h, w = next((table.lr_size for _, table in paper_tables(protocol.name, scale)), [256, 256])
    height, width = args.speed_size or ((256, 256) if device.type == "cuda" else (64, 64))
    results.sizes = measure(methods, device, lr_size=(h, w), speed_size=(height, width))
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    notes.append(f"GMACs: multiply-accumulates in 1e9 of an LR image of {h}x{w}; ms: of {height}x{width} on {machine}.")
    if missing:
        notes.append(f"Sets of the protocol that are not in {args.data!r}: {', '.join(missing)}.")
    notes.append(f"lightbsr {lightbsr.__version__}, PyTorch {torch.__version__}.")

    tables = [*(set_table(results, image_set) for image_set in sets), *ablation_tables(results)]
    text = "\n\n".join([caption(results), *(table.markdown() for table in tables), *notes])
    print(text)
    failed = "".join(f"- {sentence}\n" for sentence in results.failures)
    page = f"# lightbsr benchmark\n\n{text}\n" + f"\nImages left out of the means:\n\n{failed}" * bool(failed)
    out = args.out or os.path.join("results", f"benchmark_{protocol.name}_x{scale}")
    write_file(os.path.join(out, "results.md"), page)
    write_file(os.path.join(out, "results.csv"), to_csv(results))
    write_file(os.path.join(out, "report.html"), to_html(results, tables, notes))
    print(f"\nwritten: {os.path.join(out, 'report.html')}, results.md, results.csv")
    for sentence in results.failures:
        print(f"lightbsr: error: {sentence}", file=sys.stderr)
    return results
