"""Random weights that resemble trained ones, to measure size, speed and export error of untrained networks."""

from __future__ import annotations

import larq
import numpy as np
import tensorflow as tf

_IMAGES = 8


def randomize_weights(model: tf.keras.Model, seed: int = 0) -> np.ndarray:
    """Give a network random weights with the statistics of trained ones.

    Kernels without negative weights (those of a fresh Bi-Real Net) are redrawn from N(0, 0.05²); Bop's kernels are
    replaced by their signs. Batch norms get scales from U(0.5, 1.5), shifts from N(0, 0.3²), and the statistics of a
    few random images.

    Args:
        model: The network; its weights are changed in place.
        seed: Seed of all random numbers.

    Returns:
        The random images, (8, height, width, channels).
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
