"""Networks of XNOR-Net-PyTorch: LeNet-5, Network in Network, AlexNet."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bnn_keras.constraints import AtLeast
from bnn_keras.layers import PaddedAveragePooling2D, TorchBatchNormalization
from bnn_keras.networks.initializers import normal, scales, torch_default
from bnn_keras.quantizers import Dropout
from bnn_keras.schemes import Scheme

EPSILON = 1e-4  # of every batch norm except AlexNet's last one
SMALLEST_SCALE = 0.01

layers = tf.keras.layers


def _batch_norm(x: tf.Tensor, name: str, **kwargs: Any) -> tf.Tensor:
    return TorchBatchNormalization(epsilon=EPSILON, name=name, **kwargs)(x)


def _bounded_batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
    """Normalise with scales at 0.01 or above: a constraint here, a step of each forward pass in the reference."""
    return _batch_norm(x, name, gamma_constraint=AtLeast(SMALLEST_SCALE))


def _plain_batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
    """Normalise without scale and shift."""
    return _batch_norm(x, name, scale=False, center=False)


def lenet5(scheme: Scheme, images: tf.Tensor, classes: int) -> tf.Tensor:
    """Build XNOR-Net's LeNet-5: convolution, binary convolution, binary dense layer, dense layer.

    conv 5×5, 20 → batch norm (without scale and shift) → ReLU → max pool 2
    → batch norm → binary conv 5×5, 50 → ReLU → max pool 2
    → batch norm → binary dense 500 → ReLU → dense. All convolutions are 'valid' and have biases.

    The reference sets the scales of batch norms to 0.01 or above in every forward pass. Here a constraint does so after
    each update, and evaluation does not change them.

    Args:
        scheme: Builds the two binary layers.
        images: (batch, height, width, channels), 28×28×1 in the reference.
        classes: Number of logits.

    Returns:
        Logits, (batch, classes).

    Source: XNOR-Net-PyTorch, MNIST/models/LeNet_5.py.
    """
    x = layers.Conv2D(20, 5, name="conv1", **torch_default(25 * images.shape[-1]))(images)
    x = _plain_batch_norm(x, "bn_conv1")
    x = layers.ReLU(name="relu_conv1")(x)
    x = layers.MaxPool2D(2, name="pool1")(x)

    x = _bounded_batch_norm(x, "bin_conv2.bn")
    x = scheme.conv2d(50, 5, name="bin_conv2.conv", **torch_default(25 * 20))(x)
    x = scheme.activation(x, "bin_conv2.relu", "relu")
    x = layers.MaxPool2D(2, name="pool2")(x)

    x = _bounded_batch_norm(x, "bin_ip1.bn")
    x = layers.Flatten(name="flatten")(x)
    x = scheme.dense(500, name="bin_ip1.linear", **torch_default(x.shape[-1]))(x)
    x = scheme.activation(x, "bin_ip1.relu", "relu")
    return layers.Dense(classes, name="ip2", **torch_default(500))(x)


def nin(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    dropout: float = 0.5,
    filters: tuple[int, ...] = (192, 160, 96, 192, 192, 192, 192, 192),
) -> tf.Tensor:
    """Build XNOR-Net's Network in Network: nine convolutions, all but the first and the last binary.

    Binary blocks are batch norm → (sign, dropout) → convolution → ReLU. A ReLU and the mean over the map follow the
    last convolution, so logits are not negative.

    Args:
        scheme: Builds the binary layers.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.
        dropout: Fraction of the signs dropped in front of the third and the sixth binary convolution.
        filters: Number of filters of each convolution except the last.

    Returns:
        Logits, (batch, classes).

    Source: XNOR-Net-PyTorch, CIFAR_10/models/nin.py; initial weights: CIFAR_10/main.py.
    """

    def block(x: tf.Tensor, index: int, channels: int, size: int, drop: float = 0.0) -> tf.Tensor:
        name = f"xnor.{index}"
        x = _bounded_batch_norm(x, f"{name}.bn")
        x = scheme.conv2d(channels, size, padding="same", dropout=drop, name=f"{name}.conv", **normal(0.05))(x)
        return scheme.activation(x, f"{name}.relu", "relu")

    x = layers.Conv2D(filters[0], 5, padding="same", name="xnor.0", **normal(0.05))(images)
    x = _plain_batch_norm(x, "xnor.1")
    x = layers.ReLU(name="xnor.2")(x)
    x = block(x, 3, filters[1], 1)
    x = block(x, 4, filters[2], 1)
    x = layers.MaxPool2D(3, 2, "same", name="xnor.5")(x)
    x = block(x, 6, filters[3], 5, dropout)
    x = block(x, 7, filters[4], 1)
    x = block(x, 8, filters[5], 1)
    x = PaddedAveragePooling2D(name="xnor.9")(x)
    x = block(x, 10, filters[6], 3, dropout)
    x = block(x, 11, filters[7], 1)
    x = _plain_batch_norm(x, "xnor.12")
    x = layers.Conv2D(classes, 1, name="xnor.13", **normal(0.05))(x)
    x = layers.ReLU(name="xnor.14")(x)
    return layers.GlobalAveragePooling2D(name="xnor.15")(x)


def alexnet(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    dropout: float = 0.5,
    filters: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
    units: tuple[int, int] = (4096, 4096),
    kernel_deviation: float = 2.0,
    dense_scales: str = "ones",
) -> tf.Tensor:
    """Build XNOR-Net's AlexNet: five convolutions and three dense layers, all but the first and the last binary.

    The network has no groups and no local response normalisation. Scales of batch norms are not bounded, unlike in the
    other two networks.

    Args:
        scheme: Builds the binary layers.
        images: (batch, height, width, channels), 227×227×3 in the reference.
        classes: Number of logits.
        dropout: Fraction of the inputs of the second and the third dense layer to drop.
        filters: Number of filters of each convolution.
        units: Number of units of each dense layer except the last.
        kernel_deviation: Standard deviation of initial kernels, times the number of weights of one output.
        dense_scales: Initial scales of the batch norms of dense layers: "ones", or "uniform" in [0, 1).

    Returns:
        Logits, (batch, classes).

    Source: XNOR-Net-PyTorch, ImageNet/networks/model_list/alexnet.py; initial weights: ImageNet/networks/main.py, whose
        standard deviation is 2 / fan-in (1 / fan-in from commit 119050f to ab4c0b4), not its square root. It sets the
        scales of batch norms of maps to one, and leaves those of vectors to PyTorch, which drew them from [0, 1) before
        version 1.2.
    """

    def initializers(fan_in: int) -> dict[str, Any]:
        return torch_default(fan_in) | normal(kernel_deviation / fan_in)

    def block(x: tf.Tensor, index: int, channels: int, size: int) -> tf.Tensor:
        name, fan_in = f"features.{index}", size**2 * x.shape[-1]
        x = _batch_norm(x, f"{name}.bn")
        x = scheme.conv2d(channels, size, padding="same", name=f"{name}.conv", **initializers(fan_in))(x)
        return scheme.activation(x, f"{name}.relu", "relu")

    def dense_block(x: tf.Tensor, index: int, features: int, drop: float = 0.0) -> tf.Tensor:
        name = f"classifier.{index}"
        x = _batch_norm(x, f"{name}.bn", gamma_initializer=scales(dense_scales))
        x = scheme.dense(features, dropout=drop, name=f"{name}.linear", **initializers(x.shape[-1]))(x)
        return scheme.activation(x, f"{name}.relu", "relu")

    x = layers.Conv2D(filters[0], 11, 4, name="features.0", **initializers(121 * images.shape[-1]))(images)
    x = _batch_norm(x, "features.1")
    x = layers.ReLU(name="features.2")(x)
    x = layers.MaxPool2D(3, 2, name="features.3")(x)
    x = block(x, 4, filters[1], 5)
    x = layers.MaxPool2D(3, 2, name="features.5")(x)
    x = block(x, 6, filters[2], 3)
    x = block(x, 7, filters[3], 3)
    x = block(x, 8, filters[4], 3)
    x = layers.MaxPool2D(3, 2, name="features.9")(x)

    x = layers.Flatten(name="flatten")(x)
    x = dense_block(x, 0, units[0])
    x = dense_block(x, 1, units[1], dropout)
    x = TorchBatchNormalization(epsilon=1e-3, name="classifier.2", gamma_initializer=scales(dense_scales))(x)
    x = Dropout(dropout, name="classifier.3")(x) if dropout else x
    return layers.Dense(classes, name="classifier.4", **initializers(units[1]))(x)
