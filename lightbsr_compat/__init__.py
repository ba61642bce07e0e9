"""What BasicSR 1.4.2 needs on today's stack, and the error class that every room of the house raises.

Importing this package applies every ``_mend_*`` below and every ``mend_*`` of ``training``. Each does nothing where
BasicSR is already right. Nothing else in the project knows of BasicSR's faults. Where BasicSR is not installed (it
cannot be built on Python 3.13 and newer) nothing is mended, and whoever needs it calls ``require_basicsr``.
"""

import argparse
import importlib
import importlib.resources
import importlib.util
import os
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch
import yaml

from .bounded_yaml import OptionLoader, read_yaml
from .errors import InputError, did_you_mean
from .files import atomic_save, atomic_write, load_weights_file, remove_unfinished, replaced

__all__ = [
    "InputError",
    "OptionLoader",
    "atomic_save",
    "atomic_write",
    "did_you_mean",
    "has_basicsr",
    "load_options",
    "load_weights_file",
    "remove_unfinished",
    "require_basicsr",
    "split_force_yml",
]


def has_basicsr() -> bool:
    """Whether BasicSR is installed."""
    return importlib.util.find_spec("basicsr") is not None


def require_basicsr(what: str) -> None:
    """Raise InputError, saying why and what to do, where BasicSR is missing.

    Args:
        what: what needs it, the beginning of the sentence.
    """
    if not has_basicsr():
        version = ".".join(map(str, sys.version_info[:2]))
        raise InputError(
            f"{what} needs BasicSR, which is not installed for Python {version}: BasicSR 1.4.2 can be built on Python"
            " 3.10 to 3.12 only, so make an environment of one of these and install lightbsr there"
            " (docs/index.md, Install)"
        )


def _packaged_option_files() -> dict[str, str]:
    # The folder is found by its name alone: nothing of the package it lies in is used.
    root = importlib.resources.files("lightbsr.options")
    files = (f for d in root.iterdir() if d.is_dir() for f in d.iterdir())
    return {f.name.removesuffix(".yml"): str(f) for f in files if f.name.endswith(".yml")}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: sections are merged, everything else (a list, a value, ~) is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _merged(base[name], value) if both else value
    return merged


