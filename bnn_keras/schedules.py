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


def geometric(initial: float, final: float, epochs: float) -> Schedule:
    """A value that grows or falls by the same factor in each epoch: initial · (final / initial)^(epoch / epochs).

    IR-Net's t rises so, from 0.1 (or 0.001) towards 10, which it does not reach: the last epoch is epochs − 1.

    Args:
        initial: The value in epoch 0.
        final: The value in the epoch after the last.
        epochs: Their number.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/trainer.py (`Log_UP`).
    """
    return lambda epoch: initial * (final / initial) ** (epoch / epochs)


def error_decay_scale(steepness: Schedule) -> Schedule:
    """IR-Net's k = max(1 / t, 1), from its t.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/trainer.py.
    """
    return lambda epoch: max(1 / steepness(epoch), 1.0)
