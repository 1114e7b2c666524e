"""Bi-Real Net's Caffe variant: layers of the prototxt files, and values and gradients of its formulas in NumPy."""

import json

import caffe
import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN, small_network

from bnn_keras import schemes
from bnn_keras.build import build_model, build_optimizer
from bnn_keras.experiment import load_experiment
from bnn_keras.layers import TorchBatchNormalization

FILES = json.loads((GOLDEN / "birealnet_caffe.json").read_text())
layers = tf.keras.layers


@pytest.mark.parametrize("depth", ["18", pytest.param("34", marks=pytest.mark.slow)])
def test_layers_equal_those_of_the_prototxt(depth):
    file = FILES[depth]
    experiment = load_experiment(f"bireal_net/birealnet{depth}_imagenet2012_stepwise")
    model = build_model(experiment)
    found = [
        [
            "BinaryConvolutionTrain" if getattr(layer, "kernel_quantizer", None) else "Convolution",
            layer.filters,
            layer.kernel_size[0],
            layer.strides[0],
        ]
        for layer in model.layers
        if isinstance(layer, layers.Conv2D)
    ]
    assert sorted(found) == sorted(convolution[:4] for convolution in file["convolutions"])
    norms = [layer for layer in model.layers if isinstance(layer, TorchBatchNormalization)]
    assert len(norms) == file["layers"]["BatchNorm"] == file["layers"]["Scale"]
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(file["moving_average_fraction"], caffe.EPSILON)}
    assert sum(isinstance(layer, layers.Add) for layer in model.layers) == file["layers"]["Eltwise"]
    averages = [layer for layer in model.layers if isinstance(layer, layers.AveragePooling2D)]
    assert 1 + len(averages) + 1 == file["layers"]["Pooling"]  # max pool, shortcuts, mean over the map
    biases = [variable.name for variable in model.trainable_variables if variable.name.endswith("bias:0")]
    assert biases == [*(f"layer{stage}.0.downsample.1/bias:0" for stage in (2, 3, 4)), "fc/bias:0"]
    factors = [build_optimizer(stage.optimizer, stage.epochs).learning_rate_factors for stage in experiment.stages]
    assert {stage["fc/bias:0"] for stage in factors} == {file["bias_learning_rate_factor"]}


@pytest.mark.parametrize("scheme", [schemes.bireal(), schemes.float_()], ids=["binary", "float"])
def test_initial_weights_are_those_of_caffe(scheme):
    """msra: N(0, 2 / fan_in). xavier: U(±√(3 / fan_in))."""
    tf.keras.utils.set_random_seed(1)
    model = small_network("birealnet18", scheme, classes=1000, variant="caffe", blocks=(1, 1), filters=(8, 16))
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel = getattr(layer.kernel, "latent_variable", layer.kernel).numpy()
            expected = (2 / np.prod(kernel.shape[:3])) ** 0.5
            assert abs(kernel.mean()) < 4 * expected / kernel.size**0.5
            assert kernel.std() == pytest.approx(expected, rel=4 / kernel.size**0.5)
    kernel, bias = model.get_layer("fc").get_weights()
    limit = (3 / 16) ** 0.5
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(16**-0.5, rel=0.05)
    assert not bias.any()


@pytest.mark.usefixtures("float64")
def test_equals_the_formulas_in_numpy():
    """Also gradients of latent weights beyond ±1. Our network equals Caffe's with rotated images and kernels."""
    rng = np.random.default_rng(0)
    scheme = schemes.bireal(masked_gradient=False)
    model = small_network("birealnet18", scheme, classes=5, variant="caffe", rotated=True)
    variables = [getattr(variable, "latent_variable", variable) for variable in model.trainable_variables]
    weights = {}
    for variable, trained in zip(variables, model.trainable_variables, strict=True):
        name = trained.name.removesuffix(":0")
        value = rng.normal(1 if name.endswith("gamma") else 0, 0.7, variable.shape)
        weights[name] = value
        variable.assign(rotated(value))
    images, labels = rng.normal(size=(3, 32, 32, 3)), np.array([0, 3, 1])
    reference = caffe.Network(weights)
    expected = reference.run(images, labels, [(8, 1), (16, 1)])

    inputs = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logits = model(inputs, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    *gradients, of_images = tape.gradient(loss, [*variables, inputs])

    np.testing.assert_allclose(logits, expected, rtol=1e-9)
    np.testing.assert_allclose(of_images, reference.gradients["images"], rtol=1e-6, atol=1e-10)
    assert weights.keys() == reference.gradients.keys() - {"images"}
    for name, gradient in zip(weights, gradients, strict=True):
        np.testing.assert_allclose(rotated(gradient.numpy()), reference.gradients[name], rtol=1e-6, atol=1e-10)
    beyond = np.abs(weights["layer2.0.binary_conv/kernel"]) > 1
    assert np.any(reference.gradients["layer2.0.binary_conv/kernel"][beyond])
    for name, (mean, variance) in reference.statistics.items():
        layer = model.get_layer(name)
        np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)


def rotated(value):
    """Return a kernel of a convolution rotated by 180°, other weights unchanged."""
    return value[::-1, ::-1] if value.ndim == 4 else value