def _with_base(path: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a file; where it has ``base: NAME``, merged over the file that this names."""
    options = read_yaml(path)
    if "base" not in options:
        return options
    name = options.pop("base")
    if not isinstance(name, str):
        raise InputError(f"option file {path!r}: base is {name!r}, but must be a text")
    beside = os.path.join(os.path.dirname(path), name)
    if os.path.isfile(beside):
        base = beside
    else:
        packaged = _packaged_option_files()
        if name not in packaged:
            raise InputError(
                f"option file {path!r}: base is {name!r}, but must be the name of a packaged option file or a path"
                f" from this file's folder{did_you_mean(name, packaged)}"
            )
        base = packaged[name]
    if os.path.realpath(base) in (*seen, os.path.realpath(path)):
        raise InputError(f"option file {path!r}: base is {name!r}, which has this file for its own base")
    return _merged(_with_base(base, (*seen, os.path.realpath(path))), options)


def load_options(path: str | os.PathLike[str], forced: Iterable[str] = ()) -> dict[str, Any]:
    """Read an option file with YAML's safe loader and apply ``--force_yml`` entries.

    A file may begin with ``base: NAME``, the name of a packaged option file or a path from its own folder: its options
    are merged over those of that file, section by section.

    Args:
        path: the option file.
        forced: entries such as ``train:ema_decay=0.999``; values are parsed as YAML, never evaluated.

    Raises:
        InputError: no such file, no YAML mapping, YAML that would run code, a base that is not there, or an entry
            that names no section.
    """
    path = os.fspath(path)
    options = _with_base(path)
    for entry in forced:
        keys, equals, value = entry.partition("=")
        *sections, name = keys.strip().split(":")
        target: Any = options
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not equals or not isinstance(target, dict):
            raise InputError(f"--force_yml {entry!r} is not SECTION:NAME=VALUE with a section of {path!r}")
        value = "~" if value.strip().lower() == "none" else value  # as in BasicSR
        try:
            target[name] = yaml.load(value, Loader=OptionLoader)
        except (yaml.YAMLError, ValueError):
            raise InputError(f"--force_yml {entry!r}: {value!r} is not a YAML value") from None
    return options


def _mend_functional_tensor() -> None:
    # torchvision 0.17 removed the module that BasicSR imports rgb_to_grayscale from (BasicSR#533, #663, #711).
    name = "torchvision.transforms.functional_tensor"
    if importlib.util.find_spec(name) is None:
        from torchvision.transforms.functional import rgb_to_grayscale

        module = types.ModuleType(name)
        module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[name] = module


def _mend_option_parsing() -> None:
    # BasicSR reads option files with YAML's full loader, which runs any Python that they name, and passes --force_yml
    # through exec and eval. Here both go through load_options; the rest of its parse_options stays as it is.
    import basicsr.test
    import basicsr.train
    import basicsr.utils.options

    stock = basicsr.utils.options.parse_options

    def parse_options(root_path: str, is_train: bool = True):
        argv, forced = split_force_yml(sys.argv)
        loader = types.SimpleNamespace(load=lambda file, Loader: load_options(file.name, forced))
        with (
            replaced(sys, argv=argv),
            replaced(basicsr.utils.options, yaml=loader, ordered_yaml=lambda: (None, None)),
        ):
            return stock(root_path, is_train)

    for module in (basicsr.utils.options, basicsr.train, basicsr.test):
        module.parse_options = parse_options


def split_force_yml(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into what is not ``--force_yml`` and its entries, in any spelling that argparse takes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[])
    known, rest = parser.parse_known_args(argv)
    return rest, known.force_yml


def _mend_distributed_on_cpu() -> None:
    # The launchers take the rank modulo the number of GPUs, and know nccl only; DDP is given a CUDA device.
    import basicsr.models.base_model
    import basicsr.utils.dist_util
    import basicsr.utils.options

    stock_init = basicsr.utils.dist_util.init_dist

    def init_dist(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
        if torch.cuda.is_available():
            stock_init(launcher, backend, **kwargs)
        else:
            with replaced(torch.cuda, device_count=lambda: 1, set_device=lambda device: None):
                stock_init(launcher, "gloo", **kwargs)

    for module in (basicsr.utils.dist_util, basicsr.utils.options):
        module.init_dist = init_dist

    model = basicsr.models.base_model
    stock_to_device = model.BaseModel.model_to_device

    def model_to_device(self: Any, net: torch.nn.Module) -> torch.nn.Module:
        if self.opt["dist"] and self.device.type == "cpu":
            find_unused = self.opt.get("find_unused_parameters", False)
            return torch.nn.parallel.DistributedDataParallel(net, find_unused_parameters=find_unused)
        return stock_to_device(self, net)

    model.BaseModel.model_to_device = model_to_device


def _mend_ema() -> None:
    # model_ema averages parameters and never buffers, so that a network with BatchNorm is averaged wrongly.
    from basicsr.models.base_model import BaseModel

    @torch.no_grad()
    def model_ema(self: Any, decay: float = 0.999) -> None:
        network, average = self.get_bare_model(self.net_g), self.net_g_ema
        parameters = dict(network.named_parameters())
        for name, value in average.named_parameters():
            value.lerp_(parameters[name], 1 - decay)
        buffers = dict(network.named_buffers())
        for name, value in average.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.lerp_(buffers[name], 1 - decay)
            else:  # counters, queues, constants: an average of them means nothing
                value.copy_(buffers[name])

    BaseModel.model_ema = model_ema


def _new_dataset(module: str, name: str) -> Any:
    dataset_class = getattr(importlib.import_module(module), name)
    return dataset_class.__new__(dataset_class)


def _mend_spawned_datasets() -> None:
    # With a launcher workers are spawned, and unpickle a dataset of BasicSR's own before anything else: importing it
    # fails there as it would have here. Now unpickling begins with a function of this module.
    import basicsr.data

    def reduce(self: Any) -> Any:
        return _new_dataset, (type(self).__module__, type(self).__qualname__), self.__dict__

    for _, dataset_class in basicsr.data.DATASET_REGISTRY:
        if dataset_class.__module__.startswith("basicsr."):
            dataset_class.__reduce__ = reduce


if has_basicsr():
    _mend_functional_tensor()
    _mend_option_parsing()
    _mend_distributed_on_cpu()
    _mend_ema()
    _mend_spawned_datasets()
    # Only now can BasicSR be imported.
    from . import training

    training.mend_worker_seeds()
    training.mend_data_order()
    training.mend_resume()
    training.mend_saving()
    training.mend_loading()
    training.mend_steps()
