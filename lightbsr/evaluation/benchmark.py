"""``lightbsr benchmark``: score methods on test sets under a protocol; a table, CSV, Markdown and an HTML report."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightbsr_cli import at_least

if TYPE_CHECKING:
    from .scoring import Results


def benchmark(
    data: str,
    *,
    protocol: str = "iso",
    methods: Sequence[str] = (),
    sets: list[str] | None = None,
    out: str | None = None,
    scale: int | None = None,
    device: str | None = None,
    speed_size: tuple[int, int] | None = None,
) -> "Results":
    """Run a benchmark, print its tables, and write ``results.csv``, ``results.md`` and ``report.html``.

    Args:
        data: the folder that holds the sets.
        protocol: name or path.
        methods: ``NAME=WEIGHTS`` or ``NAME=FOLDER`` each; bicubic is always there.
        sets: names; None takes those of the protocol that are there.
        out: folder of the results.
        scale: only needed without weights, which say it themselves.
        device: None takes the GPU where there is one.
        speed_size: (height, width) of the LR image that is timed; None takes 256x256 on a GPU and 64x64 elsewhere.

    Returns:
        All scores; ``failures`` has a sentence for every image without a score.

    Raises:
        InputError: anything that makes the whole run meaningless.
    """
    import os
    import platform

    import torch

    import lightbsr
    from lightbsr.files import write_text
    from lightbsr_compat import InputError

    from .cost import measure
    from .image_sets import find_sets
    from .methods import common_scale, make_methods, pick_device
    from .protocols import load_protocol, paper_tables
    from .report import to_html
    from .scoring import Results, make_metrics, score_all
    from .tables import ablation_tables, caption, set_table, to_csv

    the_protocol, the_device = load_protocol(protocol), pick_device(device)
    the_methods = make_methods(methods, the_device)
    the_scale = common_scale(the_methods, scale)
    labels = list(the_protocol.degradations(the_scale))
    the_sets, missing = find_sets(data, the_protocol, sets, the_scale)
    metrics, notes = make_metrics(the_protocol.metrics, crop_border=the_scale, device=the_device)
    if not metrics:
        raise InputError(f"protocol {protocol!r} has no score that can be computed here: {'; '.join(notes)}")
    names = [method.name for method in the_methods]
    results = Results(the_protocol, the_scale, the_sets, labels, list(metrics), names)
    score_all(results, the_methods, metrics)

    lr_size = next((table.lr_size for _, table in paper_tables(the_protocol.name, the_scale)), [256, 256])
    speed_size = speed_size or ((256, 256) if the_device.type == "cuda" else (64, 64))
    sizes = measure(the_methods, the_device, lr_size=lr_size, speed_size=speed_size)
    device_name = torch.cuda.get_device_name(the_device) if the_device.type == "cuda" else platform.machine()
    tables = [set_table(results, sizes, image_set) for image_set in the_sets]
    tables += ablation_tables(results, sizes)
    (height, width), (h, w) = lr_size, speed_size
    notes.append(
        f"GMACs: multiply-accumulates in 1e9 of an LR image of {height}x{width}; ms: of {h}x{w} on {device_name}."
    )
    if missing:
        notes.append(f"Sets of the protocol that are not in {data!r}: {', '.join(missing)}.")
    notes.append(f"lightbsr {lightbsr.__version__}, PyTorch {torch.__version__}.")

    text = "\n\n".join([caption(results), *(table.markdown() for table in tables), *notes])
    print(text)
    failed = "".join(f"- {sentence}\n" for sentence in results.failures)
    page = f"# lightbsr benchmark\n\n{text}\n" + f"\nImages left out of the means:\n\n{failed}" * bool(failed)
    out = out or os.path.join("results", f"benchmark_{the_protocol.name}_x{the_scale}")
    write_text(os.path.join(out, "results.md"), page)
    write_text(os.path.join(out, "results.csv"), to_csv(results, sizes))
    write_text(os.path.join(out, "report.html"), to_html(results, sizes, tables, notes))
    print(f"\nwritten: {os.path.join(out, 'report.html')}, results.md, results.csv")
    for sentence in results.failures:
        print(f"lightbsr: error: {sentence}", file=sys.stderr)
    return results


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
    from lightbsr.upscaling.memory import keep_freed_memory
    from lightbsr_compat import require_basicsr

    require_basicsr("lightbsr benchmark")
    keep_freed_memory()
    results = benchmark(
        args.data,
        protocol=args.protocol,
        methods=args.method,
        sets=args.sets,
        out=args.out,
        scale=args.scale,
        device=args.device,
        speed_size=args.speed_size and tuple(args.speed_size),
    )
    return 1 if results.failures else 0
