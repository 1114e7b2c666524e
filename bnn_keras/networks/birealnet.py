"""Bi-Real Net: a shortcut around every binary convolution preserves real-valued activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bnn_keras.layers import TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal, latent_or_real, torch_default, xavier_uniform
from bnn_keras.networks.keras_names import KerasNames
from bnn_keras.quantizers import RealActivation
from bnn_keras.schemes import Scheme

FILTERS = (64, 128, 256, 512)

layers = tf.keras.layers
NameLayer = Callable[[str, str], str]


@dataclasses.dataclass(frozen=True)
class Variant:
    """Differences between two codebases in the same topology.

    Attributes:
        batch_norm: Creates a batch norm.
        convolution: Returns the initializers of a real convolution for its fan-in.
        binary: Returns the initializers of a binary convolution for its fan-in, and whether its kernel is binary.
        dense: Returns the initializers of the last layer for its fan-in.
        names: Creates the function (kind of layer, Bi-Real-net's name) → name.
        shortcut_norm: Whether a batch norm follows the pointwise convolution of a shortcut, else that has a bias.
        pool_starts_inside: Whether the first window of the max pool starts at the first pixel of the reference's map,
            else one pixel outside.
    """

    batch_norm: Callable[..., tf.keras.layers.Layer]
    convolution: Callable[[int], dict[str, Any]]
    binary: Callable[[int, bool], dict[str, Any]]
    dense: Callable[[int], dict[str, Any]]
    names: Callable[[], NameLayer]
    shortcut_norm: bool = True
    pool_starts_inside: bool = False


def _same_names() -> NameLayer:
    return lambda kind, name: name


VARIANTS = {
    "bireal": Variant(
        batch_norm=TorchBatchNormalization,
        convolution=lambda fan_in: torch_default(fan_in, bias=False),
        binary=latent_or_real,
        dense=torch_default,
        names=_same_names,
    ),
    "caffe": Variant(
        batch_norm=TorchBatchNormalization,  # Caffe's BatchNorm and Scale: ε = 1e-5, and n − 1 in running variances
        convolution=lambda fan_in: he_normal("fan_in"),
        binary=lambda fan_in, binary: he_normal("fan_in"),
        dense=lambda fan_in: xavier_uniform(),
        names=_same_names,
        shortcut_norm=False,
        pool_starts_inside=True,
    ),
    "rethinking": Variant(
        batch_norm=lambda name: layers.BatchNormalization(momentum=0.8, name=name),
        convolution=lambda fan_in: {"kernel_initializer": "glorot_normal"},
        binary=lambda fan_in, binary: {"kernel_initializer": "glorot_normal"},
        dense=lambda fan_in: {},
        names=KerasNames,
    ),
}


@dataclasses.dataclass
class _Parts:
    """Build the named parts of a network of one variant."""

    scheme: Scheme
    variant: Variant

    def __post_init__(self) -> None:
        self.name = self.variant.names()

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return self.variant.batch_norm(name=self.name("batch_normalization", name))(x)

    def real(self, x: tf.Tensor, name: str, filters: int, size: int, stride: int = 1, bias: bool = False) -> tf.Tensor:
        initializers = self.variant.convolution(size**2 * x.shape[-1])
        name = self.name("conv2d", name)
        return layers.Conv2D(filters, size, stride, "same", use_bias=bias, name=name, **initializers)(x)

    def binary(self, x: tf.Tensor, name: str, filters: int, size: int, stride: int = 1) -> tf.Tensor:
        initializers = self.variant.binary(size**2 * x.shape[-1], self.scheme.binary_weights)
        arguments = {"padding": "same", "use_bias": False, **initializers}
        layer = self.scheme.conv2d(filters, size, strides=stride, name=self.name("quant_conv2d", name), **arguments)
        return layer(x)

    def add(self, x: tf.Tensor, shortcut: tf.Tensor, name: str) -> tf.Tensor:
        return self.scheme.activation(layers.Add(name=name)([x, shortcut]), f"{name}.activation")

    def stem(self, images: tf.Tensor, filters: int) -> tf.Tensor:
        x = self.norm(self.real(images, "conv1", filters, 7, 2), "bn1")
        if not self.variant.pool_starts_inside:
            return layers.MaxPool2D(3, 2, "same", name="maxpool")(x)
        # In the rotated network the last window ends at the last pixel, so the first one starts a pixel outside.
        return layers.MaxPool2D(1, 2, name="maxpool.subsample")(layers.MaxPool2D(3, 1, "same", name="maxpool")(x))

    def downsample(self, x: tf.Tensor, name: str, filters: int, stride: int = 2) -> tf.Tensor:
        if stride > 1:
            x = layers.AveragePooling2D(2, stride, "same", name=f"{name}.0")(x)
        if not self.variant.shortcut_norm:
            return self.real(x, f"{name}.1", filters, 1, bias=True)
        return self.norm(self.real(x, f"{name}.1", filters, 1), f"{name}.2")

    def head(self, x: tf.Tensor, classes: int) -> tf.Tensor:
        x = layers.GlobalAveragePooling2D(name="avgpool")(x)
        return layers.Dense(classes, name=self.name("dense", "fc"), **self.variant.dense(x.shape[-1]))(x)


def birealnet(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    blocks: tuple[int, ...],
    filters: tuple[int, ...] = FILTERS,
    variant: str = "bireal",
) -> tf.Tensor:
    """Build a Bi-Real Net with 3×3 convolutions.

    conv 7×7 / 2 → batch norm → max pool, then blocks of binary 3×3 convolution → batch norm, + shortcut. If the number
    of filters changes, the shortcut is average pool 2 → pointwise convolution → batch norm. The network has no
    activations except the signs in front of the convolutions, unless the scheme has one of its own.

    In the variant "caffe" the pointwise convolutions of shortcuts have a bias and no batch norm, and the max pool's
    windows start at the first pixel. All convolutions start from N(0, 2 / fan_in), the last layer from
    U(±√(3 / fan_in)) and no bias. Caffe's files also give a bias to the convolutions in front of batch norms, which
    subtract it again, so that it has no gradient and stays 0; it is left out. Caffe divides running statistics by the
    sum of their weights, so that the initial ones do not count; after 100 steps they count for 0.003 % here.

    Args:
        scheme: Builds the binary layers.
        images: (batch, height, width, channels), 224×224×3 in the reference.
        classes: Number of logits.
        blocks: Number of blocks of each stage.
        filters: Number of filters of each stage.
        variant: "bireal"; "caffe": the network of the paper's first code; or "rethinking": batch norm, initial weights
            and names of rethinking-bnn-optimization.

    Returns:
        Logits, (batch, classes).

    Source: Liu et al. 2018, arXiv:1808.00278; Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py and
        caffe_implementation/18-layer/Bi-Real-net-18-train.prototxt, 34-layer/Bi-Real-net-34-train.prototxt;
        rethinking-bnn-optimization, models/birealnet.py.
    """
    parts = _Parts(scheme, VARIANTS[variant])
    x = parts.stem(images, filters[0])
    for stage, (channels, number) in enumerate(zip(filters, blocks, strict=True), 1):
        for index in range(number):
            name = f"layer{stage}.{index}"
            shrink = x.shape[-1] != channels
            shortcut = parts.downsample(x, f"{name}.downsample", channels) if shrink else x
            x = parts.norm(parts.binary(x, f"{name}.binary_conv", channels, 3, 2 if shrink else 1), f"{name}.bn1")
            x = parts.add(x, shortcut, f"{name}.add")
    return parts.head(x, classes)


def birealnet18(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    variant: str = "bireal",
    blocks: tuple[int, ...] = (4, 4, 4, 4),
    filters: tuple[int, ...] = FILTERS,
) -> tf.Tensor:
    """Build Bi-Real Net with 18 layers; see `birealnet`."""
    return birealnet(scheme, images, classes, blocks, filters, variant)


def birealnet34(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    variant: str = "bireal",
    blocks: tuple[int, ...] = (6, 8, 12, 6),
    filters: tuple[int, ...] = FILTERS,
) -> tf.Tensor:
    """Build Bi-Real Net with 34 layers; see `birealnet`."""
    return birealnet(scheme, images, classes, blocks, filters, variant)


def birealnet50(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    filters: tuple[int, ...] = FILTERS,
) -> tf.Tensor:
    """Build Bi-Real Net with 50 layers: blocks of pointwise, 3×3 and pointwise binary convolutions.

    The blocks carry two streams, each with its own shortcuts: a narrow one, as wide as the 3×3 convolutions, and a wide
    one with four times as many channels. The wide stream is the input of a block's first convolution, whose output is
    added to the narrow stream. In the first block that convolution is real and follows a leaky clip. The 3×3
    convolutions shrink the map. Where the narrow stream widens, it passes a pointwise convolution without stride, since
    the map shrinks only behind it.

    Args:
        scheme: Builds the binary layers.
        images: (batch, height, width, channels), 224×224×3 in the reference.
        classes: Number of logits.
        blocks: Number of blocks of each stage.
        filters: Number of filters of the 3×3 convolutions of each stage.

    Returns:
        Logits, (batch, classes).

    Source: Bi-Real-net, pytorch_implementation/BiReal_50/birealnet.py. Its tensor layers.0.down_conv1x1.weight is
        unused and has no counterpart here.
    """
    parts = _Parts(scheme, VARIANTS["bireal"])
    narrow = wide = parts.stem(images, filters[0])
    index = 0
    for stage, (channels, number) in enumerate(zip(filters, blocks, strict=True)):
        for index_in_stage in range(number):
            name, first = f"layers.{index}", index_in_stage == 0
            stride = 2 if first and stage else 1
            if index == 0:
                x = RealActivation("leaky_clip", name=f"{name}.leaky_clip")(wide)
                x = parts.norm(parts.real(x, f"{name}.conv1", channels, 1), f"{name}.bn1")
            else:
                x = parts.norm(parts.binary(wide, f"{name}.conv1", channels, 1), f"{name}.bn1")
                shortcut = parts.real(narrow, f"{name}.down_conv1x1", channels, 1) if first else narrow
                x = parts.add(x, shortcut, f"{name}.add1")
            shortcut = layers.AveragePooling2D(2, 2, "same", name=f"{name}.pooling")(x) if stride > 1 else x
            x = parts.norm(parts.binary(x, f"{name}.conv2", channels, 3, stride), f"{name}.bn2")
            narrow = parts.add(x, shortcut, f"{name}.add2")
            shortcut = parts.downsample(wide, f"{name}.downsample", 4 * channels, stride) if first else wide
            x = parts.norm(parts.binary(narrow, f"{name}.conv3", 4 * channels, 1), f"{name}.bn3")
            wide = parts.add(x, shortcut, f"{name}.add3")
            index += 1
    return parts.head(wide, classes)
