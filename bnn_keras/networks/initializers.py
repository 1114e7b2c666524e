"""Initial weights as PyTorch draws them by default."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def torch_default(fan_in: int) -> dict[str, Any]:
    """Initializers of a convolution or dense layer: kernel and bias uniform within ±1/√fan_in.

    Args:
        fan_in: Weights that feed one output: kernel height × width × input channels, or input features.

    Source: torch.nn.Conv2d and torch.nn.Linear (`reset_parameters`).
    """
    limit = fan_in**-0.5
    return {
        "kernel_initializer": tf.keras.initializers.RandomUniform(-limit, limit),
        "bias_initializer": tf.keras.initializers.RandomUniform(-limit, limit),
    }
