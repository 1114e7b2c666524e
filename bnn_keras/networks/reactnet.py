"""ReActNet-A: MobileNet's topology with binary 3×3 and pointwise convolutions, each with a shortcut."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bnn_keras.layers import TorchBatchNormalization
from bnn_keras.networks.initializers import latent_or_real, torch_default
from bnn_keras.schemes import Scheme

# Output channels of each block, and whether its 3×3 convolution halves the map.
BLOCKS = (
    *((64, False), (128, True), (128, False), (256, True), (256, False), (512, True)),
    *5 * ((512, False),),
    *((1024, True), (1024, False)),
)

layers = tf.keras.layers


def reactnet_a(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    stem: int = 32,
    blocks: tuple[tuple[int, bool], ...] = BLOCKS,
) -> tf.Tensor:
    """Build ReActNet-A.

    conv 3×3 / 2 → batch norm, then blocks of binary 3×3 convolution → batch norm, + shortcut → activation → binary
    pointwise convolution → batch norm, + shortcut → activation. The shortcut is an average pool 2 if the 3×3
    convolution halves the map. Where the channels double, two pointwise convolutions read the same signs; each has a
    batch norm and the same shortcut, and their outputs are joined. No activation follows the first convolution.

    Args:
        scheme: Builds the binary layers and the activations.
        images: (batch, height, width, channels), 224×224×3 in the reference.
        classes: Number of logits.
        stem: Number of filters of the first convolution.
        blocks: Output channels of each block, as many as its inputs or twice as many; and whether it halves the map.

    Returns:
        Logits, (batch, classes).

    Source: Liu et al. 2020, arXiv:2003.03488; ReActNet, mobilenet/2_step2/reactnet.py.
    """

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        return TorchBatchNormalization(name=name)(x)

    def binary(x: tf.Tensor, name: str, size: int, stride: int = 1, signs: Any = "features") -> tf.Tensor:
        channels = x.shape[-1]
        initial = latent_or_real(size**2 * channels, scheme.binary_weights)
        arguments = {"strides": stride, "padding": "same", "use_bias": False, **initial}
        return scheme.conv2d(channels, size, inputs=signs, name=name, **arguments)(x)

    def block(x: tf.Tensor, name: str, channels: int, halves: bool) -> tf.Tensor:
        shortcut = layers.AveragePooling2D(2, 2, "same", name=f"{name}.pooling")(x) if halves else x
        x = norm(binary(x, f"{name}.binary_3x3", 3, 2 if halves else 1), f"{name}.bn1")
        x = scheme.activation(layers.Add(name=f"{name}.add1")([x, shortcut]), f"{name}.activation1")
        if channels == x.shape[-1]:
            y = norm(binary(x, f"{name}.binary_pw", 1), f"{name}.bn2")
            return scheme.activation(layers.Add(name=f"{name}.add2")([y, x]), f"{name}.activation2")
        signs = scheme.quantizer_of("features")
        halves_of_output = [
            layers.Add(name=f"{name}.add2_{half}")(
                [norm(binary(x, f"{name}.binary_pw_down{half}", 1, signs=signs), f"{name}.bn2_{half}"), x]
            )
            for half in (1, 2)
        ]
        return scheme.activation(layers.Concatenate(name=f"{name}.join")(halves_of_output), f"{name}.activation2")

    initial = torch_default(9 * images.shape[-1], bias=False)
    x = layers.Conv2D(stem, 3, 2, "same", use_bias=False, name="feature.0.conv1", **initial)(images)
    x = norm(x, "feature.0.bn1")
    for index, (channels, halves) in enumerate(blocks, start=1):
        x = block(x, f"feature.{index}", channels, halves)
    x = layers.GlobalAveragePooling2D(name="pool1")(x)
    return layers.Dense(classes, name="fc", **torch_default(x.shape[-1]))(x)
