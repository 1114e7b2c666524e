"""Hyper-parameters as functions of the epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """The same value in every epoch."""
    return lambda epoch: value


def multi_step(initial: float, factor: float, boundaries: Sequence[float]) -> Schedule:
    """A value that is multiplied at each boundary: initial · factor^k, k = number of boundaries ≤ epoch.

    Args:
        initial: The value before the first boundary.
        factor: What it is multiplied by.
        boundaries: Epochs since the stage began, rising.
    """
    return lambda epoch: initial * factor ** sum(epoch >= boundary for boundary in boundaries)
