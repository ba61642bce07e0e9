"""Checks of options across sections, against files or against this machine; each raises InputError."""

import importlib.util
import os
import shutil
from typing import Any

from lightbsr_compat import InputError, did_you_mean

from .losses import SHARPENED
from .precision import DTYPES


def check_launcher(opt: dict[str, Any]) -> None:
    """Raise InputError where one process is to use several GPUs."""
    if opt["num_gpu"] > 1 and not opt["dist"]:
        raise InputError(
            f"num_gpu is {opt['num_gpu']} without a launcher, but several GPUs need one process each:"
            " torchrun --nproc_per_node=N -m lightbsr train -opt FILE --launcher pytorch"
        )


def check_amp(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: amp`` is no mixed precision that is known."""
    amp = opt["train"].get("amp")
    if amp is not None and amp not in DTYPES:
        raise InputError(f"train: amp is {amp!r}{did_you_mean(str(amp), DTYPES)}")


def check_usm_targets(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: usm_targets`` names what is no loss with a target."""
    for name in opt["train"].get("usm_targets") or []:
        if name not in SHARPENED:
            raise InputError(f"usm_targets names {name!r}{did_you_mean(str(name), SHARPENED)}")


def check_compile(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: compile`` asks for what PyTorch could not do here."""
    if not opt["train"].get("compile"):
        return
    if opt["num_gpu"] == 0:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++", "cl"))):
            raise InputError("train: compile is true, but no C++ compiler is found, which it needs on the CPU")
    elif importlib.util.find_spec("triton") is None:
        raise InputError("train: compile is true, but the package triton is not installed, which it needs on a GPU")


def check_same(what: str, ours: dict[str, Any], theirs: dict[str, Any], path: str) -> None:
    """Raise InputError where two networks that must fit together have an option that differs.

    Args:
        what: the beginning of the sentence, such as 'the teacher'.
        ours: what the option file says.
        theirs: what the checkpoint at ``path`` was made with.
    """
    for name, value in ours.items():
        if name in theirs and theirs[name] != value:
            raise InputError(f"{what} in {path!r} has {name} {theirs[name]!r}, but the option file says {value!r}")
