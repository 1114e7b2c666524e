"""Confidence intervals and t tests against published values."""

import pytest

from bnn_keras.report.intervals import difference, estimate, holm, wilson_interval

# Hours of additional sleep of ten patients with two drugs: Student 1908, Biometrika 6, table on page 20.
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)


def test_wilson_interval_is_that_of_the_literature():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611)}
    for (correct, images), limits in published.items():
        interval = wilson_interval(correct, images)
        assert (round(interval.low, 4), round(interval.high, 4)) == limits


def test_paired_test_is_that_of_student():
    one, two = ({patient: [value] for patient, value in enumerate(values)} for values in SLEEP)
    result = difference(two, one)
    assert result.test == "paired t"
    assert result.seeds == list(range(10))
    # R's documentation of `sleep`: t = 4.0621 with 9 degrees of freedom.
    assert result.mean == pytest.approx(1.58)
    assert result.p == pytest.approx(0.002833, abs=1e-6)
    assert (result.interval.low, result.interval.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_welch_is_used_without_shared_seeds():
    one, two = ({side + patient: [value] for patient, value in enumerate(SLEEP[side > 0])} for side in (0, 100))
    result = difference(one, two)
    # R's t.test(extra ~ group, data = sleep): 17.776 degrees of freedom.
    assert (result.test, result.seeds) == ("Welch's t", [])
    assert result.p == pytest.approx(0.07939, abs=1e-5)
    assert (result.interval.low, result.interval.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-6)


def test_without_spread_or_order():
    assert estimate([98.0]).interval is None
    result = difference({1: [98.0]}, {1: [97.0]})
    assert (result.mean, result.test, result.p) == (1.0, None, None)
    assert difference({1: [98.0], 2: [97.0]}, {1: [97.0], 2: [96.0]}).p == 0.0
    assert difference({1: [98.0], 2: [97.0]}, {1: [98.0], 2: [97.0]}).p == 1.0
    assert holm([0.04, 0.03, 0.9]) == pytest.approx([0.09, 0.09, 0.9])
    assert holm([]) == []
