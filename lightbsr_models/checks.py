"""The comparison of an option file's network with a checkpoint's."""

from typing import Any

from lightbsr_compat import InputError


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
