"""The networks of rethinking-bnn-optimization (Helwegen et al. 2019, arXiv:1906.02107), made for Bop.

Its Bi-Real Net is a variant of `birealnet18`. All kernels of the layers that a scheme gives are binary, those of the
first layers too, whose inputs stay real. Names are Keras's own, as in the reference.
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
    """The parts of a network, with their names. Arguments are those of Keras's layers."""

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

    def pool(self, x: tf.Tensor, size: int) -> tf.Tensor:
        return layers.MaxPool2D(size, 2, name=self.name("max_pooling2d"))(x)


def binarynet(scheme: Scheme, images: tf.Tensor, classes: int) -> tf.Tensor:
    """BinaryNet: six 3×3 convolutions and three dense layers, all binary, each with a batch norm behind.

    128 ('valid'), 128, pool, 256, 256, pool, 512, 512, pool, dense 1024, 1024, classes. A max pool stands in front of
    the batch norm. Batch norms have no scale; the last layer has one too.

    Args:
        scheme: Gives all layers with kernels.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.

    Returns:
        Logits, (batch, classes).

    Source: Courbariaux et al. 2016, arXiv:1602.02830; rethinking-bnn-optimization, models/binarynet.py.
    """
    parts = _Parts(scheme, {"scale": False})
    x = parts.norm(parts.conv(images, 128, 3, "valid", inputs="images"))
    x = parts.norm(parts.pool(parts.conv(x, 128, 3), 2))
    for filters in (256, 512):
        x = parts.norm(parts.conv(x, filters, 3))
        x = parts.norm(parts.pool(parts.conv(x, filters, 3), 2))
    x = layers.Flatten(name="flatten")(x)
    for units in (1024, 1024, classes):
        x = parts.norm(parts.dense(x, units))
    return x


def binary_alexnet(scheme: Scheme, images: tf.Tensor, classes: int) -> tf.Tensor:
    """Binary AlexNet: five convolutions and three dense layers, all binary, each with a batch norm behind.

    64 11×11 / 4, pool 3 / 2, 192 5×5, pool, 384, 384, 256 3×3, pool, dense 4096, 4096, classes.

    Args:
        scheme: Gives all layers with kernels.
        images: (batch, height, width, channels), 224×224×3 in the reference.
        classes: Number of logits.

    Returns:
        Logits, (batch, classes).

    Source: Hubara et al. 2016, arXiv:1602.02830; rethinking-bnn-optimization, models/binary_alexnet.py.
    """
    parts = _Parts(scheme, {"momentum": 0.9})
    x = parts.norm(parts.pool(parts.conv(images, 64, 11, strides=4, inputs="images"), 3))
    x = parts.norm(parts.pool(parts.conv(x, 192, 5), 3))
    x = parts.norm(parts.conv(x, 384, 3))
    x = parts.norm(parts.conv(x, 384, 3))
    x = parts.norm(parts.pool(parts.conv(x, 256, 3), 3))
    x = layers.Flatten(name="flatten")(x)
    for units in (4096, 4096, classes):
        x = parts.norm(parts.dense(x, units))
    return x


def xnornet(scheme: Scheme, images: tf.Tensor, classes: int) -> tf.Tensor:
    """XNOR-Net's AlexNet as rethinking-bnn-optimization has it: dense layers are convolutions, the first layer real.

    conv 96 11×11 / 4 → batch norm → ReLU → pool 3 / 2 → batch norm; binary 256 5×5, pool, 384, 384, 256 3×3, pool,
    4096 6×6 ('valid'), 4096 1×1, each with a batch norm behind; ReLU → dense without bias.

    Args:
        scheme: Gives the binary layers.
        images: (batch, height, width, channels), 224×224×3 in the reference; the map must be 6×6 in the end.
        classes: Number of logits.

    Returns:
        Logits, (batch, classes).

    Source: rethinking-bnn-optimization, models/xnor.py.
    """
    parts = _Parts(scheme, {"momentum": 0.9, "epsilon": 1e-4})
    x = layers.Conv2D(96, 11, 4, "same", use_bias=False, name=parts.name("conv2d"))(images)
    x = layers.ReLU(name="relu")(parts.norm(x, epsilon=1e-5))
    x = parts.norm(parts.pool(x, 3))
    x = parts.norm(parts.pool(parts.conv(x, 256, 5), 3))
    x = parts.norm(parts.conv(x, 384, 3))
    x = parts.norm(parts.conv(x, 384, 3))
    x = parts.norm(parts.pool(parts.conv(x, 256, 3), 3))
    x = parts.norm(parts.conv(x, 4096, 6, "valid"))
    x = parts.norm(parts.conv(x, 4096, 1, "valid"), epsilon=1e-3)
    x = layers.Flatten(name="flatten")(layers.ReLU(name="relu_1")(x))
    return layers.Dense(classes, use_bias=False, name=parts.name("dense"))(x)
