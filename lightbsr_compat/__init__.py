"""The ground that the other packages stand on: InputError, files that are read and written safely, BasicSR's presence.

Importing it imports neither PyTorch nor BasicSR. It lets BasicSR find the torchvision module that it needs.
"""

from .basicsr_package import has_basicsr, register, require_basicsr
from .bounded_yaml import OptionLoader
from .errors import InputError, did_you_mean
from .files import atomic_save, atomic_write, load_weights_file, remove_unfinished, require_finite
from .functional_tensor import install_functional_tensor
from .yaml_options import load_options, packaged_options, split_force_yml

__all__ = [
    "InputError",
    "OptionLoader",
    "atomic_save",
    "atomic_write",
    "did_you_mean",
    "has_basicsr",
    "load_options",
    "load_weights_file",
    "packaged_options",
    "register",
    "remove_unfinished",
    "require_basicsr",
    "require_finite",
    "split_force_yml",
]

install_functional_tensor()
