"""Where weights are: a file of the user's, or one that the package carries."""

import importlib.resources
import os

from lightbsr_compat import InputError

DEFAULT_WEIGHTS = "lightbsr_x4_aniso_noise"


def packaged_weights() -> dict[str, str]:
    """Paths of the weights that the package carries, by name."""
    folder = importlib.resources.files("lightbsr") / "weights"
    if not folder.is_dir():
        return {}
    files = sorted((file.name, str(file)) for file in folder.iterdir() if file.name.endswith(".safetensors"))
    return {name.removesuffix(".safetensors"): path for name, path in files}


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
    known = f"packaged are {', '.join(packaged)}" if packaged else "no weights are packaged, so name a file of yours"
    raise InputError(f"no such checkpoint file: {path!r} ({known})")
