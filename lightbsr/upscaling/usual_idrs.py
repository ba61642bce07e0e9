"""Is an image degraded as the weights were trained for? Its IDR against the IDRs of images from training.

A weights file may carry, in its safetensors metadata under ``idr_statistics``, the mean and the inverse covariance of
the shared IDRs of images with training's degradations, and a threshold: the Mahalanobis distance that one in a hundred
of them exceeds, times 1.5, so that what is flagged is worth a warning. A degradation is noticed as far as the IDR heeds
it: weights that never saw noise may well be blind to it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightbsr_compat import InputError

from .pixels import ArrayPixels, View
from .shared import shared_idr

METADATA_KEY = "idr_statistics"
_SHRINKAGE = 0.1  # of the covariance towards the mean variance: few images, many numbers
_USUAL_QUANTILE = 0.99
_TOLERANCE = 1.5
_SIDE = 512
_LEAST_IMAGES = 8


@dataclass(frozen=True)
class IDRStatistics:
    """Where the IDRs of training's degradations lie.

    Attributes:
        mean: (D,).
        inverse_covariance: (D, D).
        threshold: the largest usual Mahalanobis distance.
    """

    mean: np.ndarray
    inverse_covariance: np.ndarray
    threshold: float

    def distance(self, idr: Tensor) -> float:
        """The Mahalanobis distance of a shared IDR (1, D), in units of the threshold: above 1 is out of range."""
        return self._mahalanobis(idr.float().cpu().numpy()[0]) / self.threshold

    def _mahalanobis(self, idr: np.ndarray) -> float:
        offset = idr.astype(np.float64) - self.mean
        return float(np.sqrt(offset @ self.inverse_covariance @ offset))

    def to_json(self) -> str:
        """The value of the metadata key."""
        content = {
            "mean": _rounded(self.mean),
            "inverse_covariance": _rounded(self.inverse_covariance),
            "threshold": self.threshold,
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "IDRStatistics":
        """What ``to_json`` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            content = json.loads(text)
            mean = np.asarray(content["mean"], np.float64)
            inverse = np.asarray(content["inverse_covariance"], np.float64)
            threshold = float(content["threshold"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error} is missing or of another type") from None
        if mean.ndim != 1 or inverse.shape != (len(mean), len(mean)) or not threshold > 0:
            raise ValueError(f"mean {mean.shape}, inverse covariance {inverse.shape}, threshold {threshold}")
        return cls(mean, inverse, threshold)


def _rounded(values: np.ndarray) -> list:
    """Nested lists of numbers with six digits."""
    return [float(f"{v:.6g}") for v in values] if values.ndim == 1 else [_rounded(row) for row in values]


@torch.inference_mode()
def idr_statistics(network: nn.Module, images: Sequence[np.ndarray]) -> IDRStatistics:
    """Statistics of a student's IDRs over LR images that are degraded as in training.

    Mean and covariance are those of the even images, the threshold that of the odd ones, which they have not seen.

    Args:
        network: ``LightBSR`` or ``KDSR``, in eval mode.
        images: LR images as ``Upscaler`` takes them, some hundreds, of the sizes that users have.

    Raises:
        InputError: fewer than eight images.
    """
    if len(images) < _LEAST_IMAGES:
        raise InputError(f"statistics of IDRs need at least {_LEAST_IMAGES} images, but there are {len(images)}")
    idrs = np.concatenate(
        [shared_idr(network, View(ArrayPixels(image, 1)), side=_SIDE).cpu().numpy() for image in images]
    ).astype(np.float64)  # (N, D)
    fitted = idrs[::2]
    covariance = np.atleast_2d(np.cov(fitted, rowvar=False))
    variance = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * variance * np.eye(len(covariance))
    statistics = IDRStatistics(fitted.mean(0), np.linalg.inv(covariance), 1.0)
    distances = [statistics._mahalanobis(idr) for idr in idrs[1::2]]
    threshold = _TOLERANCE * float(np.quantile(distances, _USUAL_QUANTILE))
    return IDRStatistics(statistics.mean, statistics.inverse_covariance, threshold)


def load_idr_statistics(path: str) -> IDRStatistics | None:
    """The statistics that a weights file carries, if any.

    Raises:
        InputError: they are damaged.
    """
    if not path.endswith(".safetensors"):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return IDRStatistics.from_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    except (ValueError, SafetensorError) as error:
        raise InputError(f"{path!r} carries {METADATA_KEY} that cannot be read: {error}") from None
