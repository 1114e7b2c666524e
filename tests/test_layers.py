"""Layers, and Larq's quantized scope."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.constraints import CentreAndClip
from bnn_keras.layers import ScaledConv2D
from bnn_keras.quantizers import BalancedScaledSign, ClippedSign, XnorScaledSign


def outputs_and_gradients(layer, kernel, images):
    layer.build(images.shape)
    layer.kernel.assign(kernel)
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        y = layer(images)
        loss = tf.reduce_sum(y * tf.cos(y))
    return y.numpy(), [gradient.numpy() for gradient in tape.gradient(loss, [images, layer.kernel.latent_variable])]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arguments", [{}, {"padding": "same", "strides": 2}, {"use_bias": False}])
def test_scaled_convolution_equals_larq_up_to_rounding(arguments):
    random = np.random.default_rng(1)
    kernel, images = random.normal(0, 0.5, (3, 3, 4, 6)), np.sign(random.normal(0, 1, (2, 8, 8, 4)))
    results = [
        outputs_and_gradients(
            layer(6, 3, kernel_quantizer=XnorScaledSign(), kernel_constraint="weight_clip", **arguments), kernel, images
        )
        for layer in (ScaledConv2D, larq.layers.QuantConv2D)
    ]
    (ours, our_gradients), (larqs, larq_gradients) = results
    np.testing.assert_allclose(ours, larqs, rtol=1e-12, atol=1e-12)
    for gradient, larq_gradient in zip(our_gradients, larq_gradients, strict=True):
        np.testing.assert_allclose(gradient, larq_gradient, rtol=1e-10, atol=1e-10)


def test_outputs_are_exact_multiples_of_the_magnitude():
    """With ±1 inputs, equal sums give equal outputs, so that max pools have exact ties."""
    random = np.random.default_rng(2)
    layer = ScaledConv2D(16, 5, kernel_quantizer=XnorScaledSign(), kernel_constraint="weight_clip", use_bias=False)
    images = np.sign(random.normal(0, 1, (4, 12, 12, 20))).astype(np.float32)
    y = layer(images).numpy()
    with larq.context.quantized_scope(True):
        magnitude = np.abs(tf.convert_to_tensor(layer.kernel).numpy()).max((0, 1, 2))
    sums = np.rint(y / magnitude).astype(np.float32)
    assert np.array_equal(y, sums * magnitude)


@pytest.mark.parametrize(
    ("quantizer", "passes"),
    [(ClippedSign, 0), (BalancedScaledSign, 0), (XnorScaledSign, 1)],
    ids=["one", "powers", "others"],
)
def test_maps_are_scaled_only_by_other_magnitudes_than_powers_of_two(quantizer, passes):
    """The gradient multiplies no map at all."""
    layer = ScaledConv2D(2, 3, kernel_quantizer=quantizer(), kernel_constraint="weight_clip", use_bias=False)
    layer.build((None, 9, 9, 3))

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            y = layer(images)
        return y, tape.gradient(y, [images, layer.kernel.latent_variable])

    graph = gradients.get_concrete_function(tf.TensorSpec((4, 9, 9, 3))).graph
    maps = [node for node in graph.get_operations() if node.type == "Mul" and node.outputs[0].shape.rank == 4]
    assert sum(node.outputs[0].shape[0] == 4 for node in maps) == passes


def test_zero_kernel_gives_zero():
    layer = ScaledConv2D(2, 3, kernel_quantizer=XnorScaledSign(), kernel_constraint="weight_clip")
    layer.build((None, 5, 5, 3))
    layer.kernel.assign(np.zeros((3, 3, 3, 2), np.float32))
    assert np.all(layer(np.ones((1, 5, 5, 3), np.float32)).numpy() == 0)


def test_convolution_without_quantizer_equals_keras():
    layer, plain = ScaledConv2D(2, 3), tf.keras.layers.Conv2D(2, 3)
    images = np.random.default_rng(3).normal(0, 1, (1, 5, 5, 3)).astype(np.float32)
    layer.build(images.shape)
    plain.build(images.shape)
    plain.set_weights(layer.get_weights())
    assert np.array_equal(layer(images), plain(images))


def test_serialization_keeps_arguments():
    layer = ScaledConv2D(
        2, 3, kernel_quantizer="xnor_scaled_sign", input_quantizer="xnor_sign", kernel_constraint=CentreAndClip()
    )
    copy = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert isinstance(copy, ScaledConv2D)
    assert copy.get_config() == layer.get_config()


def test_exception_in_a_layer_ends_the_quantized_scope():
    layer = larq.layers.QuantConv2D(2, 3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip")
    layer.build((None, 5, 5, 3))
    latent = layer.kernel.numpy()
    with pytest.raises(tf.errors.InvalidArgumentError):
        layer.call(tf.ones((1, 5, 5, 4)))  # more channels than the kernel
    assert not larq.context.should_quantize()
    assert np.array_equal(layer.kernel.numpy(), latent)


@pytest.mark.parametrize("before", [True, False])
def test_exception_restores_the_outer_scope(before):
    def raise_in_scope():
        with larq.context.quantized_scope(not before) as inside:
            assert inside is larq.context.should_quantize() is (not before)
            raise KeyError

    with larq.context.quantized_scope(before):
        with pytest.raises(KeyError):
            raise_in_scope()
        assert larq.context.should_quantize() is before
    assert not larq.context.should_quantize()
