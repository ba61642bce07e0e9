"""``torchvision.transforms.functional_tensor``, which BasicSR imports and torchvision 0.17 removed."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

_NAME = "torchvision.transforms.functional_tensor"


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads that one module, with the one function that BasicSR takes from it (BasicSR#533, #663, #711)."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(_NAME, self) if fullname == _NAME else None

    def exec_module(self, module: types.ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale

        module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]


def install_functional_tensor() -> None:
    """Let the module be found where nothing else provides it: the finder is the last that Python asks."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
