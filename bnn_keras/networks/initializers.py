"""Initial weights as the references draw them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Initializers = dict[str, Any]


def torch_default(fan_in: int, bias: bool = True) -> Initializers:
    """Kernel and bias uniform within ±1/√fan_in.

    Args:
        fan_in: Weights that feed one output: kernel height × width × input channels, or input features.
        bias: Whether the layer has one.

    Source: torch.nn.Conv2d and torch.nn.Linear (`reset_parameters`).
    """
    limit = fan_in**-0.5
    kernel = {"kernel_initializer": tf.keras.initializers.RandomUniform(-limit, limit)}
    return kernel | ({"bias_initializer": tf.keras.initializers.RandomUniform(-limit, limit)} if bias else {})


def normal(deviation: float) -> Initializers:
    """Kernel normal with mean 0."""
    return {"kernel_initializer": tf.keras.initializers.RandomNormal(0, deviation)}


def he_normal(mode: str) -> Initializers:
    """Kernel normal with mean 0 and variance 2 / fan.

    Args:
        mode: "fan_in" or "fan_out": weights that feed an output, or that an input feeds.

    Source: He et al. 2015, arXiv:1502.01852, eqs. 10 and 14; torch.nn.init.kaiming_normal_.
    """
    return {"kernel_initializer": tf.keras.initializers.VarianceScaling(2, mode, "untruncated_normal")}
