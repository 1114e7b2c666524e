"""Errors with messages for the user: what happened, what was expected, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BnnError(Exception):
    """An error that the user can fix.

    The message is one line: what happened with the value received, what was expected, how to fix it. Commands print it
    and exit with `exit_code`.

    Examples:
        >>> import bnn_keras
        >>> try:
        ...     bnn_keras.load_experiment("lenet5_mnst")
        ... except bnn_keras.BnnError as error:
        ...     print(str(error)[:50])
        unknown experiment 'lenet5_mnst'; did you mean 'xn
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class InUseError(BnnError):
    """Another process holds the lock of a run."""


class DivergedError(BnnError):
    """A loss or a weight of a training is not finite."""


class LostProcessError(BnnError):
    """Another process of this training ended, or cannot be reached. Started again, all of them resume the training."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def nearest(value: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `value`, or None if none is similar."""
    matches = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, value: object, known: Iterable[str]) -> str:
    """Return the error message for an unknown name.

    Args:
        kind: What the name stands for, such as "network".
        value: The name received.
        known: The known names.

    Returns:
        One line with the value, the most similar known name if there is one, and all known names.

    Examples:
        >>> unknown("scheme", "xnr", ["xnor", "irnet"])
        "unknown scheme 'xnr'; did you mean 'xnor'? known: irnet, xnor"
    """
    known = sorted(known)
    guess = nearest(str(value), known)
    hint = f"did you mean {guess!r}? " if guess else ""
    return f"unknown {kind} {value!r}; {hint}known: {', '.join(known)}"
