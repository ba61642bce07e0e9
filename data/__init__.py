"""Degradations, degradation priors and datasets (imported as ``lightbsr_data``).

The datasets alone need BasicSR: they are imported, and registered in it, when one is asked for, or by ``lightbsr``.
"""

from typing import Any

from .degradations import ClassicDegradation, bicubic_downsample, blur, degrade, to_8_bit
from .degraders import (
    REAL_WORLD,
    ClassicDegrader,
    RealWorldDegrader,
    TrainingBatch,
    benchmark_prior,
    build_degrader,
    unsharp_mask,
)
from .kernels import DegradationParameters, gaussian_kernels, sample_degradation
from .photo import PhotoParameters, degrade_photo, sample_photo
from .priors import degradation_prior, kernel_basis, second_order_prior
from .second_order import OrderRanges, PairPool, SecondOrderDegradation, SecondOrderParameters
from .settings import SETTINGS, DegradationSetting, get_setting

__all__ = [
    "REAL_WORLD",
    "SETTINGS",
    "BlindBenchmarkDataset",
    "ClassicDegradation",
    "ClassicDegrader",
    "DegradationParameters",
    "DegradationPriorDataset",
    "DegradationSetting",
    "OrderRanges",
    "PairPool",
    "PhotoParameters",
    "RealWorldDegrader",
    "SecondOrderDegradation",
    "SecondOrderParameters",
    "TrainingBatch",
    "benchmark_prior",
    "bicubic_downsample",
    "blur",
    "build_degrader",
    "degradation_prior",
    "degrade",
    "degrade_photo",
    "gaussian_kernels",
    "get_setting",
    "kernel_basis",
    "sample_degradation",
    "sample_photo",
    "second_order_prior",
    "to_8_bit",
    "unsharp_mask",
]


def __getattr__(name: str) -> Any:
    if name in ("BlindBenchmarkDataset", "DegradationPriorDataset"):
        from . import datasets

        return getattr(datasets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
