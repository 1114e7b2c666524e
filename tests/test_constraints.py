"""Constraints on latent weights."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.build import build_model
from bnn_keras.constraints import AtLeast, CentreAndClip, apply_constraints
from bnn_keras.experiment import resolve


@pytest.mark.parametrize("shape", [(3, 3, 8, 4), (8, 4)])
def test_centre_and_clip_equals_formula(shape):
    kernel = np.random.default_rng(0).normal(0.3, 1, shape)
    expected = np.clip(kernel - kernel.mean(-2, keepdims=True), -0.5, 0.5)
    np.testing.assert_allclose(CentreAndClip(0.5)(tf.constant(kernel)).numpy(), expected, rtol=1e-12)


def test_at_least_raises_smaller_weights():
    assert AtLeast(0.01)(tf.constant([-1.0, 0.01, 2.0])).numpy() == pytest.approx([0.01, 0.01, 2])


@pytest.mark.parametrize("constraint", [CentreAndClip(0.5), AtLeast(0.25)])
def test_serialization_keeps_arguments(constraint):
    copy = tf.keras.constraints.deserialize(tf.keras.constraints.serialize(constraint))
    assert copy.get_config() == constraint.get_config()


def test_apply_constraints_reaches_every_constrained_weight():
    layer = tf.keras.layers.Dense(2, kernel_initializer="ones", bias_initializer="ones", bias_constraint=AtLeast(3.0))
    model = tf.keras.Sequential([tf.keras.layers.Input((4,)), layer])
    apply_constraints(model)
    assert layer.bias.numpy().tolist() == [3, 3]
    assert np.all(layer.kernel.numpy() == 1)


@pytest.mark.parametrize(("network", "expected"), [("lenet5", 0.01), ("nin", 0.01), ("resnet20", 0)])
def test_scales_of_xnor_nets_batch_norms_have_a_minimum(network, expected):
    model = build_model(resolve(network).experiment)
    scales = [layer.gamma for layer in model.layers if getattr(layer, "gamma", None) is not None]
    for scale in scales:
        scale.assign(tf.zeros_like(scale))
    apply_constraints(model)
    assert {value for scale in scales for value in scale.numpy()} == {np.float32(expected)}
