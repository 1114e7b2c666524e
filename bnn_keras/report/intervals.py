"""Confidence intervals of accuracies, of means over seeds, and of differences between two sets of runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import pydantic
import tensorflow as tf

CONFIDENCE = 0.95


class Interval(pydantic.BaseModel):
    """A confidence interval."""

    low: float
    high: float


class Estimate(pydantic.BaseModel):
    """A mean over seeds.

    Attributes:
        values: The values.
        mean: Their mean.
        deviation: Their standard deviation (n − 1); None for fewer than two.
        interval: The confidence interval of the mean; None for fewer than two.
    """

    values: list[float]
    mean: float
    deviation: float | None = None
    interval: Interval | None = None


class Difference(pydantic.BaseModel):
    """The difference between the means of two sets of values, and a t test that it is 0.

    Attributes:
        mean: The difference of the means.
        test: "paired t" over shared seeds, or "Welch's t"; None if there are too few values.
        seeds: The shared seeds of a paired test.
        interval: The confidence interval of the difference.
        p: Probability of a difference as large or larger, in either direction, if there is none in truth.
    """

    mean: float
    test: str | None = None
    seeds: list[int] = []
    interval: Interval | None = None
    p: float | None = None


def wilson_interval(correct: float, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's confidence interval of an accuracy.

    With p = correct / n and the quantile z of the normal distribution, its limits are
    (p + z² / 2n ± z √(p (1 − p) / n + z² / 4n²)) / (1 + z² / n).

    Args:
        correct: Number of correct predictions.
        images: Number n of images.
        confidence: Probability that the interval covers the true accuracy.

    Returns:
        The interval of the accuracy, as shares from 0 to 1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22; Brown, Cai and DasGupta 2001, Statistical Science 16, eq. 4.

    Example:
        >>> interval = wilson_interval(950, 1000)
        >>> round(interval.low, 4), round(interval.high, 4)
        (0.9347, 0.9619)
    """
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / images
    middle = share + z**2 / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    scale = 1 + z**2 / images
    return Interval(low=max(0.0, (middle - half) / scale), high=min(1.0, (middle + half) / scale))


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of values with Student's confidence interval, mean ± t s / √n.

    Args:
        values: One or more values.
        confidence: Probability that the interval covers the true mean.

    Example:
        >>> result = estimate([98.0, 98.2, 98.4])
        >>> round(result.mean, 2), round(result.deviation, 2), round(result.interval.low, 2)
        (98.2, 0.2, 97.7)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(values=list(values), mean=mean)
    deviation = statistics.stdev(values)
    half = _half_width(deviation / math.sqrt(len(values)), len(values) - 1, confidence)
    return Estimate(
        values=list(values), mean=mean, deviation=deviation, interval=Interval(low=mean - half, high=mean + half)
    )


def difference(
    values: Mapping[int, Sequence[float]], others: Mapping[int, Sequence[float]], confidence: float = CONFIDENCE
) -> Difference:
    """Return the difference between two sets of runs, with a t test.

    The test is paired if two or more seeds are shared: it uses the differences of these seeds alone. Otherwise it is
    Welch's, for which each set needs two values.

    Args:
        values: Values of the one set by seed.
        others: Values of the other set by seed.
        confidence: Probability that the interval covers the true difference.

    Returns:
        The difference, the first set minus the other.

    Source: Student 1908, Biometrika 6; Welch 1947, Biometrika 34.

    Example:
        >>> result = difference({1: [98.0], 2: [97.0]}, {1: [96.0], 2: [95.5]})
        >>> result.mean, result.test, result.seeds, round(result.p, 3)
        (1.75, 'paired t', [1, 2], 0.09)
    """
    shared = [seed for seed in values if seed in others]
    if len(shared) > 1:
        pairs = [statistics.fmean(values[seed]) - statistics.fmean(others[seed]) for seed in shared]
        error = statistics.stdev(pairs) / math.sqrt(len(pairs))
        mean, test, freedom = statistics.fmean(pairs), "paired t", float(len(pairs) - 1)
    else:
        one, other = ([value for group in side.values() for value in group] for side in (values, others))
        mean, shared = statistics.fmean(one) - statistics.fmean(other), []
        if min(len(one), len(other)) < 2:
            return Difference(mean=mean)
        parts = [statistics.variance(group) / len(group) for group in (one, other)]
        error, test = math.sqrt(sum(parts)), "Welch's t"
        # Two sets without any spread have no degrees of freedom of their own.
        spread = sum(part**2 / (len(group) - 1) for part, group in zip(parts, (one, other), strict=True))
        freedom = sum(parts) ** 2 / spread if spread else len(one) + len(other) - 2.0
    half = _half_width(error, freedom, confidence)
    return Difference(
        mean=mean,
        test=test,
        seeds=shared,
        interval=Interval(low=mean - half, high=mean + half),
        p=_two_sided(mean / error, freedom) if error else float(mean == 0),
    )


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return the p values of several tests, adjusted so that any false finding has the probability of one test.

    The i-th smallest of m is multiplied by m − i + 1, and is at least as large as those before it.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.

    Example:
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    adjusted, largest = [0.0] * len(probabilities), 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=lambda index: probabilities[index])):
        largest = max(largest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


def _two_sided(t: float, freedom: float) -> float:
    """Return P(|T| ≥ |t|) of Student's distribution, the incomplete beta function I(ν / (ν + t²); ν / 2, 1 / 2)."""
    arguments = (tf.constant(value, tf.float64) for value in (freedom / 2, 0.5, freedom / (freedom + t**2)))
    with tf.device("CPU"):
        return float(tf.math.betainc(*arguments))


def _half_width(error: float, freedom: float, confidence: float) -> float:
    """Return the standard error times the quantile of Student's distribution, found by bisection."""
    low, high = 0.0, 1.0
    while _two_sided(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) > 1 - confidence else (low, middle)
    return error * high
