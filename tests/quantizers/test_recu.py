"""Compare ReCU's estimators with golden values of the reference and with the formula in NumPy."""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, small_network, to_hwio, to_oihw, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from procedural import quantizer_values

from bnn_keras import schemes
from bnn_keras.build import build_annealing
from bnn_keras.counts import count
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.export.freeze import binary_kernels, freeze
from bnn_keras.interop import from_reference, to_reference
from bnn_keras.quantizers import (
    Annealed,
    ClampedScaledSign,
    NormalizedSign,
    clamped_scaled_sign,
    inference_form,
    normalized_sign,
)

GOLDEN = quantizer_values("quantizers_more") | quantizer_values()
KERNELS = [key.split("/")[1] for key in GOLDEN if key.startswith("recu_weight/") and key.endswith("/y")]
ACTIVATIONS = [key.split("/")[1] for key in GOLDEN if key.startswith("recu_act/") and key.endswith("/y")]
TAUS = list(enumerate(GOLDEN["recu_tau"]))


def golden(name):
    return GOLDEN[name].astype(np.float64)


def test_golden_file_has_all_values():
    assert (len(KERNELS), len(ACTIVATIONS), len(TAUS)) == (6, 3, 6)


@pytest.mark.parametrize(("index", "tau"), TAUS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_reference(kernel, index, tau):
    raw, upstream = (to_hwio(golden(f"{field}/{kernel}")) for field in ("kernel", "kernel_g"))
    ones = np.ones(raw.shape[-1])
    binary, gradient = value_and_gradient(lambda w: clamped_scaled_sign(w, ones, tau), raw, upstream)
    assert_close(to_oihw(binary), GOLDEN[f"recu_weight/{kernel}/y"])  # no weight equals the mean of its filter
    assert_close(to_oihw(gradient), GOLDEN[f"recu_weight/{kernel}/grad_tau{index}"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("training", "field"), [(True, "grad"), (False, "grad_eval")])
def test_activation_equals_reference(name, training, field):
    x, upstream = golden(f"act/{name}"), golden(f"act_g/{name}")
    if x.ndim == 1:  # one image
        x, upstream = x[None], upstream[None]
    y, gradient = value_and_gradient(lambda x: NormalizedSign()(x, training=training), x, upstream)
    reference = GOLDEN[f"recu_act/{name}/y"].reshape(x.shape)
    assert np.array_equal(y[x != 0], reference[x != 0])  # sign(0) is 0 in the reference, +1 here
    assert_close(gradient, GOLDEN[f"recu_act/{name}/{field}"].reshape(x.shape))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("index", "tau"), TAUS)
@pytest.mark.parametrize("training", [True, False])
def test_layer_equals_reference(index, tau, training):
    """The whole layer, with the gradient of α."""
    scheme = schemes.recu(tau=tau)
    layer = scheme.conv2d(4, 3, padding="same", use_bias=False)
    x = tf.constant(golden("recu_conv/x").transpose(0, 2, 3, 1))
    layer(x)
    alpha = layer.kernel_quantizer.alpha
    alpha.assign(golden("recu_conv/alpha").ravel())
    layer.kernel.assign(to_hwio(golden("recu_conv/w")))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    upstream = tf.constant(golden("recu_conv/g").transpose(0, 2, 3, 1))
    dx, dw, dalpha = tape.gradient(y, [x, layer.kernel.latent_variable, alpha], upstream)
    assert_close(y.numpy().transpose(0, 3, 1, 2), GOLDEN["recu_conv/y"])
    assert_close(dx.numpy().transpose(0, 3, 1, 2), GOLDEN["recu_conv/dx" if training else "recu_conv/dx_eval"])
    assert_close(dalpha.numpy(), GOLDEN["recu_conv/dalpha"].ravel())
    assert_close(to_oihw(dw.numpy()), GOLDEN[f"recu_conv/dw_tau{index}"])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(3, 2, 4, 5), (24, 5)]),
    deviation=st.floats(0.01, 10),
    tau=st.floats(0.51, 0.999),
)
def test_kernel_equals_formula(seed, shape, deviation, tau):
    random = np.random.default_rng(seed)
    kernel, upstream = random.normal(1, deviation, shape), random.normal(0, 1, shape)
    alpha = random.uniform(-1, 1, 5)
    w, db = kernel.reshape(24, 5), upstream.reshape(24, 5)
    centred = w - w.mean(0)
    sigma = np.sqrt((centred**2).sum(0) / 23 + 1e-5)
    s = 2 * np.sqrt(2) * centred / sigma
    ds = alpha * db * (np.abs(s) <= -np.log(2 - 2 * tau) * np.abs(s).mean())
    dv = 2 * np.sqrt(2) / sigma * (ds - centred * (ds * centred).sum(0) / (23 * sigma**2))
    binary, gradient = value_and_gradient(lambda x: clamped_scaled_sign(x, alpha, tau), kernel, upstream)
    assert np.array_equal(binary.reshape(24, 5), alpha * np.where(s >= 0, 1, -1))
    dw = dv - dv.mean(0)
    np.testing.assert_allclose(gradient.reshape(24, 5), dw, rtol=1e-8, atol=1e-8 * np.abs(dw).max())


