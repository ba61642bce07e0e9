"""The rule for scores that are no finite number, for benchmarks and validation alike: they are left out of means.

PSNR of two equal images is infinite; an image that is smaller than a metric's window, or flat, gives NaN or an error.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def finite_score(calculate: Callable[..., Any], *args: Any, **options: Any) -> float:
    """Call a metric; NaN where it gives no finite number or fails on such an image.

    Args:
        calculate: the metric, called with the other arguments.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
            value = float(calculate(*args, **options))
    except (ValueError, ArithmeticError, IndexError, RuntimeError, np.linalg.LinAlgError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def finite_mean(scores: Iterable[float]) -> tuple[float, int]:
    """The mean of the finite scores (NaN where there is none), and how many they are."""
    finite = [score for score in scores if math.isfinite(score)]
    return math.fsum(finite) / len(finite) if finite else math.nan, len(finite)
