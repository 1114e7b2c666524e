"""Initializers of the references, as arguments of Keras layers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Initializers = dict[str, Any]


def torch_default(fan_in: int, bias: bool = True) -> Initializers:
    """Draw kernel and bias uniformly within ±1/√fan_in.

    Args:
        fan_in: Number of weights of one output: kernel height × width × input channels, or input features.
        bias: Whether the layer has a bias.

    Source: torch.nn.Conv2d and torch.nn.Linear (`reset_parameters`).
    """
    limit = fan_in**-0.5
    kernel = {"kernel_initializer": tf.keras.initializers.RandomUniform(-limit, limit)}
    return kernel | ({"bias_initializer": tf.keras.initializers.RandomUniform(-limit, limit)} if bias else {})


def normal(deviation: float) -> Initializers:
    """Draw the kernel from a normal distribution with mean 0 and a standard deviation."""
    return {"kernel_initializer": tf.keras.initializers.RandomNormal(0, deviation)}


def scales(kind: str) -> Any:
    """Return the initializer of scales of batch norms: "ones", or "uniform" in [0, 1).

    Source: torch.nn.BatchNorm2d: uniform before PyTorch 1.2 (its issue 12259), ones since.
    """
    return tf.keras.initializers.RandomUniform(0, 1) if kind == "uniform" else "ones"


def small_and_positive() -> Initializers:
    """Draw the kernel uniformly from [0, 0.001).

    Source: Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py; ReActNet, mobilenet/2_step2/reactnet.py.
    """
    return {"kernel_initializer": tf.keras.initializers.RandomUniform(0, 0.001)}


def latent_or_real(fan_in: int, binary: bool) -> Initializers:
    """Draw a kernel without bias as ReActNet does: `small_and_positive` if it is binary, else `torch_default`.

    Args:
        fan_in: Number of weights of one output.
        binary: Whether the kernel is the latent kernel of a binary layer.

    Source: ReActNet, resnet and mobilenet: step 2 has latent kernels, step 1 real ones in the same places.
    """
    return small_and_positive() if binary else torch_default(fan_in, bias=False)


def he_normal(mode: str) -> Initializers:
    """Draw the kernel from a normal distribution with mean 0 and variance 2 / fan.

    Args:
        mode: "fan_in" or "fan_out": the number of weights of one output, or of one input.

    Source: He et al. 2015, arXiv:1502.01852, eqs. 10 and 14; torch.nn.init.kaiming_normal_.
    """
    return {"kernel_initializer": tf.keras.initializers.VarianceScaling(2, mode, "untruncated_normal")}


def xavier_uniform() -> Initializers:
    """Draw the kernel uniformly within ±√(3 / fan_in), which has the variance 1 / fan_in.

    Source: Caffe's filler "xavier", include/caffe/filler.hpp; Glorot and Bengio 2010 with fan_in only.
    """
    return {"kernel_initializer": tf.keras.initializers.VarianceScaling(1, "fan_in", "uniform")}
