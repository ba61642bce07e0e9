"""The figures that papers print, as data: one file a paper in ``lightbsr/papers``."""

import importlib.resources
from dataclasses import dataclass, field
from typing import Any

from lightbsr_compat import InputError, did_you_mean, load_options

from .protocols import METRICS_WITH_HR

_TABLE_KEYS = ("name", "protocol", "scale", "metric", "settings", "methods")
_SIZE_KEYS = ("method", "scale", "parameters_millions", "gmacs")
MEAN = "mean"  # the setting of a figure that is the mean over all settings


@dataclass
class PaperFigures:
    """All printed figures of one protocol at one scale.

    Attributes:
        methods: names as printed, in the order of the files.
        sources: paper and table that the figures come from.
    """

    methods: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    _cells: dict[tuple[str, str, str, str], float] = field(default_factory=dict)
    _sizes: dict[str, dict[str, float]] = field(default_factory=dict)

    def get(self, method: str, set_name: str, setting: str, metric: str) -> float | None:
        """The printed figure of a cell, or None; the method's upper and lower case do not matter."""
        return self._cells.get((method.lower(), set_name, setting, metric))

    def size(self, method: str) -> dict[str, float]:
        """``parameters_millions`` and ``gmacs`` as printed; empty where there are none."""
        return self._sizes.get(method.lower(), {})


def _check_keys(path: str, what: str, entry: Any, known: tuple[str, ...]) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"paper {path!r}: {what} is {entry!r}, but must be a mapping")
    for key in entry:
        if key not in known:
            raise InputError(f"paper {path!r}: {what} has an unknown key {key!r}{did_you_mean(key, known)}")
    for key in known:
        if key not in entry:
            raise InputError(f"paper {path!r}: {what} lacks {key}")


def _add_table(figures: PaperFigures, path: str, table: dict[str, Any], source: str) -> None:
    if table["metric"] not in METRICS_WITH_HR:
        raise InputError(f"paper {path!r}: metric {table['metric']!r}{did_you_mean(table['metric'], METRICS_WITH_HR)}")
    figures.sources.append(f"{source}, {table['name']}")
    for method, rows in table["methods"].items():
        if method not in figures.methods:
            figures.methods.append(method)
        for set_name, row in rows.items():
            if len(row) != len(table["settings"]):
                raise InputError(
                    f"paper {path!r}: {table['name']}, {method}, {set_name} has {len(row)} figures, but"
                    f" {len(table['settings'])} settings"
                )
            for setting, figure in zip(table["settings"], row, strict=True):
                if figure is not None:
                    figures._cells[method.lower(), set_name, setting, table["metric"]] = figure


def paper_figures(protocol: str, scale: int) -> PaperFigures:
    """The figures that the packaged papers print for a protocol at a scale; empty where there are none.

    Raises:
        InputError: a paper's file with an unknown key, or a row of another length than its settings.
    """
    figures = PaperFigures()
    folder = importlib.resources.files("lightbsr") / "papers"
    for path in sorted(str(f) for f in folder.iterdir() if f.name.endswith(".yml")):
        paper = load_options(path)
        _check_keys(path, "the file", {"sizes": [], **paper}, ("source", "tables", "sizes"))
        for table in paper["tables"]:
            _check_keys(path, "a table", table, _TABLE_KEYS)
            if (table["protocol"], table["scale"]) == (protocol, scale):
                _add_table(figures, path, table, paper["source"])
        for size in paper.get("sizes", []):
            _check_keys(path, "a size", size, _SIZE_KEYS)
            if size["scale"] == scale:
                figures._sizes[size["method"].lower()] = size
    return figures
