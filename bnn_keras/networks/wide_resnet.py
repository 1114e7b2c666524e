"""McDonnell's wide residual networks."""

from __future__ import annotations

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.layers import PadChannels, PaddedAveragePooling2D, TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal
from bnn_keras.schemes import Scheme

WIDTHS = (16, 32, 64)

layers = tf.keras.layers


def wide_resnet(scheme: Scheme, images: tf.Tensor, classes: int, depth: int, width: float) -> tf.Tensor:
    """A wide residual network as McDonnell changed it, for 32×32 images.

    Three groups of blocks; a block is twice batch norm → (ReLU or sign) → binary 3×3 convolution, round which a
    shortcut goes. Batch norms have no scale and shift, but for the last. Shortcuts have no weights: where the map
    shrinks, they are an average pool 3×3 and channels of zeros. The first convolution and the last, pointwise one are
    real; the last batch norm stands behind it, over the classes, and a mean over the map ends the network.

    Args:
        scheme: Gives the binary layers.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.
        depth: Number of convolutions: 2 + 6 · blocks of a group.
        width: The groups have int(16 · width), int(32 · width), int(64 · width) channels.

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: There is no such depth.

    Source: binary-wide-resnet, wrn_mcdonnell.py.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or not blocks:
        raise BnnError(f"a wide residual network has depth 8, 14, 20, 26, …, got {depth}; set network.depth to one")

    def normalised(x: tf.Tensor, name: str) -> tf.Tensor:
        return TorchBatchNormalization(scale=False, center=False, name=name)(x)

    def convolved(x: tf.Tensor, name: str, filters: int, stride: int = 1) -> tf.Tensor:
        layer = scheme.conv2d(
            filters, 3, strides=stride, padding="same", use_bias=False, name=name, **he_normal("fan_out")
        )
        return layer(x)

    def block(x: tf.Tensor, name: str, filters: int, shrink: bool) -> tf.Tensor:
        y = convolved(normalised(x, f"{name}.bn0"), f"{name}.conv0", filters, 2 if shrink else 1)
        y = convolved(normalised(y, f"{name}.bn1"), f"{name}.conv1", filters)
        if shrink:
            x = PaddedAveragePooling2D(name=f"{name}.pool")(x)
            x = PadChannels(0, filters - x.shape[-1], name=f"{name}.pad")(x)
        return layers.Add(name=f"{name}.add")([x, y])

    filters = [int(base * width) for base in WIDTHS]
    x = layers.Conv2D(filters[0], 3, padding="same", use_bias=False, name="conv0", **he_normal("fan_out"))(images)
    for group in range(3):
        for number in range(blocks):
            x = block(x, f"group{group}.block{number}", filters[group], shrink=group > 0 and number == 0)
    x = layers.ReLU(name="relu")(normalised(x, "bn"))
    x = layers.Conv2D(classes, 1, use_bias=False, name="conv_last", **he_normal("fan_out"))(x)
    x = TorchBatchNormalization(name="bn_last")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)