@pytest.mark.parametrize("shape", [(1, 4), (6, 1), (1, 1, 1, 3)])
def test_single_and_equal_weights_are_finite(shape):
    """The reference's deviation of one weight is NaN."""
    for kernel in (np.ones(shape), np.arange(np.prod(shape), dtype=float).reshape(shape)):
        binary, gradient = value_and_gradient(
            lambda w: clamped_scaled_sign(w, np.ones(shape[-1]), 0.85), kernel, np.ones(shape)
        )
        assert np.isfinite(binary).all()
        assert np.isfinite(gradient).all()
    y, gradient = value_and_gradient(normalized_sign, np.ones((2, 1)), np.ones((2, 1)))
    assert np.array_equal(y, np.ones((2, 1)))
    assert np.isfinite(gradient).all()


def test_images_are_divided_by_their_own_deviations():
    x = np.random.default_rng(1).normal(0, 1, (3, 4, 4, 2))
    upstream = np.ones_like(x)
    together = value_and_gradient(normalized_sign, x, upstream)[1]
    for index in range(3):
        assert_close(value_and_gradient(normalized_sign, x[[index]], upstream[[index]])[1], together[[index]])


def test_inputs_are_signs_in_inference():
    assert type(inference_form(NormalizedSign())) is larq.quantizers.SteSign


def test_assigned_tau_changes_the_next_gradient_without_retracing():
    x = tf.constant(np.random.default_rng(1).normal(0, 1, (24, 5)))
    quantizer = ClampedScaledSign(tau=1.0, dtype=tf.float64)
    quantizer(x)
    traces = []

    @tf.function
    def traced():
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = quantizer(x)
        return tape.gradient(y, x, tf.cos(x))

    gradients = []
    for tau in (1.0, 0.6):
        quantizer.annealed.assign(tau=tau)
        gradients.append(traced().numpy())
        expected = value_and_gradient(lambda w, tau=tau: clamped_scaled_sign(w, quantizer.alpha, tau), x, tf.cos(x))[1]
        np.testing.assert_allclose(gradients[-1], expected, rtol=1e-9)
    assert len(traces) == 1
    assert not np.allclose(*gradients)


def test_serialization_keeps_tau_and_copies_share_nothing():
    quantizer = ClampedScaledSign(annealed=Annealed(tau=0.6))
    quantizer.annealed.assign(tau=0.9)
    copy = larq.quantizers.deserialize(larq.quantizers.serialize(quantizer))
    assert copy.annealed.values() == {"tau": 0.9}
    assert copy.annealed is not quantizer.annealed


def test_scales_are_drawn_from_zero_to_one():
    quantizer = ClampedScaledSign()
    quantizer.build((3, 3, 8, 1000))
    alpha = quantizer.alpha.numpy()
    assert (alpha >= 0).all()
    assert (alpha < 1).all()
    assert alpha.mean() == pytest.approx(0.5, abs=0.05)


def test_frozen_network_with_negative_scales_is_equal():
    """A negative scale flips the signs of its filter. VGG-Small has a max pool behind it."""
    model = small_network("vgg_small", schemes.recu())
    random = np.random.default_rng(1)
    for layer in model.layers:
        if hasattr(layer, "kernel_quantizer"):
            layer.kernel_quantizer.alpha.assign(random.uniform(-1, 1, layer.filters))
    images = random.normal(0, 1, (2, *model.input_shape[1:])).astype(np.float32)
    assert all((kernel.scales > 0).all() for kernel in binary_kernels(model).values())
    assert np.array_equal(freeze(model)(images), model(images))


@pytest.mark.parametrize("tau", ["0.4", "1.5", "{schedule='linear', initial=0.85, final=1.5}"])
def test_tau_is_a_quantile(tau):
    with pytest.raises(BnnError, match=r"scheme\.tau: got .*; expected values from 0\.5 to 1, such as 0\.85"):
        resolve("lenet5", scheme="recu", overrides=[f"scheme.tau={tau}"])


def test_default_tau_rises():
    experiment = resolve("lenet5", scheme="recu", epochs=10).experiment
    tau = build_annealing(experiment, experiment.stages[0])["tau"]
    assert tau(0) == 0.85
    assert tau(10) == pytest.approx(0.99, rel=1e-12)


def test_checkpoints_of_the_reference_have_tau_and_scales_as_maps():
    model = small_network("resnet20", schemes.recu(), variant="recu")
    tensors = to_reference(model)
    alpha = {name: value.shape for name, value in tensors.items() if name.endswith("alpha")}
    assert alpha["layer1.0.conv1.alpha"] == (8, 1, 1)
    tau = {name.replace("alpha", "tau"): np.ones(1, np.float32) for name in alpha}
    read = from_reference(model, tensors | tau)
    assert read.keys() == tensors.keys()
    assert all(read[name].shape == (shape[0],) for name, shape in alpha.items())


def test_learnt_scales_are_counted_once():
    """The smallest size is that of a scheme with computed scales; scales are parameters here."""
    computed, learnt = (count(small_network("lenet5", scheme)) for scheme in (schemes.xnor(), schemes.recu()))
    assert learnt["bytes_minimum"] == computed["bytes_minimum"]
    assert learnt["parameters"] - computed["parameters"] == 50 + 500
