"""Pictures that compare images: panels side by side, each under its label."""

from collections.abc import Sequence

import cv2
import numpy as np

_STRIP = 28


def labelled(image: np.ndarray, label: str, *, zoom: int = 2) -> np.ndarray:
    """An image (H, W, 3) uint8, ``zoom`` times as large, under a white strip with the label."""
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    strip = np.full((_STRIP, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, label, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def panels(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of images of equal sizes as one image."""
    return np.vstack([np.hstack(list(row)) for row in rows])
