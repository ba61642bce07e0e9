"""InputError, raised by all packages for what a user can fix, and its hint at the nearest known name."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake of the user: one sentence with the value, the rule and the file, shown without traceback."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, or None where none is near.

    Near is: one is the beginning of the other, and a third of its length or more; or four fifths of both are the same
    characters in the same order. Upper and lower case are alike.
    """

    def likeness(other: str) -> float:
        a, b = name.lower(), other.lower()
        common = min(len(a), len(b))
        if common >= 3 and 3 * common >= max(len(a), len(b)) and a[:common] == b[:common]:
            return 1.0 + common / max(len(a), len(b))
        return difflib.SequenceMatcher(None, a, b).ratio()

    best = max(sorted(known), key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.8 else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known name nearest to ``name``, or '; known: ...' where none is near."""
    known = sorted(known)
    close = nearest(str(name), known)
    return f"; did you mean {close!r}?" if close else f"; known: {', '.join(known)}"
