"""How many weights, and how much work, a network has.

`parameters` are the trainable ones, `binary_parameters` those of them with a 1-bit quantizer. A multiply-accumulate is
one of a convolution or a dense layer, per image; biases, batch norm and pooling do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import larq
import tensorflow as tf

_PLAIN_SIGNS = (larq.quantizers.SteSign, larq.quantizers.ApproxSign, larq.quantizers.SwishSign, larq.quantizers.NoOp)


def binary_variables(model: tf.keras.Model) -> list[tf.Variable]:
    """The variables whose quantizer has precision 1; facts, not names, tell them.

    Those of layers that stand still are among them. Statistics are not asked: where they differ between processes, any
    question to one adds them up over all.
    """
    learnt = [variable for variable in model.variables if variable.trainable]
    return [variable for variable in learnt if getattr(variable, "precision", None) == 1]


def count(model: tf.keras.Model) -> dict[str, Any]:
    """Counts of a model.

    Returns:
        `parameters`, `binary_parameters`; `macs` (all), `binary_macs` (1-bit kernel and 1-bit input),
        `binary_weight_macs` (1-bit kernel, real input); `bytes_float32` of all variables, and `bytes_minimum`: one bit
        for each binary weight and four bytes for each other number, scales of binary kernels included.
    """
    binary = {id(variable) for variable in binary_variables(model)}
    parameters = sum(_size(variable) for variable in model.trainable_variables)
    binary_parameters = sum(_size(variable) for variable in binary_variables(model))
    numbers = sum(_size(variable) for variable in model.variables if variable.dtype.is_floating)
    scales = sum(_scales(variable) for variable in binary_variables(model))

    macs = {"macs": 0, "binary_macs": 0, "binary_weight_macs": 0}
    for layer in model.layers:
        for variable, work in _work(layer):
            macs["macs"] += work
            if id(variable) in binary:
                quantizer = getattr(layer, "input_quantizer", None)
                macs["binary_macs" if getattr(quantizer, "precision", None) == 1 else "binary_weight_macs"] += work
    return {
        "parameters": parameters,
        "binary_parameters": binary_parameters,
        **macs,
        "bytes_float32": 4 * numbers,
        "bytes_minimum": -(-binary_parameters // 8) + 4 * (numbers - binary_parameters + scales),
    }


def _scales(variable: tf.Variable) -> int:
    """Magnitudes of a binary kernel: none where its values are ±1, one for the layer, or one for each filter."""
    if isinstance(variable.quantizer, _PLAIN_SIGNS):
        return 0
    return 1 if getattr(variable.quantizer, "one_scale", False) else int(variable.shape[-1])


def _size(variable: tf.Variable) -> int:
    return int(variable.shape.num_elements())


def _work(layer: tf.keras.layers.Layer) -> Iterator[tuple[tf.Variable, int]]:
    """Kernels of a convolution (depthwise and separable ones too) or a dense layer, and their multiply-accumulates."""
    if hasattr(layer, "kernel_size"):
        height, width = layer.output_shape[1:3]
        yield from ((kernel, _size(kernel) * height * width) for kernel in layer.weights if len(kernel.shape) == 4)
    elif isinstance(layer, tf.keras.layers.Dense):
        yield layer.kernel, _size(layer.kernel)
