"""The results of a benchmark as a table: Markdown, CSV and JSON."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cells import Cell
from .cost import GMACS_SIDE, Cost
from .methods import Method
from .papers import MEAN, PaperFigures
from .protocols import Protocol

DIGITS = {"psnr": 2, "ssim": 4, "niqe": 3}
UNITS = {"psnr": "PSNR in dB", "ssim": "SSIM", "niqe": "NIQE (lower is better)"}


@dataclass
class Results:
    """All that a benchmark found out.

    Attributes:
        about: versions, commit, device and the like.
        sets: names, in order.
        settings: labels, in order.
        cells: one per method, set and setting.
    """

    protocol: Protocol
    scale: int
    methods: Sequence[Method]
    sets: list[str]
    settings: list[str]
    cells: list[Cell]
    costs: dict[str, Cost]
    paper: PaperFigures
    about: dict[str, Any]

    @property
    def metric(self) -> str:
        """The first of the protocol's scores, which table and plots show."""
        return self.protocol.metrics[0]

    @property
    def rows(self) -> list[str]:
        """Settings that a table shows for each set: all, and their mean where there are several."""
        return [*self.settings, MEAN] if len(self.settings) > 1 else self.settings

    def cell(self, method: str, set_name: str, setting: str) -> Cell:
        """The cell of a method on a set under a setting."""
        return next(c for c in self.cells if (c.method, c.set_name, c.setting) == (method, set_name, setting))

    def score(self, method: str, set_name: str, setting: str, metric: str) -> float | None:
        """Our figure, or None where an image failed; the setting may be ``mean``."""
        if setting != MEAN:
            return self.cell(method, set_name, setting).score(metric)
        scores = [self.cell(method, set_name, s).score(metric) for s in self.settings]
        known = [score for score in scores if score is not None]
        return math.fsum(known) / len(known) if len(known) == len(scores) else None

    def printed(self, method: str, set_name: str, setting: str, metric: str) -> float | None:
        """The paper's figure for the same cell, or None."""
        return self.paper.get(method, set_name, setting, metric)

    @property
    def only_printed(self) -> list[str]:
        """Methods that papers print on these sets and that were not run."""
        run = {method.name.lower() for method in self.methods}
        return [
            name
            for name in self.paper.methods
            if name.lower() not in run
            and any(self.printed(name, s, r, self.metric) is not None for s in self.sets for r in self.rows)
        ]


def difference(ours: float | None, paper: float | None, metric: str) -> float | None:
    """Our figure, rounded as papers print it, less the paper's."""
    if ours is None or paper is None:
        return None
    return round(ours, DIGITS[metric]) - paper


def _text(value: float | None, digits: int, sign: str = "") -> str:
    if value is None:
        return "-"
    value = round(value, digits) + 0.0  # no -0.00
    return f"{value:{sign}.{digits}f}"


def score_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the one table: per set and setting, every method's figure, the paper's and the difference."""
    metric, digits = results.metric, DIGITS[results.metric]
    with_paper = {
        m.name: any(results.printed(m.name, s, r, metric) is not None for s in results.sets for r in results.rows)
        for m in results.methods
    }
    head = ["set", "setting"]
    for method in results.methods:
        head += [method.name] + (["paper", "difference"] if with_paper[method.name] else [])
    head += [f"{name} (paper)" for name in results.only_printed]
    rows = []
    for set_name in results.sets:
        for setting in results.rows:
            row = [set_name, setting]
            for method in results.methods:
                ours = results.score(method.name, set_name, setting, metric)
                paper = results.printed(method.name, set_name, setting, metric)
                row.append(_text(ours, digits))
                if with_paper[method.name]:
                    row += [_text(paper, digits), _text(difference(ours, paper, metric), digits, "+")]
            row += [_text(results.printed(n, set_name, setting, metric), digits) for n in results.only_printed]
            rows.append(row)
    return head, rows


def cost_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what the methods cost; no rows where none has a network."""
    sides = {cost.side for cost in results.costs.values() if cost.side}
    side = f"{next(iter(sides))}x{next(iter(sides))}" if sides else ""
    head = ["method", "parameters", "paper (M)", f"GMACs at {GMACS_SIDE}x{GMACS_SIDE}", "paper"]
    head += [f"ms at {side} on {results.about['device']}", f"peak MiB at {side}"]
    rows = []
    for method in results.methods:
        cost, paper = results.costs[method.name], results.paper.size(method.name)
        if cost.parameters is not None:
            rows.append(
                [
                    method.name,
                    f"{cost.parameters:,}",
                    _text(paper.get("parameters_millions"), 2),
                    _text(cost.gmacs, 2),
                    _text(paper.get("gmacs"), 2),
                    _text(cost.milliseconds, 1),
                    _text(cost.peak_mib, 1),
                ]
            )
    return head, rows


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def caption(results: Results) -> str:
    """One line that says what the table's figures are."""
    protocol = results.protocol
    text = f"{UNITS[results.metric]} on Y, protocol {protocol.name}, x{results.scale}"
    return f"{text} ({protocol.source})" if protocol.source else text


