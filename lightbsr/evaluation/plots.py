"""Line plots as inline SVG, without any library: a score over the settings, one line a method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _WIDE, _PLOT_HEIGHT, _LEFT, _RIGHT, _TOP = 420, 860, 200, 48, 12, 14


@dataclass
class Line:
    """One line of a plot.

    Attributes:
        values: one per place on the horizontal axis; None leaves a gap.
        dashed: for figures that a paper prints.
    """

    label: str
    values: Sequence[float | None]
    colour: str
    dashed: bool = False


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, about five."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 5)
    first = math.floor(low / step)
    return [i * step for i in range(first, math.ceil(high / step) + 1)]


def line_plot(title: str, places: Sequence[float], labels: Sequence[str], lines: Sequence[Line]) -> str:
    """An SVG element.

    Args:
        title: what is plotted, for those who do not see it.
        places: where on the horizontal axis the values lie.
        labels: of these places.
        lines: with a value for each place.
    """
    crowded = len(places) > 8  # the labels are turned and need more room
    width = _WIDE if crowded else _WIDTH
    margin = _LEFT + 60 if crowded else _LEFT
    bottom = _TOP + _PLOT_HEIGHT
    height = bottom + (110 if crowded else 24)
    values = [v for line in lines for v in line.values if v is not None and math.isfinite(v)]
    if not values:
        return ""
    low, high = min(values), max(values)
    ticks = _ticks(low, high) if high > low else _ticks(low - 0.5, high + 0.5)
    left, right = min(places), max(places)

    def x(place: float) -> float:
        share = (place - left) / (right - left) if right > left else 0.5
        return margin + 10 + share * (width - margin - _RIGHT - 20)

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * _PLOT_HEIGHT

    kind = ' class="wide"' if crowded else ""
    parts = [f'<svg viewBox="0 0 {width} {height}"{kind} role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{margin}" x2="{width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{margin - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for place, label in zip(places, labels, strict=True):
        base = bottom + 16
        turn = f' text-anchor="end" transform="rotate(-40 {x(place):.1f} {base})"' if crowded else ""
        anchor = "" if crowded else ' text-anchor="middle"'
        parts.append(f'<text x="{x(place):.1f}" y="{base}"{anchor}{turn}>{escape(label)}</text>')
    for line in lines:
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        for run in _runs(places, line.values):
            points = " ".join(f"{x(p):.1f},{y(v):.1f}" for p, v in run)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
            for p, v in run:
                fill = "white" if line.dashed else line.colour
                tip = f"<title>{escape(line.label)}: {v:.4g}</title>"
                circle = f'<circle cx="{x(p):.1f}" cy="{y(v):.1f}" r="3" fill="{fill}" stroke="{line.colour}">'
                parts.append(f"{circle}{tip}</circle>")
    return "".join(parts) + "</svg>"


def _runs(places: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The parts of a line between its gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for place, value in zip(places, values, strict=True):
        if value is None or not math.isfinite(value):
            runs.append([])
        else:
            runs[-1].append((place, value))
    return [run for run in runs if run]
