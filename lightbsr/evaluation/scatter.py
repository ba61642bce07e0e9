"""Scatter plots as pictures, drawn with OpenCV."""

from collections.abc import Sequence

import cv2
import numpy as np

# Okabe and Ito's colours as BGR, which colour-blind people can tell apart.
_COLOURS = (
    (178, 114, 0),
    (0, 94, 213),
    (115, 158, 0),
    (167, 121, 204),
    (0, 159, 230),
    (233, 180, 86),
    (66, 228, 240),
    (0, 0, 0),
)
_SIDE, _MARGIN, _TITLE, _LEGEND_LINE = 420, 24, 34, 22
_SHIFT = 4  # OpenCV's fixed-point coordinates: circles between pixels


def _text(image: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a label, BGR; beyond the list they are spread over the hues."""
    if label < len(_COLOURS):
        return _COLOURS[label]
    hue = np.uint8([[[(label * 67) % 180, 200, 180]]])  # type: ignore[arg-type]
    blue, green, red = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _panel(title: str, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    panel = np.full((_SIDE + _TITLE, _SIDE, 3), 255, np.uint8)
    _text(panel, title, 8, 22)
    cv2.rectangle(panel, (4, _TITLE), (_SIDE - 5, _SIDE + _TITLE - 5), (200, 200, 200), 1)
    low, high = points.min(0), points.max(0)
    span = max(float((high - low).max()), 1e-12)
    # One unit for both axes, the cloud in the middle.
    placed = (points - (low + high) / 2) / span * (_SIDE - 2 * _MARGIN) + _SIDE / 2
    for (x, y), label in zip(placed, labels, strict=True):
        centre = (round(float(x) * 2**_SHIFT), round((float(y) + _TITLE) * 2**_SHIFT))
        cv2.circle(panel, centre, 4 * 2**_SHIFT, colour(int(label)), -1, cv2.LINE_AA, _SHIFT)
    return panel


def scatter_panels(panels: Sequence[tuple[str, np.ndarray]], labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Scatter plots side by side over one legend.

    Args:
        panels: title and (N, 2) points each.
        labels: (N,) number of each point's class.
        names: of the classes.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    plots = np.hstack([_panel(title, points, labels) for title, points in panels])
    widest = max(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] for name in names) + 40
    per_line = max(1, plots.shape[1] // widest)
    lines = -(-len(names) // per_line)
    legend = np.full((lines * _LEGEND_LINE + 12, plots.shape[1], 3), 255, np.uint8)
    for i, name in enumerate(names):
        x, y = (i % per_line) * widest + 14, (i // per_line) * _LEGEND_LINE + 12
        cv2.circle(legend, (x, y), 5, colour(i), -1, cv2.LINE_AA)
        _text(legend, name, x + 12, y + 5)
    return np.vstack([plots, legend])
