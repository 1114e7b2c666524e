"""Which inputs pass a gradient, against the formulas of the estimators."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import quantizers

X = np.linspace(-4, 4, 33, dtype=np.float32).reshape(1, 33)


def triangle(x):
    return np.maximum(2 - 2 * np.abs(x), 0)


def shifted():
    quantizer = quantizers.ShiftedSign()
    quantizer(tf.constant(X))
    quantizer.shift.assign(tf.fill((33,), 2.0))
    return quantizer


@pytest.mark.parametrize(
    ("quantizer", "slope"),
    [
        (larq.quantizers.SteSign(), np.abs(X) <= 1),
        (quantizers.XnorSign(), np.abs(X) < 1),
        (quantizers.ApproximateSign(), triangle(X)),
        (quantizers.Dropout(0.5, quantizers.ApproximateSign(), seed=1), triangle(X)),
        (quantizers.ErrorDecaySign(t=2.0, k=1.5), 3 * (1 - np.tanh(2 * X) ** 2)),
        (quantizers.NormalizedSign(), triangle(X / np.sqrt(X.var(ddof=1) + 1e-5))),
        (shifted(), triangle(X + 2)),
    ],
)
def test_slopes(quantizer, slope):
    found = quantizers.estimator_slope(quantizer, tf.constant(X)).numpy()
    np.testing.assert_allclose(found, slope, atol=1e-5)
    outside = quantizers.outside_window(quantizer, tf.constant(X)).numpy()
    np.testing.assert_array_equal(outside, slope <= 0.01 * np.max(slope))


def test_all_inputs_can_be_outside():
    assert quantizers.outside_window(larq.quantizers.SteSign(), tf.constant([2.0, -3.0])).numpy().all()
