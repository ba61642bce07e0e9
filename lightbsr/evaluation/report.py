"""The report: one HTML page that needs nothing else, neither network nor files beside it."""

import io
import math
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from lightbsr.pages import data_url, render

from .methods import BICUBIC
from .protocols import MEAN
from .scoring import Results
from .tables import DIGITS, NAMES, Row, Table, caption, set_rows

_COLUMNS = 2  # of plots
_AREA, _AREA_OF_A_MILLION = 40, 30  # square points of a plot's point, and for a million parameters
_LEAST_AREA_OF_A_STAR = 150


def complexity_plot(title: str, panels: Sequence[tuple[str, list[Row]]], metric: str) -> bytes | None:
    """Score against multiply-accumulates, a point's area by its parameters, as LightBSR's and KDSR's Figure 1.

    Args:
        title: of the figure.
        panels: a set's name and rows; rows that lack the mean score, GMACs or parameters are not drawn.
        metric: what is drawn.

    Returns:
        A PNG file; None where there is nothing to draw.
    """
    drawn = []
    for name, rows in panels:
        complete = [
            r for r in rows if r.size.gmacs and r.size.parameters and (MEAN, metric) in r.figures and r.comparable
        ]
        if complete:
            drawn.append((name, complete))
    if not drawn:
        return None
    columns = min(_COLUMNS, len(drawn))
    lines = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(6.5 * columns, 4.2 * lines), layout="constrained")
    figure.suptitle(title)
    titles = dict.fromkeys(row.title for _, rows in drawn for row in rows)
    colours = {row_title: colormaps["tab20"](i % 20) for i, row_title in enumerate(titles)}
    for i, (name, rows) in enumerate(drawn, 1):
        axes = figure.add_subplot(lines, columns, i)
        for row in rows:
            assert row.size.gmacs is not None and row.size.parameters is not None
            point = (row.size.gmacs, row.figures[MEAN, metric])
            area = _AREA + _AREA_OF_A_MILLION * row.size.parameters
            look: Any = {"s": area, "alpha": 0.7, "marker": "o"}
            if row.is_ours:
                look = {"s": max(area, _LEAST_AREA_OF_A_STAR), "marker": "*", "edgecolors": "black", "zorder": 3}
            axes.scatter(*point, color=colours[row.title], label=row.title, **look)
        axes.set(title=name, xlabel="GMACs", ylabel=NAMES[metric], xscale="log")
        axes.margins(0.15)
        axes.grid(alpha=0.3)
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        for handle in legend.legend_handles:
            handle.set_sizes([_AREA])  # type: ignore[union-attr]
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _comparisons(results: Results) -> list[dict[str, object]]:
    """The worst, median and best image of each set, as the first method that is not bicubic has them; all pictures."""
    ranking = next((name for name in results.methods if name != BICUBIC), BICUBIC)
    metric, comparisons = results.metrics[0], []
    for image_set in results.sets:
        order = results.rank(ranking, image_set.name)
        places: dict[int, str] = {}
        for place, i in (("worst", 0), ("median", len(order) // 2), ("best", -1)) if order else ():
            places.setdefault(order[i], place)
        for index, place in places.items():
            stored = results.pictures[image_set.name, index]
            names = [name for name in (*results.methods, "LR", "HR") if name in stored]
            pictures = []
            for name in names:
                scores = results.scores.get((name, image_set.name, results.picture_setting, metric))
                label = f"{name} {scores[index]:.{DIGITS[metric]}f}" if scores else name
                pictures.append((label, data_url(stored[name], "jpeg")))
            after = len(names) - 1 if ranking == BICUBIC else names.index(ranking)
            text = f"{image_set.name}, {image_set.images[index].name}: {place} for {ranking}"
            comparisons.append({"text": text, "pictures": pictures, "after": after})
    return comparisons


def to_html(results: Results, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The whole page."""
    metric = results.metrics[0]
    panels = [(image_set.title, set_rows(results, image_set)) for image_set in results.sets]
    plot = complexity_plot(f"{NAMES[metric]} against computation; area: parameters; stars: ours", panels, metric)
    return render(
        "evaluation/report.html",
        title=f"lightbsr benchmark: {results.protocol.name}, x{results.scale}",
        caption=caption(results),
        failures=results.failures,
        tables=tables,
        plot=None if plot is None else data_url(plot, "png"),
        setting=results.picture_setting,
        comparisons=_comparisons(results),
        notes=notes,
    )
