"""The networks of LightBSR and KDSR; torch and the standard library only, so that the files can be lifted out."""

from .idr import IDR
from .kdsr import KDSR, KDSROutput, KDSRTeacher
from .lightbsr import LightBSR, LightBSROutput
from .lightbsr_teacher import ContrastOutput, LightBSRTeacher
from .state_dicts import build_from_state_dict, find_state_dict, network_options

__all__ = [
    "IDR",
    "KDSR",
    "ContrastOutput",
    "KDSROutput",
    "KDSRTeacher",
    "LightBSR",
    "LightBSROutput",
    "LightBSRTeacher",
    "build_from_state_dict",
    "find_state_dict",
    "network_options",
]
