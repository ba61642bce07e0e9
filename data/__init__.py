"""Degradations, degradation priors and datasets (imported as ``lightbsr_data``).

Importing it registers the datasets in BasicSR; where BasicSR is not installed, everything but the datasets is there.
"""

from lightbsr_compat import has_basicsr

from .degradations import ClassicDegradation, bicubic_downsample, blur, degrade, to_8_bit
from .degraders import ClassicDegrader, TrainingBatch, build_degrader
from .kernels import DegradationParameters, gaussian_kernels, sample_degradation
from .priors import degradation_prior, kernel_basis
from .settings import SETTINGS, DegradationSetting, get_setting

__all__ = [
    "SETTINGS",
    "ClassicDegradation",
    "ClassicDegrader",
    "DegradationParameters",
    "DegradationSetting",
    "TrainingBatch",
    "bicubic_downsample",
    "blur",
    "build_degrader",
    "degradation_prior",
    "degrade",
    "gaussian_kernels",
    "get_setting",
    "kernel_basis",
    "sample_degradation",
    "to_8_bit",
]

if has_basicsr():
    from .datasets import BlindBenchmarkDataset, DegradationPriorDataset

    __all__ += ["BlindBenchmarkDataset", "DegradationPriorDataset"]
