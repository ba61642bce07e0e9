"""Measure what LightBSR costs, against the released procedures; both take turns in one run.

    python benchmarks/run.py                                # all rows on the CPU; tables and plot go to build/bench
    python benchmarks/run.py --quick                        # small networks, a minute or two
    python benchmarks/run.py --device cuda --write-docs     # the GPU's table of docs/performance.md
    python benchmarks/run.py --rows inference growth        # some rows; the others keep what they had
    python benchmarks/run.py --rows precision --weights net_g_latest.pth --data datasets/benchmark/Set5

Rows besides those of the table: memory, growth, precision. What a row needs and is not there is named in the table.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import growth
import jobs
import machine
import precision
import report
import torch
from counting import gmacs
from plots import growth_plot
from rows import ROWS, Forms, upscale_as_the_command
from timing import Spread, interleaved

from lightbsr_compat import InputError
from lightbsr_compat.files import atomic_write

ROOT = Path(__file__).parents[1]
SECTIONS = ("memory", "growth", "precision")


def measure_row(name: str, sizes: jobs.Sizes, device: torch.device, args: Any) -> dict[str, Any]:
    """By form: seconds, ratio, multiply-accumulates and peak memory, or the reason why there are none."""
    forms = ROWS[name].make(sizes, device)
    baseline = next(iter(forms.functions))
    results: dict[str, Any] = {form: {} for form in forms.functions}
    results |= {form: {"reason": reason} for form, reason in forms.missing.items()}
    working = {}
    for form, function in forms.functions.items():
        try:
            hidden = form in forms.hidden
            counted = _counted(function, forms.has_products and not hidden)
            results[form]["gmacs"] = results[baseline].get("gmacs") if hidden else counted
            working[form] = function
        except Exception as error:  # no memory, no compiler; other runtimes have classes of their own
            results[form] = {"reason": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"}
    if baseline not in working:
        return results | {form: {"reason": f"nothing to compare with: {baseline!r} does not run"} for form in working}
    times = interleaved(working, device, budget=args.budget)
    first = [value * forms.factors.get(baseline, 1.0) for value in times[baseline]]
    for form, values in times.items():
        values = [value * forms.factors.get(form, 1.0) for value in values]
        # strict=False: a form that is too slow for the budget has one value, the others one a round.
        ratios = Spread.of([a / b for a, b in zip(values, first, strict=False)])
        spread = Spread.of(values)
        results[form].update(
            seconds=spread.as_json(),
            ratio=ratios.median,
            ratio_quartiles=[ratios.low, ratios.high],
            peak_mib=_peak(name, form, forms, sizes, device) if args.memory else None,
        )
    return results


def _counted(function: Callable[[], Any], has_products: bool) -> float | None:
    """Call a function for the first time, and count its multiply-accumulates in 1e9 if it has any."""
    if has_products:
        return gmacs(function) or None
    function()
    return None


def _peak(name: str, form: str, forms: Forms, sizes: jobs.Sizes, device: torch.device) -> float | None:
    if device.type == "cuda":
        return machine.peak_mib(forms.functions[form], device)
    if isinstance(forms.functions[form], machine.Elsewhere):
        return None  # it keeps what others give back
    printed = machine.in_own_process("--peak", name, form, "--sizes", sizes.name, "--device", "cpu")
    return None if printed is None else float(printed)


def _add_fractions(row: dict[str, Any], ceiling: float) -> None:
    """Which part of the matrix ceiling each form reaches."""
    for form in row.values():
        if form.get("gmacs"):
            form["fraction"] = form["gmacs"] / form["seconds"]["median"] / ceiling


def _sections(results: dict[str, Any], wanted: set[str], sizes: jobs.Sizes, device: torch.device, args: Any) -> None:
    if "memory" in wanted:
        if device.type == "cuda":
            results["memory"] = growth.measure_memory(sizes, device)
        else:
            batch, lr = growth.PAPER_BATCH, growth.PAPER_LR
            results["memory"] = [asdict(one) for one in growth.estimate_memory(sizes, batch=batch, lr=lr)]
    if "growth" in wanted:
        results["growth"] = growth.measure(sizes, device, args.budget, ranks=not args.quick)
    if "precision" in wanted and (args.rows or Path(args.data).is_dir()):
        results["precision"] = precision.measure(args.weights, Path(args.data), device)
        results["precision_of"] = f"{Path(args.weights).name} on {Path(args.data).name}"
    results["plan"] = []
    if not sizes.network:  # the papers' networks
        results["plan"] = growth.plan(results["rows"], sizes, measured=device.type == "cuda")


def _previous(path: Path, described: dict[str, Any]) -> dict[str, Any]:
    """The results that a run of some rows goes on with: of the same machine, versions and sizes, or nothing."""
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
        same = json.loads(json.dumps(described))
        if all(results[name] == same[name] for name in ("machine", "versions", "sizes")):
            return results
    return {"rows": {}}


def run(args: Any) -> None:
    """Measure, and write JSON, Markdown and plot."""
    device = torch.device(args.device)
    sizes = jobs.SIZES[args.sizes or ("quick" if args.quick else device.type)]
    known = [name for name, row in ROWS.items() if device.type in row.devices]
    wanted = args.rows or [*known, *SECTIONS]
    out = Path(args.out)
    described = {**machine.describe(device), "sizes": asdict(sizes)}
    results = _previous(out / f"{device.type}.json", described) if args.rows else {"rows": {}}
    results.update(described, runs=results.get("runs", 0) + 1)
    small = sizes.name in ("tiny", "quick")
    results["ceilings"] = machine.ceilings(device, side=512 if small else 4096, megabytes=16 if small else 400)
    for name in wanted:
        if name in known:
            print(f"{ROWS[name].title} ...", end=" ", flush=True)
            results["rows"][name] = measure_row(name, sizes, device, args)
            _add_fractions(results["rows"][name], results["ceilings"]["gmacs"])
            forms = results["rows"][name].items()
            print(", ".join(f"{form}: {r.get('reason') or format(r.get('ratio', 0), '.3g')}" for form, r in forms))
            torch.compiler.reset()
    _sections(results, set(wanted), sizes, device, args)
    text = report.markdown(results, device.type)
    _write(out / f"{device.type}.json", json.dumps(results, indent=1) + "\n")
    _write(out / f"{device.type}.md", text)
    if results.get("growth"):
        _write_plot(out / f"growth_{device.type}.png", results["growth"])
    if args.write_docs:
        if results.get("growth"):
            _write_plot(ROOT / "docs" / "images" / f"growth_{device.type}.png", results["growth"])
            text += f"\n![How time and memory grow](images/growth_{device.type}.png)\n"
        report.write_into(ROOT / "docs" / "performance.md", device.type, text)
    print(f"written: {out / device.type}.json, .md")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def _write_plot(path: Path, series: list[dict[str, Any]]) -> None:
    with atomic_write(path) as temporary:
        cv2.imwrite(temporary, growth_plot(series))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=[*ROWS, *SECTIONS], help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="small networks, little time, no memory")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--budget", type=float, help="seconds of measuring for each row (20; quick: 2)")
    parser.add_argument("--weights", default="lightbsr_x4_iso", help="for the row precision: file, or packaged weights")
    parser.add_argument("--data", default="datasets/benchmark/Set5", help="folder of HR images, for the row precision")
    parser.add_argument("--out", default=str(ROOT / "build" / "bench"))
    parser.add_argument("--write-docs", action="store_true", help="fill the tables of docs/performance.md")
    parser.add_argument("--sizes", choices=list(jobs.SIZES), help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=2, metavar=("ROW", "FORM"), help=argparse.SUPPRESS)
    parser.add_argument("--serve-command", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank-step", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.budget = args.budget or (2.0 if args.quick else 20.0)
    args.memory = not (args.quick or args.no_memory)
    device = torch.device(args.device)
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device is 'cuda', but PyTorch finds no GPU here")
        if args.write_docs and args.quick:
            raise InputError(
                "--write-docs does not go with --quick: the documentation's figures are those of full sizes"
            )
        if args.peak:
            row, form = args.peak
            made: Callable[[], Any] = ROWS[row].make(jobs.SIZES[args.sizes], device).functions[form]
            print(machine.peak_mib(made, device))
        elif args.serve_command:
            machine.serve(upscale_as_the_command(jobs.SIZES[args.sizes], device))
        elif args.rank_step:
            growth.rank_step(jobs.SIZES[args.sizes], device)
        else:
            run(args)
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
