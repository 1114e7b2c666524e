"""Properties of every quantizer."""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import value_and_gradient

from bnn_keras import quantizers

KERNEL_QUANTIZERS = {
    "xnor_scaled_sign": quantizers.XnorScaledSign,
    "he_scaled_sign": quantizers.HeScaledSign,
    "detached_scaled_sign": quantizers.DetachedScaledSign,
    "balanced_scaled_sign": quantizers.BalancedScaledSign,
}
INPUT_QUANTIZERS = {
    "xnor_sign": quantizers.XnorSign,
    "error_decay_sign": quantizers.ErrorDecaySign,
}
SHAPES = [(3, 3, 4, 6), (36, 6)]


def network(name):
    """Return a model with a convolution and a dense layer."""
    arguments = {"kernel_quantizer": name, "kernel_constraint": "weight_clip"}
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input((5, 5, 2)),
            larq.layers.QuantConv2D(4, 3, **arguments),
            tf.keras.layers.Flatten(),
            larq.layers.QuantDense(3, **arguments),
        ]
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNEL_QUANTIZERS)
def test_each_filter_has_two_opposite_values(name, shape):
    kernel = np.random.default_rng(1).normal(0.1, 0.5, shape).astype(np.float32)
    filters = larq.quantizers.get(name)(kernel).numpy().reshape(36, 6).T
    for quantized in filters:
        low, high = np.unique(quantized)
        assert low == -high < 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNEL_QUANTIZERS)
def test_gradient_has_kernel_shape_and_is_finite(name, shape):
    kernel, upstream = np.random.default_rng(1).normal(0, 0.5, (2, *shape)).astype(np.float32)
    _, gradient = value_and_gradient(larq.quantizers.get(name), kernel, upstream)
    assert gradient.shape == shape
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0)


@pytest.mark.parametrize(
    ("role", "name", "quantizer"),
    [("kernel", *row) for row in KERNEL_QUANTIZERS.items()] + [("input", *row) for row in INPUT_QUANTIZERS.items()],
)
def test_larq_layer_accepts_quantizer_by_name(role, name, quantizer):
    layer = larq.layers.QuantDense(3, kernel_constraint="weight_clip", **{f"{role}_quantizer": name})
    copy = larq.layers.QuantDense.from_config(layer.get_config())
    for each in (layer, copy):
        assert type(getattr(each, f"{role}_quantizer")) is quantizer
        assert getattr(each, f"{role}_quantizer").precision == 1
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize("name", KERNEL_QUANTIZERS)
def test_saved_model_and_weights_equal_original(name, tmp_path):
    images = np.random.default_rng(2).normal(0, 1, (2, 5, 5, 2)).astype(np.float32)
    model, copy = network(name), network(name)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "weights.h5")
    copy.load_weights(tmp_path / "weights.h5")
    for other in (copy, tf.keras.models.load_model(tmp_path / "model.keras")):
        assert type(other.layers[0].kernel_quantizer) is KERNEL_QUANTIZERS[name]
        assert np.array_equal(other(images), model(images))
        # Files contain latent weights, not quantized ones.
        assert all(map(np.array_equal, other.get_weights(), model.get_weights()))