def failures(results: Results) -> list[str]:
    """A sentence for every image that failed."""
    return [sentence for cell in results.cells for sentence in cell.failures]


def provenance(results: Results) -> dict[str, Any]:
    """What the figures were made with: device, versions, commit, the protocol's and the weights' SHA-256."""
    weights = {
        f"weights of {method.name}": f"{os.path.basename(method.path)}, sha256 {method.checksum}"
        for method in results.methods
        if method.kind == "weights"
    }
    return {**results.about, "protocol sha256": results.protocol.checksum(results.scale), **weights}


def to_markdown(results: Results) -> str:
    """The whole result as Markdown."""
    parts = [f"# lightbsr benchmark: {results.protocol.name}, x{results.scale}", caption(results)]
    parts.append(markdown_table(*score_table(results)))
    if results.paper.sources:
        parts.append(f"Paper: {'; '.join(results.paper.sources)}.")
    head, rows = cost_table(results)
    if rows:
        parts.append(markdown_table(head, rows))
    failed = failures(results)
    if failed:
        parts.append("Images that failed:\n\n" + "\n".join(f"- {sentence}" for sentence in failed))
    parts.append("\n".join(f"- {key}: {value}" for key, value in provenance(results).items()))
    return "\n\n".join(parts) + "\n"


def to_csv(results: Results) -> str:
    """One cell a row, the mean over settings as a setting of its own."""
    metrics = results.protocol.metrics
    names = ["method", "set", "protocol", "scale", "setting", *metrics]
    names += [f"{kind}_{metric}" for metric in metrics for kind in ("paper", "difference")]
    names += ["images", "parameters", "gmacs", "milliseconds", "peak_mib", "weights_sha256"]
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for method in results.methods:
        cost = results.costs[method.name]
        common = {
            "method": method.name,
            "protocol": results.protocol.name,
            "scale": results.scale,
            "parameters": cost.parameters,
            "gmacs": cost.gmacs,
            "milliseconds": cost.milliseconds,
            "peak_mib": cost.peak_mib,
            "weights_sha256": method.checksum if method.kind == "weights" else "",
        }
        for set_name in results.sets:
            for setting in results.rows:
                row = {**common, "set": set_name, "setting": setting}
                row["images"] = len(results.cell(method.name, set_name, results.settings[0]).images)
                for metric in metrics:
                    ours = results.score(method.name, set_name, setting, metric)
                    paper = results.printed(method.name, set_name, setting, metric)
                    row[metric], row[f"paper_{metric}"] = ours, paper
                    gap = difference(ours, paper, metric)
                    row[f"difference_{metric}"] = "" if gap is None else _text(gap, DIGITS[metric])
                writer.writerow(row)
    return file.getvalue()


def to_json(results: Results) -> dict[str, Any]:
    """Everything, ready for ``json.dumps``: protocol, versions, weights, scores of every image."""

    def plain(value: Any) -> Any:
        return "inf" if isinstance(value, float) and math.isinf(value) else value  # JSON has no infinity

    protocol, metrics = results.protocol, results.protocol.metrics
    return {
        "protocol": {
            "name": protocol.name,
            "source": protocol.source,
            "sha256": protocol.checksum(results.scale),
            **protocol.facts,
            "metrics": list(metrics),
            "settings": {s.label: s.degradation for s in protocol.settings(results.scale)},
        },
        "scale": results.scale,
        **results.about,
        "methods": [
            {
                "name": method.name,
                "kind": method.kind,
                "path": method.path,
                "sha256": method.checksum if method.kind == "weights" else None,
                **asdict(results.costs[method.name]),
            }
            for method in results.methods
        ],
        "cells": [
            {
                "method": cell.method,
                "set": cell.set_name,
                "setting": cell.setting,
                "key": cell.key,
                "device": cell.device,
                **{metric: plain(cell.score(metric)) for metric in metrics},
                **{
                    f"paper_{metric}": results.printed(cell.method, cell.set_name, cell.setting, metric)
                    for metric in metrics
                },
                "images": [{k: plain(v) for k, v in image.items()} for image in cell.images],
                "failures": cell.failures,
            }
            for cell in results.cells
        ],
    }
