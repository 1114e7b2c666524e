"""VGG-Small of IR-Net and ReCU."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bnn_keras.layers import TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal, normal
from bnn_keras.schemes import Scheme

# (filters, whether a max pool follows) of each convolution
CONVOLUTIONS = ((128, False), (128, True), (256, False), (256, True), (512, False), (512, True))

layers = tf.keras.layers


def vgg_small(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    convolutions: tuple[tuple[int, bool], ...] = CONVOLUTIONS,
) -> tf.Tensor:
    """Build VGG-Small: six 3×3 convolutions, all but the first binary, and a dense layer.

    128, 128, pool, 256, 256, pool, 512, 512, pool, dense. Each convolution is followed by max pool 2 (or none), batch
    norm and an activation: hardtanh at 1-bit activations, else ReLU (`Scheme.activation`).

    Args:
        scheme: Builds the binary layers and the activations.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.
        convolutions: For each convolution, the number of filters and whether a max pool follows.

    Returns:
        Logits, (batch, classes).

    Source: IR-Net, CIFAR-10/VGG-Small/vgg.py (`VGG_SMALL_1W1A`); ReCU, cifar/models_cifar/vgg.py.
    """
    x = images
    for index, (filters, pooled) in enumerate(convolutions):
        arguments: dict[str, Any] = {"padding": "same", "use_bias": False, **he_normal("fan_out")}
        if index == 0:
            x = layers.Conv2D(filters, 3, name="conv0", **arguments)(x)
        else:
            x = scheme.conv2d(filters, 3, inputs="activated", name=f"conv{index}", **arguments)(x)
        x = layers.MaxPool2D(2, name=f"pooling{index}")(x) if pooled else x
        x = TorchBatchNormalization(name=f"bn{index}")(x)
        x = scheme.activation(x, f"activation{index}", "hardtanh")
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(classes, name="fc", **normal(0.01))(x)
