"""Option files: YAML that runs no code, ``base:`` and ``--force_yml``."""

import argparse
import importlib.resources
import os
from collections.abc import Iterable
from typing import Any

import yaml

from .bounded_yaml import OptionLoader, read_yaml
from .errors import InputError, did_you_mean


def packaged_options() -> dict[str, str]:
    """The packaged option files: name without suffix -> path."""
    # The folder is found by its name alone: nothing of the package it lies in is used.
    folders = (folder for folder in importlib.resources.files("lightbsr.options").iterdir() if folder.is_dir())
    files = (file for folder in folders for file in folder.iterdir() if file.name.endswith(".yml"))
    return {file.name.removesuffix(".yml"): str(file) for file in files}


def _set(section: str, options: dict[str, Any], name: str, value: Any) -> None:
    """Set an option. ~ takes it away where a section holds arguments of a call or things that the user names."""
    arguments = section in ("degradation", "scheduler") or section.startswith(("network_", "optim_"))
    if value is None and (arguments or section in ("datasets", "metrics")):
        options.pop(name, None)
    else:
        options[name] = value


def _merged(base: dict[str, Any], changes: dict[str, Any], section: str = "") -> dict[str, Any]:
    """``base`` with ``changes``: sections are merged, everything else (a list, a value) is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        _set(section, merged, name, _merged(base[name], value, str(name)) if both else value)
    return merged


def _with_base(path: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a file; where it has ``base: NAME``, merged over the file that this names."""
    options = read_yaml(path)
    if "base" not in options:
        return options
    name = options.pop("base")
    if not isinstance(name, str):
        raise InputError(f"option file {path!r}: base is {name!r}, but must be a name or a path")
    beside = os.path.join(os.path.dirname(path), name)
    if os.path.isfile(beside):
        base = beside
    else:
        packaged = packaged_options()
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
    are merged over those of that file, section by section. ``~`` takes back what the base says: in ``network_*``,
    ``datasets``, ``degradation`` and ``metrics`` the entry is removed, elsewhere it is None.

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
        try:
            # None is BasicSR's spelling of YAML's null.
            parsed = None if value.strip().lower() == "none" else yaml.load(value, Loader=OptionLoader)
            _set(sections[-1] if sections else "", target, name, parsed)
        except (yaml.YAMLError, ValueError):
            raise InputError(f"--force_yml {entry!r}: {value!r} is not a YAML value") from None
    return options


def split_force_yml(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into what is not ``--force_yml`` and its entries, in any spelling that argparse takes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[])
    known, rest = parser.parse_known_args(argv)
    return rest, known.force_yml
