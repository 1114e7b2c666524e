"""Networks of rethinking-bnn-optimization (Helwegen et al. 2019, arXiv:1906.02107), made for Bop.

Its Bi-Real Net is a variant of `birealnet18`. All kernels of the layers that a scheme builds are binary, including
those of first layers, whose inputs stay real. Layer names are Keras's automatic ones, as in the reference.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from bnn_keras.networks.keras_names import KerasNames
from bnn_keras.schemes import Scheme

layers = tf.keras.layers


@dataclasses.dataclass
class _Parts:
    """Build the named parts of a network. Arguments are those of Keras's layers."""

    scheme: Scheme
    norm_arguments: dict[str, Any]

    def __post_init__(self) -> None:
        self.name = KerasNames()

    def conv(self, x: tf.Tensor, filters: int, size: int, padding: str = "same", **kwargs: Any) -> tf.Tensor:
        name = self.name("quant_conv2d")
        return self.scheme.conv2d(filters, size, padding=padding, use_bias=False, name=name, **kwargs)(x)

    def dense(self, x: tf.Tensor, units: int) -> tf.Tensor:
        return self.scheme.dense(units, use_bias=False, name=self.name("quant_dense"))(x)

    def norm(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        arguments = {**self.norm_arguments, **kwargs}
        return layers.BatchNormalization(name=self.name("batch_normalization"), **arguments)(x)

    def features(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        """Normalise the output of a binary layer, and apply the scheme's own activation if it has one."""
        return self.scheme.activation(self.norm(x, **kwargs), self.name("activation"))

    def pool(self, x: tf.Tensor, size: int) -> tf.Tensor:
        return layers.MaxPool2D(size, 2, name=self.name("max_pooling2d"))(x)


def binarynet(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    filters: int = 128,
    dense_units: int = 1024,
    kernel_size: int = 3,
    multiples: tuple[int, ...] = (1, 2, 4),
    dense_layers: int = 2,
) -> tf.Tensor:
    """Build BinaryNet: six 3×3 convolutions and three dense layers, all binary, each followed by a batch norm.

    128 ('valid'), 128, pool, 256, 256, pool, 512, 512, pool, dense 1024, 1024, classes. Max pools precede the batch
    norm. Batch norms have no scale; the last layer is followed by one too.

    Args:
        scheme: Builds all layers with kernels.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.
        filters: Number of filters of the first two convolutions.
        dense_units: Number of units of each dense layer except the last.
        kernel_size: Height and width of the kernels of convolutions.
        multiples: Number of filters of each pair of convolutions, in units of `filters`.
        dense_layers: Number of dense layers besides the last.

    Returns:
        Logits, (batch, classes).

    Source: Courbariaux et al. 2016, arXiv:1602.02830; rethinking-bnn-optimization, models/binarynet.py.
    """
    parts = _Parts(scheme, {"scale": False})
    x = images
    for index, multiple in enumerate(multiples):
        first: dict[str, Any] = {} if index else {"padding": "valid", "inputs": "images"}
        x = parts.features(parts.conv(x, multiple * filters, kernel_size, **first))
        x = parts.features(parts.pool(parts.conv(x, multiple * filters, kernel_size), 2))
    x = layers.Flatten(name="flatten")(x)
    for _ in range(dense_layers):
        x = parts.features(parts.dense(x, dense_units))
    return parts.norm(parts.dense(x, classes))


def binary_alexnet(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    filters: tuple[int, int, int, int, int] = (64, 192, 384, 384, 256),
    units: tuple[int, ...] = (4096, 4096),
) -> tf.Tensor:
    """Build Binary AlexNet: five convolutions and three dense layers, all binary, each followed by a batch norm.

    64 11×11 / 4, pool 3 / 2, 192 5×5, pool, 384, 384, 256 3×3, pool, dense 4096, 4096, classes.

    Args:
        scheme: Builds all layers with kernels.
        images: (batch, height, width, channels), 224×224×3 in the reference.
        classes: Number of logits.
        filters: Number of filters of each convolution.
        units: Number of units of each dense layer except the last.

    Returns:
        Logits, (batch, classes).

    Source: Hubara et al. 2016, arXiv:1602.02830; rethinking-bnn-optimization, models/binary_alexnet.py.
    """
    parts = _Parts(scheme, {"momentum": 0.9})
    x = parts.features(parts.pool(parts.conv(images, filters[0], 11, strides=4, inputs="images"), 3))
    x = parts.features(parts.pool(parts.conv(x, filters[1], 5), 3))
    x = parts.features(parts.conv(x, filters[2], 3))
    x = parts.features(parts.conv(x, filters[3], 3))
    x = parts.features(parts.pool(parts.conv(x, filters[4], 3), 3))
    x = layers.Flatten(name="flatten")(x)
    for features in units:
        x = parts.features(parts.dense(x, features))
    return parts.norm(parts.dense(x, classes))


def xnornet(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    filters: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
    units: tuple[int, int] = (4096, 4096),
) -> tf.Tensor:
    """Build XNOR-Net's AlexNet of rethinking-bnn-optimization: dense layers are convolutions, the first layer is real.

    conv 96 11×11 / 4 → batch norm → ReLU → pool 3 / 2 → batch norm; binary 256 5×5, pool, 384, 384, 256 3×3, pool,
    4096 6×6 ('valid'), 4096 1×1, each followed by a batch norm; ReLU → dense without bias.

    Args:
        scheme: Builds the binary layers.
        images: (batch, height, width, channels), 224×224×3 in the reference. The last map must be 6×6 or larger.
        classes: Number of logits.
        filters: Number of filters of the first five convolutions.
        units: Number of filters of the 6×6 convolution and of the one behind it.

    Returns:
        Logits, (batch, classes).

    Source: rethinking-bnn-optimization, models/xnor.py.
    """
    parts = _Parts(scheme, {"momentum": 0.9, "epsilon": 1e-4})
    x = layers.Conv2D(filters[0], 11, 4, "same", use_bias=False, name=parts.name("conv2d"))(images)
    x = layers.ReLU(name="relu")(parts.norm(x, epsilon=1e-5))
    x = parts.norm(parts.pool(x, 3))
    x = parts.features(parts.pool(parts.conv(x, filters[1], 5), 3))
    x = parts.features(parts.conv(x, filters[2], 3))
    x = parts.features(parts.conv(x, filters[3], 3))
    x = parts.features(parts.pool(parts.conv(x, filters[4], 3), 3))
    x = parts.features(parts.conv(x, units[0], 6, "valid"))
    x = parts.norm(parts.conv(x, units[1], 1, "valid"), epsilon=1e-3)
    x = layers.Flatten(name="flatten")(scheme.activation(x, "relu_1", "relu"))
    return layers.Dense(classes, use_bias=False, name=parts.name("dense"))(x)
