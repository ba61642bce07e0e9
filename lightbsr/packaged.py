"""Files that the package carries, found by name: weights and option files."""

import importlib.resources
import os

from lightbsr_compat import InputError, did_you_mean, packaged_options

__all__ = [
    "DEFAULT_WEIGHTS",
    "find_option_file",
    "find_weights",
    "packaged_files",
    "packaged_options",
    "packaged_weights",
]

DEFAULT_WEIGHTS = "lightbsr_x4_photo"


def packaged_files(folder: str, suffix: str) -> dict[str, str]:
    """The files of a folder of this package, sorted: name without suffix -> path."""
    names = ((file.name, str(file)) for file in (importlib.resources.files("lightbsr") / folder).iterdir())
    return {name.removesuffix(suffix): path for name, path in sorted(names) if name.endswith(suffix)}


def packaged_weights() -> dict[str, str]:
    """Paths of the weights that the package carries, by name."""
    return packaged_files("weights", ".safetensors")


def find_weights(name_or_path: str | os.PathLike[str]) -> str:
    """The path of a weights file, given its path or the name of packaged weights.

    Raises:
        InputError: neither exists.
    """
    path = os.fspath(name_or_path)
    if os.path.isfile(path):
        return path
    packaged = packaged_weights()
    if path in packaged:
        return packaged[path]
    raise InputError(f"no such checkpoint file: {path!r} (packaged are {', '.join(packaged)})")


def find_option_file(name: str) -> str:
    """The path of an option file: ``name`` itself where it exists, else the packaged file of that name.

    Raises:
        InputError: neither exists.
    """
    if os.path.isfile(name):
        return name
    packaged = packaged_options()
    key = name.removesuffix(".yml")
    if key not in packaged:
        raise InputError(
            f"no such option file: {name!r}, and no packaged one of that name{did_you_mean(key, packaged)}"
        )
    return packaged[key]
