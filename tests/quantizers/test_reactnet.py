"""Compare ReActNet's sign and activation with golden values of the reference; values and all gradients."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from procedural import quantizer_values

from bnn_keras.quantizers import ShiftedPReLU, ShiftedSign, shifted_prelu, shifted_sign

GOLDEN = quantizer_values("quantizers_more")
ACTIVATIONS = [key.split("/")[1] for key in GOLDEN if key.startswith("reactnet_rsign/") and key.endswith("/y")]
SIGN = {"shift": ("b", "db")}
PRELU = {"before": ("move1", "dmove1"), "slope": ("slope", "dslope"), "after": ("move2", "dmove2")}


def channels_last(values):
    """Return activations with axis 1, the reference's channels, at the end. Vectors have one channel."""
    values = values if values.ndim > 1 else values[:, None]
    return np.moveaxis(values.astype(np.float64), 1, -1)


def gradients(function, name, scope, weights):
    """Return value and gradients of a function of activations and per-channel weights, and the golden ones."""
    x = tf.constant(channels_last(GOLDEN[f"act/{name}"]))
    field = f"{scope}/{name}"
    arguments = [tf.constant(GOLDEN[f"{field}/{value}"].astype(np.float64).ravel()) for value, _ in weights.values()]
    with tf.GradientTape() as tape:
        tape.watch([x, *arguments])
        y = function(x, *arguments)
    upstream = tf.constant(channels_last(GOLDEN[f"act_g/{name}"]))
    computed = [y, *tape.gradient(y, [x, *arguments], upstream)]
    golden = [channels_last(GOLDEN[f"{field}/{key}"]) for key in ("y", "dx")]
    golden += [GOLDEN[f"{field}/{gradient}"].ravel() for _, gradient in weights.values()]
    return [value.numpy() for value in computed], golden


def test_golden_file_has_all_values():
    assert len(ACTIVATIONS) == 3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_sign_equals_reference(name):
    computed, golden = gradients(shifted_sign, name, "reactnet_rsign", SIGN)
    nonzero = golden[0] != 0  # sign(0) is 0 in the reference, +1 here
    assert_close(computed[0][nonzero], golden[0][nonzero])
    for value, reference in zip(computed[1:], golden[1:], strict=True):
        assert_close(value, reference)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_reference(name):
    computed, golden = gradients(shifted_prelu, name, "reactnet_rprelu", PRELU)
    for value, reference in zip(computed, golden, strict=True):
        assert_close(value, reference)


def test_layers_apply_the_functions_with_their_weights():
    random = np.random.default_rng(1)
    x = random.normal(0, 1, (2, 3, 3, 4)).astype(np.float32)
    for layer, function in ((ShiftedSign(), shifted_sign), (ShiftedPReLU(), shifted_prelu)):
        layer.build(x.shape)
        weights = [random.normal(0, 1, 4).astype(np.float32) for _ in layer.weights]
        layer.set_weights(weights)
        assert np.array_equal(layer(x), function(x, *map(tf.constant, weights)))
        copy = type(layer).from_config(layer.get_config())
        copy.build(x.shape)
        fresh = [weight.numpy()[0] for weight in copy.weights]
        assert fresh == ([0.0] if len(weights) == 1 else [0.0, 0.25, 0.0])
