"""Files that the package carries, found by name: weights and option files."""

import importlib.resources
import os

# InputError is imported where it is raised: its package imports PyTorch, which a command's --help does not need.

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
    from lightbsr_compat import InputError

    known = f"packaged are {', '.join(packaged)}" if packaged else "no weights are packaged, so name a file of yours"
    raise InputError(f"no such checkpoint file: {path!r} ({known})")


def packaged_options() -> dict[str, str]:
    """The packaged option files: name without suffix -> path."""
    root = importlib.resources.files("lightbsr.options")
    folders = [root / "train", root / "test", root / "ablation"]
    return {f.name.removesuffix(".yml"): str(f) for d in folders for f in d.iterdir() if f.name.endswith(".yml")}


def find_option_file(name: str) -> str:
    """The path of an option file: ``name`` itself where it exists, else the packaged file of that name.

    Raises:
        InputError: neither exists.
    """
    if os.path.isfile(name):
        return name
    from lightbsr_compat import InputError, did_you_mean

    packaged = packaged_options()
    key = name.removesuffix(".yml")
    if key not in packaged:
        raise InputError(
            f"no such option file: {name!r}, and no packaged one of that name{did_you_mean(key, packaged)}"
        )
    return packaged[key]
