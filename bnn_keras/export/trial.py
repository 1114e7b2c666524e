"""Weights that behave like trained ones, for networks that nobody trained: to measure files of them, not accuracy."""

from __future__ import annotations

import larq
import numpy as np
import tensorflow as tf

_IMAGES = 8


def look_trained(model: tf.keras.Model, seed: int = 0) -> np.ndarray:
    """Gives a network what a training would: kernels of both signs, and batch norms that fit their inputs.

    Kernels that are all positive (Bi-Real Net begins so) are drawn anew; Bop's become their signs. Scales and shifts of
    batch norms are drawn near 1 and 0, and their statistics are those of a few random images.

    Args:
        model: The network; its weights are changed.
        seed: Of all that is drawn.

    Returns:
        The images, (8, height, width, channels).
    """
    random = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    for layer in norms:
        if layer.scale:
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
        if layer.center:
            layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
    for layer in model.layers:
        quantizer = getattr(layer, "kernel_quantizer", None)
        if quantizer is not None and (layer.kernel.numpy() >= 0).all():
            layer.kernel.assign(random.normal(0, 0.05, layer.kernel.shape))
        if isinstance(quantizer, larq.quantizers.NoOp):
            layer.kernel.assign(np.where(layer.kernel.numpy() < 0, -1, 1))
    images = random.normal(0, 1, (_IMAGES, *model.input_shape[1:])).astype(np.float32)
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return images
