"""Schedules: hyper-parameters as functions of the epoch.

The epoch may be a fraction: e = 2.5 is the middle of the third epoch. Epochs count from the start of the stage.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """Return a schedule with the same value in every epoch.

    Example:
        >>> constant(0.1)(7.5)
        0.1
    """
    return lambda epoch: value


def multi_step(initial: float, factor: float, boundaries: Sequence[float]) -> Schedule:
    """Return a schedule that multiplies its value at each boundary.

    initial · factor^k, where k is the number of boundaries ≤ epoch.

    Args:
        initial: The value before the first boundary.
        factor: The factor of each boundary.
        boundaries: Epochs since the start of the stage, ascending.

    Example:
        >>> schedule = multi_step(1.0, 0.5, boundaries=[2, 4])
        >>> [schedule(epoch) for epoch in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return lambda epoch: initial * factor ** sum(epoch >= boundary for boundary in boundaries)


def exponential(initial: float, factor: float, period: float, staircase: bool = False) -> Schedule:
    """Return a schedule that multiplies its value by the same factor in every period.

    initial · factor^(epoch / period).

    Args:
        initial: The value at epoch 0.
        factor: The factor of each period.
        period: The length of a period in epochs.
        staircase: Apply the factor at the end of each period: initial · factor^⌊epoch / period⌋.

    Example:
        >>> [exponential(1.0, 0.25, period=2)(epoch) for epoch in range(4)]
        [1.0, 0.5, 0.25, 0.125]
        >>> [exponential(1.0, 0.25, period=2, staircase=True)(epoch) for epoch in range(4)]
        [1.0, 1.0, 0.25, 0.25]

    Source: rethinking-bnn-optimization, models/binarynet.py (`bop_sec52`, gamma).
    """
    return lambda epoch: initial * factor ** (epoch // period if staircase else epoch / period)


def geometric(initial: float, final: float, epochs: float) -> Schedule:
    """Return a schedule that multiplies its value by the same factor in each epoch, from `initial` to `final`.

    initial · (final / initial)^(epoch / epochs).

    IR-Net's t follows this schedule, from 0.1 (or 0.001) to 10. It does not reach 10, because the last epoch is
    epochs − 1.

    Args:
        initial: The value at epoch 0.
        final: The value at epoch `epochs`, which is after the last one.
        epochs: The number of epochs.

    Example:
        >>> [geometric(1.0, 16.0, epochs=4)(epoch) for epoch in range(5)]
        [1.0, 2.0, 4.0, 8.0, 16.0]

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/trainer.py (`Log_UP`).
    """
    return lambda epoch: initial * (final / initial) ** (epoch / epochs)


def shifted_exponential(initial: float, final: float, epochs: float) -> Schedule:
    """Return a schedule that follows exp(epoch / epochs), scaled and shifted to run from `initial` to `final`.

    initial + (final − initial) · (exp(epoch / epochs) − 1) / (exp(1) − 1).

    ReCU's τ follows this schedule, from 0.85 to 0.99. It changes fastest at the end, and does not reach 0.99, because
    the last epoch is epochs − 1.

    Args:
        initial: The value at epoch 0.
        final: The value at epoch `epochs`, which is after the last one.
        epochs: The number of epochs.

    Example:
        >>> [round(shifted_exponential(0.85, 0.99, epochs=600)(epoch), 4) for epoch in (0, 300, 599)]
        [0.85, 0.9029, 0.9896]

    Source: ReCU, cifar/main.py.
    """
    return lambda epoch: initial + (final - initial) * math.expm1(epoch / epochs) / math.expm1(1)


def polynomial(initial: float, final: float, epochs: float, power: float = 1.0) -> Schedule:
    """Return a schedule that follows a power of the remaining fraction of the epochs.

    final + (initial − final) · (1 − epoch / epochs)^power.

    Args:
        initial: The value at epoch 0.
        final: The value at epoch `epochs` and later.
        epochs: The number of epochs.
        power: The exponent; 1 is a straight line.

    Example:
        >>> [polynomial(1.0, 0.0, epochs=4)(epoch) for epoch in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    Source: tf.keras.optimizers.schedules.PolynomialDecay; rethinking-bnn-optimization, models/xnor.py.
    """
    return lambda epoch: final + (initial - final) * (1 - min(epoch / epochs, 1)) ** power


def cosine(initial: float, final: float, epochs: float) -> Schedule:
    """Return a schedule that follows half a cosine.

    final + (initial − final) · (1 + cos(π · epoch / epochs)) / 2.

    Args:
        initial: The value at epoch 0.
        final: The value at epoch `epochs`, which is after the last one.
        epochs: The number of epochs.

    Example:
        >>> [round(cosine(1.0, 0.0, epochs=4)(epoch), 4) for epoch in range(5)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0]

    Source: torch.optim.lr_scheduler.CosineAnnealingLR; Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    return lambda epoch: final + (initial - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def cosine_restarts(
    initial: float, final: float, epochs: float, restarts: Sequence[float], ahead: float = 0.0
) -> Schedule:
    """Return a schedule that follows half a cosine in each cycle. A new cycle starts at each epoch of `restarts`.

    Args:
        initial: The value at the start of a cycle.
        final: The value after the last epoch of a cycle.
        epochs: The number of epochs of all cycles together.
        restarts: Epochs at which a new cycle starts, ascending. McDonnell's are 2, 4, 8, …: cycles of 2, 2, 4, …
            epochs.
        ahead: Epochs by which the first cycle is shifted to the left.

    Example:
        >>> schedule = cosine_restarts(1.0, 0.0, epochs=4, restarts=[2])
        >>> [round(schedule(epoch), 4) for epoch in range(4)]
        [1.0, 0.5, 1.0, 0.5]

    Source: binary-wide-resnet, main.py, whose scheduler steps once before the first epoch.
    """
    starts = [0.0, *(restart for restart in restarts if restart < epochs)]
    ends = [*starts[1:], epochs]

    def value(epoch: float) -> float:
        cycle = max(bisect.bisect_right(starts, epoch) - 1, 0)
        position = epoch - starts[cycle] + (0 if cycle else ahead)
        return cosine(initial, final, ends[cycle] - starts[cycle])(position)

    return value


def ahead(schedule: Schedule, epochs: float) -> Schedule:
    """Return a schedule shifted to the left: its value at `epoch` is that of `schedule` at epoch + epochs.

    Example:
        >>> ahead(multi_step(1.0, 0.5, boundaries=[2]), 1)(1)
        0.5
    """
    return lambda epoch: schedule(epoch + epochs)


def warmed_up(schedule: Schedule, initial: float, epochs: float) -> Schedule:
    """Return a schedule with a linear warm-up: from `initial` to schedule(epochs), then `schedule` itself.

    Args:
        schedule: The schedule after the warm-up.
        initial: The value at epoch 0.
        epochs: The length of the warm-up in epochs.

    Example:
        >>> schedule = warmed_up(constant(1.0), initial=0.0, epochs=2)
        >>> [schedule(epoch) for epoch in range(4)]
        [0.0, 0.5, 1.0, 1.0]

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2; IR-Net, ImageNet/ResNet18/1w1a/config.yaml.
    """
    return lambda epoch: schedule(epoch) if epoch >= epochs else initial + (schedule(epochs) - initial) * epoch / epochs


def by_epoch(schedule: Schedule) -> Schedule:
    """Return a schedule that is constant within each epoch.

    Example:
        >>> by_epoch(polynomial(1.0, 0.0, epochs=4))(1.75)
        0.75
    """
    return lambda epoch: schedule(math.floor(epoch))


def error_decay_scale(steepness: Schedule) -> Schedule:
    """Return IR-Net's k = max(1 / t, 1) as a schedule.

    Args:
        steepness: The schedule of t.

    Example:
        >>> [error_decay_scale(constant(t))(0) for t in (0.25, 4.0)]
        [4.0, 1.0]

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/trainer.py.
    """
    return lambda epoch: max(1 / steepness(epoch), 1.0)
