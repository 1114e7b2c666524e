"""Compare IR-Net's estimators with golden values of the reference and with the formula in NumPy; annealing."""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, to_hwio, to_oihw, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from procedural import quantizer_values

from bnn_keras import schemes
from bnn_keras.build import build_network
from bnn_keras.quantizers import (
    Annealed,
    BalancedScaledSign,
    ErrorDecaySign,
    balanced_scaled_sign,
    error_decay_sign,
)

GOLDEN = quantizer_values()
KERNELS = [key.split("/")[1] for key in GOLDEN if key.startswith("irnet_weight/") and key.endswith("/y")]
ACTIVATIONS = [key.split("/")[1] for key in GOLDEN if key.startswith("irnet_act/") and key.endswith("/y")]
KT = list(enumerate(GOLDEN["irnet_kt"]))


def test_golden_file_has_all_values():
    assert (len(KERNELS), len(ACTIVATIONS), len(KT)) == (6, 3, 6)


@pytest.mark.parametrize(("pair", "kt"), KT)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_reference(kernel, pair, kt):
    raw, upstream = (to_hwio(GOLDEN[f"{field}/{kernel}"].astype(np.float64)) for field in ("kernel", "kernel_g"))
    k, t = kt
    binary, gradient = value_and_gradient(lambda x: balanced_scaled_sign(x, t, k), raw, upstream)
    # No weight equals the mean of its filter, so no sign is 0.
    assert_close(to_oihw(binary), GOLDEN[f"irnet_weight/{kernel}/y"])
    assert_close(to_oihw(gradient), GOLDEN[f"irnet_weight/{kernel}/grad_kt{pair}"])
    scale = np.abs(binary).max((0, 1, 2))
    assert np.array_equal(scale, GOLDEN[f"irnet_weight/{kernel}/scale"])
    assert np.all(np.frexp(scale)[0] == 0.5)  # powers of two


@pytest.mark.parametrize(("pair", "kt"), KT)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_reference(name, pair, kt):
    x = GOLDEN[f"act/{name}"].astype(np.float64)
    k, t = kt
    y, gradient = value_and_gradient(lambda x: error_decay_sign(x, t, k), x, GOLDEN[f"act_g/{name}"].astype(np.float64))
    nonzero = x != 0  # sign(0) is 0 in the reference, +1 here
    assert np.array_equal(y[nonzero], GOLDEN[f"irnet_act/{name}/y"][nonzero])
    assert_close(gradient, GOLDEN[f"irnet_act/{name}/grad_kt{pair}"])


def test_sign_of_zero_is_one():
    assert error_decay_sign(tf.constant([0.0, -0.0]), 1, 1).numpy().tolist() == [1, 1]


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(3, 2, 4, 5), (24, 5)]),
    mean=st.floats(-1, 1),
    deviation=st.floats(0.01, 10),
    t=st.floats(0.01, 10),
    k=st.floats(1, 100),
)
def test_kernel_equals_formula(seed, shape, mean, deviation, t, k):
    kernel, upstream = np.random.default_rng(seed).normal(0, 1, (2, *shape))
    kernel = mean + deviation * kernel**3  # cubes give filters different scales
    w, db = kernel.reshape(24, 5), upstream.reshape(24, 5)
    sigma = np.sqrt(((w - w.mean(0)) ** 2).sum(0) / 23)
    v = (w - w.mean(0)) / sigma
    scale = 2 ** np.round(np.log2(np.abs(v).mean(0)))
    dv = scale * db * k * t * (1 - np.tanh(t * v) ** 2)
    dw = (dv - dv.mean(0) - v * (dv * v).sum(0) / 23) / sigma
    binary, gradient = value_and_gradient(lambda x: balanced_scaled_sign(x, t, k), kernel, upstream)
    assert np.array_equal(binary.reshape(24, 5), scale * np.where(v >= 0, 1, -1))
    np.testing.assert_allclose(gradient.reshape(24, 5), dw, rtol=1e-8, atol=1e-8 * np.abs(dw).max())


def test_python_numbers_keep_float64_precision():
    x = np.array([0.0, 1.0])
    _, gradient = value_and_gradient(lambda x: error_decay_sign(x, 0.1, 0.7), x, np.ones(2))
    assert_close(gradient, 0.7 * 0.1 * (1 - np.tanh(0.1 * x) ** 2))


@pytest.mark.parametrize(
    ("quantizer", "function"), [(ErrorDecaySign, error_decay_sign), (BalancedScaledSign, balanced_scaled_sign)]
)
def test_assigned_values_change_the_next_gradient_without_retracing(quantizer, function):
    x = tf.constant(np.random.default_rng(1).normal(0, 1, (24, 5)))
    quantizer = quantizer(t=1.0, k=1.0, dtype=tf.float64)
    traces = []

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x, tf.cos(x))

    @tf.function
    def traced():
        traces.append(1)
        return gradient(quantizer)

    for t, k in [(1.0, 1.0), (5.0, 1.0), (5.0, 7.0)]:
        quantizer.annealed.assign(t=t, k=k)
        expected = gradient(lambda x, t=t, k=k: function(x, t, k))
        np.testing.assert_allclose(traced(), expected, rtol=1e-9)
    assert len(traces) == 1


def test_quantizers_share_annealed_values():
    shared = Annealed(t=0.5, k=2.0)
    first, second = ErrorDecaySign(annealed=shared), BalancedScaledSign(annealed=shared)
    separate = BalancedScaledSign(t=3.0)
    first.annealed.assign(t=4.0)
    assert second.get_config().items() >= {"t": 4.0, "k": 2.0}.items()
    assert separate.annealed.values() == {"t": 3.0, "k": 10.0}


@pytest.mark.parametrize("quantizer", [ErrorDecaySign, BalancedScaledSign])
def test_serialization_keeps_current_values(quantizer):
    quantizer = quantizer(t=0.5, k=2.0)
    quantizer.annealed.assign(t=4.0)
    copy = larq.quantizers.deserialize(larq.quantizers.serialize(quantizer))
    assert copy.annealed.values() == {"t": 4.0, "k": 2.0}
    assert copy.annealed is not quantizer.annealed


def test_annealed_values_are_kept_with_the_model_and_are_not_weights():
    scheme = schemes.irnet(t=0.5, k=2.0)
    model = build_network("resnet20", scheme, (32, 32, 3), 10, structure="bireal")
    assert model.scheme is scheme
    quantizers = [getattr(layer, "kernel_quantizer", None) for layer in model.layers]
    used = {id(quantizer.annealed) for quantizer in quantizers if quantizer}
    assert used == {id(scheme.annealed)}
    variables = scheme.annealed.variables.values()
    assert not any(weight is variable for weight in model.weights for variable in variables)


def test_other_schemes_anneal_nothing():
    assert build_network("lenet5", schemes.xnor(), (28, 28, 1), 10).scheme.annealed is None
