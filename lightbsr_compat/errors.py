"""InputError, raised by all packages for what a user can fix, and its hint at the nearest known name."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake of the user: one sentence with the value, the rule and the file, shown without traceback."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known name nearest to ``name``, or '; known: ...' where none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
