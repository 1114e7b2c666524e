"""Fixtures for tests of estimators: the references' layouts, comparison, gradients."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="session")
def ours():
    """The references' kernel, OIHW or OI, in our layout, HWIO or IO."""
    return lambda kernel: kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


@pytest.fixture(scope="session")
def theirs():
    """Our kernel in the references' layout."""
    return lambda kernel: kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


@pytest.fixture(scope="session")
def close():
    """Equal but for rounding in float64."""

    def check(value, reference):
        np.testing.assert_allclose(value, reference, rtol=1e-12, atol=1e-14 * np.max(np.abs(reference)))

    return check


@pytest.fixture(scope="session")
def gradient_of():
    """A function's value, and its gradient for one that comes from above."""

    def run(function, x, upstream):
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y.numpy(), tape.gradient(y, x, tf.constant(upstream)).numpy()

    return run
