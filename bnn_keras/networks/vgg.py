"""IR-Net's VGG-Small."""

from __future__ import annotations

import tensorflow as tf

from bnn_keras.layers import TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal, normal
from bnn_keras.schemes import Scheme

# (filters, whether a max pool follows) of the binary convolutions
LAYERS = ((128, True), (256, False), (256, True), (512, False), (512, True))

layers = tf.keras.layers


def vgg_small(scheme: Scheme, images: tf.Tensor, classes: int) -> tf.Tensor:
    """VGG-Small: six 3×3 convolutions, all but the first binary, and a dense layer.

    128, 128, pool, 256, 256, pool, 512, 512, pool, dense. A convolution is followed by max pool 2 (or none), batch norm
    and an activation: hardtanh where activations have 1 bit, else ReLU (`Scheme.activation`).

    Args:
        scheme: Gives the binary layers and the activation.
        images: (batch, height, width, channels), 32×32×3 in the reference.
        classes: Number of logits.

    Returns:
        Logits, (batch, classes).

    Source: IR-Net, CIFAR-10/VGG-Small/vgg.py (`VGG_SMALL_1W1A`).
    """
    arguments = {"padding": "same", "use_bias": False}
    x = layers.Conv2D(128, 3, name="conv0", **arguments, **he_normal("fan_out"))(images)
    x = scheme.activation("activation0")(TorchBatchNormalization(name="bn0")(x))
    for place, (filters, pooled) in enumerate(LAYERS, 1):
        x = scheme.conv2d(filters, 3, inputs="activated", name=f"conv{place}", **arguments, **he_normal("fan_out"))(x)
        x = layers.MaxPool2D(2, name=f"pooling{place}")(x) if pooled else x
        x = scheme.activation(f"activation{place}")(TorchBatchNormalization(name=f"bn{place}")(x))
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(classes, name="fc", **normal(0.01))(x)
