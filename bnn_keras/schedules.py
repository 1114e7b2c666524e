"""Hyper-parameters as functions of the epoch: e = 2.5 is the middle of the third one."""

from __future__ import annotations

import bisect
import math
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


def exponential(initial: float, factor: float, period: float, staircase: bool = False) -> Schedule:
    """A value that is multiplied by the same factor in every period: initial · factor^(epoch / period).

    Args:
        initial: The value in epoch 0.
        factor: What it is multiplied by.
        period: Epochs that this takes.
        staircase: All at once at the end of each period: initial · factor^⌊epoch / period⌋.

    Source: rethinking-bnn-optimization, models/binarynet.py (`bop_sec52`, gamma).
    """
    return lambda epoch: initial * factor ** (epoch // period if staircase else epoch / period)


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


def polynomial(initial: float, final: float, epochs: float, power: float = 1.0) -> Schedule:
    """A value that falls with the share of epochs that are left: final + (initial − final) · (1 − e / epochs)^power.

    Args:
        initial: The value in epoch 0.
        final: The value after the last epoch, and from then on.
        epochs: Their number.
        power: 1 is a straight line.

    Source: tf.keras.optimizers.schedules.PolynomialDecay; rethinking-bnn-optimization, models/xnor.py.
    """
    return lambda epoch: final + (initial - final) * (1 - min(epoch / epochs, 1)) ** power


def cosine(initial: float, final: float, epochs: float) -> Schedule:
    """Half a cosine: final + (initial − final) · (1 + cos(π · e / epochs)) / 2.

    Args:
        initial: The value in epoch 0.
        final: The value after the last epoch.
        epochs: Their number.

    Source: torch.optim.lr_scheduler.CosineAnnealingLR; Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    return lambda epoch: final + (initial - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def cosine_restarts(
    initial: float, final: float, epochs: float, restarts: Sequence[float], ahead: float = 0.0
) -> Schedule:
    """Half a cosine from `initial` to `final` in each cycle; a new one starts at each epoch of `restarts`.

    Args:
        initial: The value at the start of a cycle.
        final: The value after its last epoch.
        epochs: Epochs of all cycles.
        restarts: Epochs at which a new cycle starts, rising. McDonnell's are 2, 4, 8, …: cycles of 2, 2, 4, … epochs.
        ahead: Epochs that the first cycle is ahead of its time.

    Source: binary-wide-resnet, main.py, whose scheduler steps once before the first epoch.
    """
    starts = [0.0, *(restart for restart in restarts if restart < epochs)]
    ends = [*starts[1:], epochs]

    def value(epoch: float) -> float:
        cycle = max(bisect.bisect_right(starts, epoch) - 1, 0)
        place = epoch - starts[cycle] + (0 if cycle else ahead)
        return cosine(initial, final, ends[cycle] - starts[cycle])(place)

    return value


def ahead(schedule: Schedule, epochs: float) -> Schedule:
    """A schedule that is so many epochs ahead of its time."""
    return lambda epoch: schedule(epoch + epochs)


def warmed_up(schedule: Schedule, initial: float, epochs: float) -> Schedule:
    """A straight line from `initial` to what the schedule has after `epochs`, and the schedule from there on.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2; IR-Net, ImageNet/ResNet18/1w1a/config.yaml.
    """
    return lambda epoch: schedule(epoch) if epoch >= epochs else initial + (schedule(epochs) - initial) * epoch / epochs


def by_epoch(schedule: Schedule) -> Schedule:
    """A schedule that stands still within each epoch."""
    return lambda epoch: schedule(math.floor(epoch))


def error_decay_scale(steepness: Schedule) -> Schedule:
    """IR-Net's k = max(1 / t, 1), from its t.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/trainer.py.
    """
    return lambda epoch: max(1 / steepness(epoch), 1.0)
