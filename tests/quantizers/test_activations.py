"""Compare real-valued activations with their formulas in NumPy."""

import larq
import numpy as np
import pytest
from helpers import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bnn_keras.errors import BnnError
from bnn_keras.quantizers import RealActivation, clip, leaky_clip

# Name: functions for y and dy/dx. Golden values of "leaky_clip" are in test_bireal.py.
FORMULAS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: x > 0),
    "leaky_clip": (
        lambda x: np.where(np.abs(x) <= 1, x, 0.1 * x + 0.9 * np.sign(x)),
        lambda x: np.where(np.abs(x) <= 1, 1, 0.1),
    ),
    "clip": (lambda x: np.clip(x, -1, 1), lambda x: np.abs(x) < 1),
}
EDGES = np.array([-2, np.nextafter(-1, -2), -1, np.nextafter(-1, 0), -0.5, 0, 0.5, np.nextafter(1, 0), 1, 1.1, 50])


def check(name, x, upstream):
    y, slope = FORMULAS[name]
    value, gradient = value_and_gradient(RealActivation(name, dtype="float64"), x, upstream)
    np.testing.assert_allclose(value, y(x), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(gradient, upstream * slope(x), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", FORMULAS)
def test_edges_equal_formula(name):
    check(name, EDGES, np.linspace(1, 2, len(EDGES)))


@pytest.mark.parametrize("name", FORMULAS)
@settings(deadline=None, max_examples=25)
@given(x_and_upstream=arrays(np.float64, (2, 3, 7), elements=st.floats(-3, 3, allow_subnormal=False)))
def test_equals_formula(name, x_and_upstream):
    check(name, *x_and_upstream)


@pytest.mark.parametrize(("function", "name"), [(clip, "clip"), (leaky_clip, "leaky_clip")])
def test_layer_equals_function(function, name):
    x = EDGES.astype(np.float32)
    assert np.array_equal(RealActivation(name)(x), function(x))


@pytest.mark.parametrize("name", FORMULAS)
def test_larq_layer_keeps_activation_after_serialization(name):
    layer = larq.layers.QuantDense(3, input_quantizer=RealActivation(name))
    copy = larq.layers.QuantDense.from_config(layer.get_config()).input_quantizer
    assert isinstance(copy, RealActivation)
    assert (copy.function, copy.precision) == (name, 32)


def test_unknown_function_is_rejected():
    with pytest.raises(BnnError) as caught:
        RealActivation("leaky_clap")
    assert str(caught.value) == (
        "unknown activation 'leaky_clap'; did you mean 'leaky_clip'? known: clip, leaky_clip, relu"
    )
