"""YAML files from outside: they run no code, and cannot make reading them hang or fill the memory."""

import os
import re
import stat
from typing import Any

import yaml

from .errors import InputError

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_VALUES = 20_000  # aliases and merge keys (<<) counted as often as they are used


class OptionLoader(yaml.SafeLoader):
    """YAML's safe loader, which also takes 1e-4 (without a dot) for a number, as YAML 1.2 and everybody does.

    Raises:
        yaml.YAMLError: nested deeper than ``MAX_DEPTH``, more than ``MAX_VALUES`` values, or an alias of itself.
    """

    _depth = _values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels")
        if self._values > MAX_VALUES:
            raise yaml.YAMLError(f"it holds more than {MAX_VALUES:,} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _expanded_size(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases make more than {MAX_VALUES:,} values")
        return node


OptionLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _expanded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Number of values that a node becomes with all of its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise yaml.YAMLError("an alias (*) refers to a section that it is part of")
        return size
    sizes[id(node)] = None
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(child,) for child in node.value]
    size = 1 + sum(_expanded_size(child, sizes) for pair in pairs for child in pair)
    sizes[id(node)] = size
    return size


def read_yaml(path: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: no regular file, more than ``MAX_BYTES``, not UTF-8, no YAML, YAML that would run code or is beyond
            ``OptionLoader``'s bounds, or no mapping.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"option file {path!r} cannot be read: it is no regular file")
        if status.st_size > MAX_BYTES:
            raise InputError(f"option file {path!r} has {status.st_size:,} bytes, but may have {MAX_BYTES:,} at most")
        with open(path, encoding="utf-8-sig") as file:
            options = yaml.load(file.read(MAX_BYTES), Loader=OptionLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"option file {path!r} cannot be read: {error}") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError) as error:  # a date that does not exist, a list as a key
        raise InputError(f"option file {path!r} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(options, dict):
        raise InputError(f"option file {path!r} holds no options (a YAML mapping of names to values)")
    return options
