"""Whether BasicSR is there, importing it, and registering classes in it."""

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import InputError

T = TypeVar("T")


def has_basicsr() -> bool:
    """Whether ``import basicsr`` finds BasicSR 1.3 or newer, the ones with registries.

    A folder called ``basicsr`` in the working directory, as forks of older versions have one, hides the installed one.
    """
    spec = importlib.util.find_spec("basicsr")
    folders = spec.submodule_search_locations if spec is not None else None
    return any(os.path.isfile(os.path.join(folder, "utils", "registry.py")) for folder in folders or ())


def require_basicsr(what: str) -> None:
    """Import BasicSR.

    Args:
        what: what needs it, the beginning of the error's sentence.

    Raises:
        InputError: it is not there.
    """
    if not has_basicsr():
        version = ".".join(map(str, sys.version_info[:2]))
        raise InputError(
            f"{what} needs BasicSR, which is not installed for Python {version}: on Python 3.10 to 3.12, the only ones"
            " that can build it, run pip install torchvision cython 'setuptools>=80' wheel and then pip install"
            " --no-build-isolation basicsr"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy.ndimage.filters
        import basicsr  # noqa: F401


def register(registry: Any) -> Callable[[T], T]:
    """Class decorator: register in a registry of BasicSR, with the suffix ``_lightbsr`` where the name is taken."""

    def decorate(registered: T) -> T:
        name = registered.__name__  # type: ignore[attr-defined]
        taken = name in registry
        if taken:
            warnings.warn(f"another {name} is registered in BasicSR: LightBSR's is {name}_lightbsr", stacklevel=2)
        registry.register(registered, suffix="lightbsr" if taken else None)
        return registered

    return decorate
