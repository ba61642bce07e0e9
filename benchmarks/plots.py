"""Plots of growth on logarithmic axes, drawn with OpenCV."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 320, 70, 46, 40, 20
_DARK, _GRID = (40, 40, 40), (225, 225, 225)
_BLUE, _ORANGE = (178, 114, 0), (0, 94, 213)  # Okabe and Ito's, as BGR


def _text(image: np.ndarray, text: str, x: float, y: float, colour: tuple[int, int, int] = _DARK) -> None:
    cv2.putText(image, text, (round(x), round(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def _short(value: float, unit: str) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}".strip()
    return f"{value:.1g} {unit}".strip()


def _panel(title: str, axis: str, xs: Sequence[float], ys: Sequence[float], exponent: float, unit: str) -> np.ndarray:
    """Points, and the power law of that exponent through their middle."""
    panel = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    logs = np.log(np.array([xs, ys], dtype=float))
    low, span = logs.min(1), np.maximum(np.ptp(logs, axis=1), 1e-6)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(log_x: float, log_y: float) -> tuple[int, int]:
        x = _LEFT + (log_x - low[0]) / span[0] * width
        y = _HEIGHT - _BOTTOM - (log_y - low[1]) / span[1] * height
        return round(x), round(y)

    _text(panel, title, 10, 18)
    _text(panel, f"exponent {exponent:.2f}", 10, 34, _ORANGE)
    _text(panel, axis, _LEFT, _HEIGHT - 8)
    for x in xs:
        column, row = place(math.log(x), low[1])
        cv2.line(panel, (column, _TOP), (column, row), _GRID, 1)
        _text(panel, _short(x, ""), column - 14, row + 16)
    for y in (min(ys), max(ys)):
        _text(panel, _short(y, unit), 6, place(low[0], math.log(y))[1] + 4)
    middle = logs.mean(1)
    ends = [place(x, middle[1] + exponent * (x - middle[0])) for x in (logs[0].min(), logs[0].max())]
    cv2.line(panel, ends[0], ends[1], _ORANGE, 1, cv2.LINE_AA)
    for log_x, log_y in logs.T:
        cv2.circle(panel, place(log_x, log_y), 4, _BLUE, -1, cv2.LINE_AA)
    return panel


def growth_plot(series: Sequence[dict[str, Any]]) -> np.ndarray:
    """All series of ``growth.measure``, two panels a line: (H, W, 3) uint8, BGR."""
    panels = []
    for one in series:
        panels.append(_panel(f"{one['name']}: time", one["axis"], one["x"], one["seconds"], one["exponent"], "s"))
        if "kept_bytes" in one:
            title = f"{one['name']}: kept for backward"
            panels.append(_panel(title, one["axis"], one["x"], one["kept_bytes"], one["memory_exponent"], "B"))
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    return np.vstack([np.hstack(pair) for pair in zip(panels[::2], panels[1::2], strict=True)])
