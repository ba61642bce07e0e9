"""Degradations, degradation priors and datasets (imported as ``lightbsr_data``).

Importing it registers the datasets in BasicSR; where BasicSR is not installed, everything but the datasets is there.
"""

from lightbsr_compat import has_basicsr

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
    "ClassicDegradation",
    "ClassicDegrader",
    "DegradationParameters",
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

if has_basicsr():
    from .datasets import BlindBenchmarkDataset, DegradationPriorDataset

    __all__ += ["BlindBenchmarkDataset", "DegradationPriorDataset"]
