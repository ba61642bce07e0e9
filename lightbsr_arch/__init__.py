"""The networks of LightBSR and KDSR. They import torch and the standard library only: the folder can be copied."""

from .cpu import use_cpu_kernels
from .idr import IDR
from .kdsr_arch import KDSR, KDSRTeacher
from .layers import SROutput
from .lightbsr_arch import LightBSR
from .lightbsr_teacher_arch import ContrastOutput, LightBSRTeacher
from .state_dicts import build_from_state_dict, find_state_dict, network_options

__all__ = [
    "IDR",
    "KDSR",
    "ContrastOutput",
    "KDSRTeacher",
    "LightBSR",
    "LightBSRTeacher",
    "SROutput",
    "build_from_state_dict",
    "find_state_dict",
    "network_options",
    "use_cpu_kernels",
]
