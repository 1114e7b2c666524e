"""Errors whose message is for the user: what happened, what was expected, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BnnError(Exception):
    """An error that its reader can act on.

    The message is one line: what happened with the value received, what was expected, how to fix it.
    The command line prints it and exits with 1.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def nearest(value: str, known: Iterable[str]) -> str | None:
    """The known name most like `value`, or None where nothing is alike."""
    matches = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, value: object, known: Iterable[str]) -> str:
    """The message for a name that is not in a table.

    Args:
        kind: What the name names, such as "network".
        value: The name received.
        known: The names that exist.

    Returns:
        One line that names the value, the nearest known name where there is one, and all known names.
    """
    known = sorted(known)
    guess = nearest(str(value), known)
    hint = f"did you mean {guess!r}? " if guess else ""
    return f"unknown {kind} {value!r}; {hint}known: {', '.join(known)}"
