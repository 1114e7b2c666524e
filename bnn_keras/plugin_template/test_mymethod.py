"""Tests of mymethod: `pytest test_mymethod.py`."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import bnn_keras

HERE = Path(__file__).parent
mymethod = bnn_keras.load_plugin(HERE / "mymethod.py").module
SMALL = ["data.name=fake", "data.examples=16", "stages.0.epochs=1", "stages.0.batch_size=8"]


def experiment(*overrides, **choices):
    """Return the experiment of mymethod.toml on a few generated images."""
    return bnn_keras.resolve(experiment=HERE / "mymethod.toml", overrides=[*SMALL, *overrides], **choices).experiment


def binary_layer(model):
    """Return the first layer with a binary kernel."""
    return next(layer for layer in model.layers if getattr(layer, "kernel_quantizer", None))


def test_kernel_is_binary_with_one_scale_per_filter():
    layer = binary_layer(bnn_keras.build_model(experiment("scheme.initial_scale=0.5")))
    kernel = layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel))
    np.testing.assert_array_equal(np.unique(kernel), [-0.5, 0.5])


def test_gradients_are_those_of_the_formula():
    kernel, scale = tf.Variable([[0.5, -2.0], [-0.5, 1.0]]), tf.Variable([2.0, 2.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(mymethod.scaled_sign(kernel, scale) * [[1.0, 2.0], [3.0, 4.0]])
    dw, ds = tape.gradient(loss, [kernel, scale])
    np.testing.assert_allclose(dw, [[2.0, 0.0], [6.0, 8.0]])  # s · db, and 0 where |w| > 1
    np.testing.assert_allclose(ds, [1.0 - 3.0, -2.0 + 4.0])


@pytest.mark.parametrize("bits", ["1/1", "1/32", "32/1", "32/32"])
def test_trains(bits, tmp_path):
    assert bnn_keras.train(experiment(bits=bits), tmp_path / "run", plain=True)["epochs"] == 1


def test_scales_are_learnt_and_exported(tmp_path):
    bnn_keras.train(experiment(), tmp_path / "run", plain=True)
    _, model = bnn_keras.load_run(tmp_path / "run")
    assert not np.allclose(binary_layer(model).kernel_quantizer.scale, 0.1)
    sidecar = bnn_keras.export_run(tmp_path / "run", "packed", tmp_path / "mymethod.safetensors")
    assert sidecar["agreement"] == 100
    assert sidecar["packed_layers"] == sidecar["binary_layers"] > 0
