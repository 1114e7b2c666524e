"""XNOR-Net's LeNet-5."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bnn_keras.constraints import AtLeast
from bnn_keras.networks.initializers import torch_default
from bnn_keras.schemes import Scheme

EPSILON = 1e-4  # of every batch norm
MOMENTUM = 0.9  # Keras counts what stays; PyTorch's 0.1 is what comes
SMALLEST_SCALE = 0.01


def _batch_norm(name: str, affine: bool = True) -> tf.keras.layers.Layer:
    constraint: dict[str, Any] = {"gamma_constraint": AtLeast(SMALLEST_SCALE)} if affine else {}
    return tf.keras.layers.BatchNormalization(
        epsilon=EPSILON, momentum=MOMENTUM, scale=affine, center=affine, name=name, **constraint
    )


def lenet5(scheme: Scheme, input_shape: tuple[int, int, int], num_classes: int) -> tf.keras.Model:
    """XNOR-Net's LeNet-5: convolution, binary convolution, binary dense layer, dense layer.

    conv 5×5, 20 → batch norm (without scale and shift) → ReLU → max pool 2
    → batch norm → binary conv 5×5, 50 → ReLU → max pool 2
    → batch norm → binary dense 500 → ReLU → dense. All convolutions are 'valid' and have biases.

    The reference holds batch norm's scales at 0.01 or above, in every forward pass; here that is a constraint, so
    evaluation does not change them.

    Args:
        scheme: Gives the two binary layers.
        input_shape: Height, width, channels; (28, 28, 1) in the reference.
        num_classes: Number of logits; 10 in the reference.

    Returns:
        A model from images (batch, height, width, channels) to logits (batch, num_classes).

    Source: XNOR-Net-PyTorch, MNIST/models/LeNet_5.py.
    """
    layers = tf.keras.layers
    images = layers.Input(input_shape)

    x = layers.Conv2D(20, 5, name="conv1", **torch_default(fan_in=25 * input_shape[-1]))(images)
    x = _batch_norm("bn_conv1", affine=False)(x)
    x = layers.ReLU(name="relu_conv1")(x)
    x = layers.MaxPool2D(2, name="pool1")(x)

    x = _batch_norm("bin_conv2.bn")(x)
    x = scheme.conv2d(50, 5, name="bin_conv2.conv", **torch_default(fan_in=25 * 20))(x)
    x = layers.ReLU(name="bin_conv2.relu")(x)
    x = layers.MaxPool2D(2, name="pool2")(x)

    x = _batch_norm("bin_ip1.bn")(x)
    x = layers.Flatten(name="flatten")(x)
    x = scheme.dense(500, name="bin_ip1.linear", **torch_default(fan_in=x.shape[-1]))(x)
    x = layers.ReLU(name="bin_ip1.relu")(x)

    logits = layers.Dense(num_classes, name="ip2", **torch_default(fan_in=500))(x)
    return tf.keras.Model(images, logits, name="lenet5")
