"""Results as Markdown, and into the marked places of docs/performance.md."""

from pathlib import Path
from typing import Any

from growth import PAPER_BATCH, PAPER_LR, PRICE, RATE
from precision import MOST, SIGMA
from rows import OPTIONS, OURS, PUBLISHED, ROWS

from lightbsr_compat import InputError
from lightbsr_compat.files import atomic_write

NOT_MEASURED = "not measured"


def _seconds(spread: dict[str, float]) -> str:
    return f"{spread['median']:.4g} s ({spread['low']:.3g}-{spread['high']:.3g})"


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} MiB"


def _line(title: str, target: float | None, first: dict[str, Any], form: dict[str, Any]) -> tuple[str, ...]:
    goal = "" if target is None else f"<= {target:g}"
    if "ratio" not in form or "ratio" not in first:
        reason = form.get("reason") or first.get("reason")
        return (title, f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED, "", goal, "", "", "")
    ratio, (low, high) = form["ratio"], form["ratio_quartiles"]
    verdict = "" if target is None else " (reached)" if ratio <= target else " (missed)"
    return (
        title,
        _seconds(first["seconds"]),
        _seconds(form["seconds"]),
        goal,
        f"{ratio:.3g} ({low:.3g}-{high:.3g}){verdict}",
        "" if form.get("peak_mib") is None else f"{_mib(first.get('peak_mib'))} -> {_mib(form['peak_mib'])}",
        f"{form['fraction']:.0%}" if "fraction" in form else "",
    )


_HEAD = ("to reach", "ratio", "peak memory", "of the matrix ceiling")


def table(results: dict[str, Any], device: str) -> str:
    """The table of all rows for a device; what was not measured says so."""
    lines = []
    for name, row in ROWS.items():
        if device not in row.devices or name == "options":
            continue
        measured = results.get("rows", {}).get(name, {})
        first = next(iter(measured.values()), {})
        for form in list(measured)[1:] or row.targets:
            title = row.title if form == OURS else f"{row.title}, {form}"
            lines.append(_line(title, row.targets.get(form), first, measured.get(form, {})))
    return _table(("work", PUBLISHED, OURS, *_HEAD), lines)


def options_table(results: dict[str, Any]) -> str:
    """The student's stage 2 with each option, beside all of them off."""
    measured = results.get("rows", {}).get("options", {})
    names = [name for name in OPTIONS if name != "off"]
    lines = [_line(name, None, measured.get("off", {}), measured.get(name, {})) for name in names]
    return _table(("option", "off", "on", *_HEAD), lines)


def _growth_table(results: dict[str, Any]) -> str:
    lines = []
    for one in results["growth"]:
        points = ", ".join(f"{x:g}: {y:.3g} s" for x, y in zip(one["x"], one["seconds"], strict=True))
        memory = f"{one['memory_exponent']:.2f}" if "memory_exponent" in one else ""
        lines.append((one["name"], one["axis"], points, f"{one['exponent']:.2f}", memory))
    return _table(("work", "against", "median seconds", "exponent of time", "exponent of memory"), lines)


def _plan_table(results: dict[str, Any]) -> str:
    lines = []
    for one in results["plan"]:
        lines.append((one["kind"], one["who"], str(one["count"]), f"{one['hours']:,.1f} h", f"{one['cost']:,.0f} USD"))
    return _table(("network", "procedure", "GPUs", "hours", f"cost at {PRICE:g} USD a GPU hour"), lines)


def markdown(results: dict[str, Any], device: str) -> str:
    """All tables of a device's results; ``results`` may be empty."""
    parts = [table(results, device)]
    if results:
        best, sizes = results["ceilings"], results["sizes"]
        ceilings = "Ceilings measured in the same run"
        if results["runs"] > 1:
            ceilings = f"Rows of {results['runs']} runs; ceilings of the last one"
        parts.insert(
            0,
            f"{results['machine']}; {results['versions']}; {results['date']}; batch {sizes['batch']}, {sizes['views']}"
            f" views, LR {sizes['lr']}x{sizes['lr']}, inference {sizes['image']}x{sizes['image']}."
            f" {ceilings}: {best['gmacs']:.0f} GMAC/s (float32 matrix product),"
            f" {best['gigabytes']:.0f} GB/s (copy)." + (f" Network: {sizes['network']}." if sizes["network"] else ""),
        )
    parts += ["### Options of training (student, stage 2)", options_table(results)]
    of_run = device == "cuda" and results
    batch, lr = (results["sizes"]["batch"], results["sizes"]["lr"]) if of_run else (PAPER_BATCH, PAPER_LR)
    parts.append(f"### Memory of the student's stage 2, batch {batch}, LR {lr}x{lr}")
    if results.get("memory"):
        kind = "measured" if device == "cuda" else "estimated from what the forward pass keeps, counted on the CPU"
        lines = [
            (one["options"], "out of memory" if one["gigabytes"] is None else f"{one['gigabytes']:.1f} GB")
            for one in results["memory"]
        ]
        parts.append(_table(("options", kind), lines))
    else:
        parts.append(f"{NOT_MEASURED}.")
    parts.append("### Reduced precision")
    if results.get("precision"):
        parts.append(f"PSNR of {results['precision_of']} (iso, sigma {SIGMA:g}):")
        lines = [(p["precision"], f"{p['psnr']:.4f} dB", f"{p['lost']:+.4f} dB") for p in results["precision"]]
        parts.append(_table(("precision", "PSNR", f"lost (at most {MOST} dB)"), lines))
    else:
        parts.append(f"{NOT_MEASURED}.")
    parts.append("### Growth")
    parts.append(_growth_table(results) if results.get("growth") else f"{NOT_MEASURED}.")
    parts.append("### The papers' training on paper")
    if results.get("plan"):
        reckoned = f"Not measured: the counted work, on GPUs that are *assumed* to sustain {RATE / 1000:g} TMAC/s."
        parts.append("From the measured steps of one GPU." if device == "cuda" else reckoned)
        parts.append(_plan_table(results))
    else:
        parts.append(f"{NOT_MEASURED}.")
    return "\n\n".join(parts) + "\n"


def write_into(path: Path, device: str, text: str) -> None:
    """Replace what stands between ``<!-- begin DEVICE -->`` and ``<!-- end DEVICE -->``.

    Raises:
        InputError: the markers are not there.
    """
    begin, end = f"<!-- begin {device} -->", f"<!-- end {device} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{str(path)!r} has no place for these figures: {begin} and {end} are missing")
    with atomic_write(path) as temporary:
        Path(temporary).write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
