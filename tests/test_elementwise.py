"""Compare elementwise forms with their formulas in NumPy, in every float type, and compiled by XLA."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import elementwise

# Both zeros, both sides of ±1, and enough values for vector instructions. 0.5 and 3 are exact in 16 bits.
VALUES = [-np.inf, -3, -1, -0.5, -1e-4, -0.0, 0.0, 1e-4, 0.5, 1, 3, np.inf] * 6
TYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("dtype", TYPES)
def test_sign(dtype, compiled):
    x = tf.constant([*VALUES, np.nan], dtype)
    y = tf.function(elementwise.sign, jit_compile=compiled)(x)
    assert y.dtype == x.dtype
    assert np.array_equal(y[:-1], np.where(np.array(VALUES) >= 0, 1, -1))
    assert np.isnan(float(y[-1]))


@pytest.mark.parametrize("dtype", TYPES)
def test_masked_and_triangle(dtype):
    x = tf.constant(VALUES[1:11], dtype)
    values = np.array(x.numpy(), np.float64)
    assert np.array_equal(elementwise.masked(x, tf.abs(x) < 1), values * (np.abs(values) < 1))
    expected = np.maximum(2 - 2 * np.abs(values), 0).astype(x.dtype.as_numpy_dtype)
    assert np.array_equal(elementwise.triangle(x), expected)
