"""McDonnell's wide residual networks."""

from __future__ import annotations

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.layers import PadChannels, PaddedAveragePooling2D, TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal, scales
from bnn_keras.schemes import Scheme

FILTERS = (16, 32, 64)

layers = tf.keras.layers


def wide_resnet(
    scheme: Scheme, images: tf.Tensor, classes: int, depth: int, width: float, last_scales: str = "ones"
) -> tf.Tensor:
    """Build McDonnell's wide residual network, for 32×32 images.

    Three groups of blocks; a block is twice batch norm → (ReLU or sign) → binary 3×3 convolution, + shortcut. Batch
    norms have no scale and shift, except for the last one. Shortcuts have no weights: if the map shrinks, they are an
    average pool 3×3 and channels of zeros. The first convolution and the last one, which is pointwise, are real. A
    batch norm over the classes follows the last convolution, then the mean over the map.

    Args:
        scheme: Builds the binary layers.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.
        depth: Number of convolutions, at least 8. A group has ⌊(depth − 2) / 6⌋ blocks, so that other depths than
            8, 14, 20, … give the network of the next smaller one of these.
        width: The groups have int(16 · width), int(32 · width), int(64 · width) channels.
        last_scales: Initial scales of the last batch norm: "ones", or "uniform" in [0, 1).

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: The depth is less than 8.

    Source: binary-wide-resnet, wrn_mcdonnell.py.
    """
    blocks = (depth - 2) // 6
    if blocks < 1:
        raise BnnError(f"network.depth is {depth}; expected 8 or more, such as 20: each of three groups needs a block")

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        return TorchBatchNormalization(scale=False, center=False, name=name)(x)

    def binary(x: tf.Tensor, name: str, filters: int, stride: int = 1) -> tf.Tensor:
        layer = scheme.conv2d(
            filters, 3, strides=stride, padding="same", use_bias=False, name=name, **he_normal("fan_out")
        )
        return layer(x)

    def block(x: tf.Tensor, name: str, filters: int, shrink: bool) -> tf.Tensor:
        y = binary(norm(x, f"{name}.bn0"), f"{name}.conv0", filters, 2 if shrink else 1)
        y = scheme.activation(y, f"{name}.activation0")
        y = binary(norm(y, f"{name}.bn1"), f"{name}.conv1", filters)
        if shrink:
            x = PaddedAveragePooling2D(name=f"{name}.pool")(x)
            x = PadChannels(0, filters - x.shape[-1], name=f"{name}.pad")(x)
        return scheme.activation(layers.Add(name=f"{name}.add")([x, y]), f"{name}.activation1")

    filters = [int(base * width) for base in FILTERS]
    x = layers.Conv2D(filters[0], 3, padding="same", use_bias=False, name="conv0", **he_normal("fan_out"))(images)
    for group in range(3):
        for index in range(blocks):
            x = block(x, f"group{group}.block{index}", filters[group], shrink=group > 0 and index == 0)
    x = layers.ReLU(name="relu")(norm(x, "bn"))
    x = layers.Conv2D(classes, 1, use_bias=False, name="conv_last", **he_normal("fan_out"))(x)
    x = TorchBatchNormalization(gamma_initializer=scales(last_scales), name="bn_last")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)
