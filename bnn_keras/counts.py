"""Counts of a network: parameters, binary parameters, multiply-accumulates and bytes.

`parameters` are the trainable weights, `binary_parameters` those with a 1-bit quantizer. Multiply-accumulates are those
of convolutions and dense layers for one image; biases, batch norm and pooling do not count.

`operations` are what papers call OPs, FLOPs + BOPs / 64. BOPs are the multiply-accumulates of 1-bit kernels with 1-bit
inputs, of which a processor computes 64 at once; FLOPs are all others. Source: Liu et al. 2020, arXiv:2003.03488,
section 5.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import larq
import tensorflow as tf

_BINARY_MACS_PER_OPERATION = 64
_PLAIN_SIGNS = (larq.quantizers.SteSign, larq.quantizers.ApproxSign, larq.quantizers.SwishSign, larq.quantizers.NoOp)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a convolution or a dense layer.

    Attributes:
        layer: The layer.
        variable: Its kernel.
        macs: Multiply-accumulates for one image.
        weight_bits: Bits of a weight: 1, or 32 for real ones.
        input_bits: Bits of an input: 1, or 32 for real ones.
    """

    layer: tf.keras.layers.Layer
    variable: tf.Variable
    macs: int
    weight_bits: int
    input_bits: int

    @property
    def bits(self) -> str:
        """Bits of weights / inputs, such as "1/32"."""
        return f"{self.weight_bits}/{self.input_bits}"


def binary_variables(model: tf.keras.Model) -> list[tf.Variable]:
    """Return the trainable variables whose quantizer has precision 1, including those of frozen layers.

    Batch-norm statistics are not read: reading a sync-on-read variable triggers a reduction that every replica must
    join.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> [tuple(variable.shape) for variable in binary_variables(model)]
        [(5, 5, 20, 50), (800, 500)]
    """
    trainable = [variable for variable in model.variables if variable.trainable]
    return [variable for variable in trainable if getattr(variable, "precision", None) == 1]


def count(model: tf.keras.Model) -> dict[str, Any]:
    """Return the counts of a model.

    Returns:
        `parameters`, `binary_parameters`; `macs` (all), `binary_macs` (1-bit kernel and 1-bit input),
        `binary_weight_macs` (1-bit kernel, real input), `operations`, rounded to whole ones; `bytes_float32` of all
        variables; `bytes_minimum`: one bit for each binary weight and four bytes for each other number, including the
        scales of binary kernels.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> counts = count(build_model(resolve("lenet5").experiment))
        >>> counts["parameters"], counts["binary_parameters"], counts["macs"], counts["operations"]
        (431220, 425000, 2293000, 324250)
    """
    binary = binary_variables(model)
    parameters = sum(map(_size, model.trainable_variables))
    binary_parameters = sum(map(_size, binary))
    numbers = sum(_size(variable) for variable in model.variables if variable.dtype.is_floating)
    scales = sum(map(_scales, binary))

    macs = {"macs": 0, "binary_macs": 0, "binary_weight_macs": 0}
    for kernel in kernels(model):
        macs["macs"] += kernel.macs
        if kernel.weight_bits == 1:
            macs["binary_macs" if kernel.input_bits == 1 else "binary_weight_macs"] += kernel.macs
    return {
        "parameters": parameters,
        "binary_parameters": binary_parameters,
        **macs,
        "operations": round(macs["macs"] - macs["binary_macs"] + macs["binary_macs"] / _BINARY_MACS_PER_OPERATION),
        "bytes_float32": 4 * numbers,
        "bytes_minimum": -(-binary_parameters // 8) + 4 * (numbers - binary_parameters + scales),
    }


def kernels(model: tf.keras.Model) -> list[Kernel]:
    """Return the kernels of a model, in the order of its layers.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> [(kernel.layer.name, kernel.bits) for kernel in kernels(build_model(resolve("lenet5").experiment))]
        [('conv1', '32/32'), ('bin_conv2.conv', '1/1'), ('bin_ip1.linear', '1/1'), ('ip2', '32/32')]
    """
    binary = {id(variable) for variable in binary_variables(model)}
    found = []
    for layer in model.layers:
        quantizer = getattr(layer, "input_quantizer", None)
        input_bits = 1 if getattr(quantizer, "precision", None) == 1 else 32
        for variable, macs in _kernel_macs(layer):
            found.append(Kernel(layer, variable, macs, 1 if id(variable) in binary else 32, input_bits))
    return found


def footer(counts: Mapping[str, Any]) -> str:
    r"""Return parameters, bits, OPs and size on one line, as papers quote them.

    Args:
        counts: The result of `count`.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> facts = footer(count(build_model(resolve("lenet5").experiment))).split(" · ")
        >>> print("\n".join(facts))
        431,220 parameters (98.6 % with 1 bit)
        0.324 M OPs = 0.293 M FLOPs + 2.00 M BOPs / 64
        80.9 kB (float: 1.7 MB)
    """
    share = 100 * counts["binary_parameters"] / counts["parameters"] if counts["parameters"] else 0
    operations, flops, binary = (
        _quantity(number)
        for number in (counts["operations"], counts["macs"] - counts["binary_macs"], counts["binary_macs"])
    )
    sizes = [_bytes(counts[key]) for key in ("bytes_minimum", "bytes_float32")]
    return (
        f"{counts['parameters']:,} parameters ({share:.1f} % with 1 bit) · {operations} OPs = {flops} FLOPs + "
        f"{binary} BOPs / 64 · {sizes[0]} (float: {sizes[1]})"
    )


def _quantity(number: int) -> str:
    """Return a number of operations with three digits, in millions or billions."""
    unit, name = (1e9, "G") if number >= 1e9 else (1e6, "M")
    value = number / unit
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f} {name}"


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


def _scales(variable: tf.Variable) -> int:
    """Return the number of scales of a binary kernel: 0 for ±1, 1 for a scale per layer, else one per filter.

    Learnt scales are parameters, which are counted already.
    """
    learnt = getattr(variable.quantizer, "trainable_weights", [])
    if isinstance(variable.quantizer, _PLAIN_SIGNS) or learnt:
        return 0
    return 1 if getattr(variable.quantizer, "one_scale", False) else int(variable.shape[-1])


def _size(variable: tf.Variable) -> int:
    return int(variable.shape.num_elements())


def _kernel_macs(layer: tf.keras.layers.Layer) -> Iterator[tuple[tf.Variable, int]]:
    """Yield each kernel of a convolution or dense layer with its multiply-accumulates."""
    if hasattr(layer, "kernel_size"):
        height, width = layer.output_shape[1:3]
        yield from ((kernel, _size(kernel) * height * width) for kernel in layer.weights if len(kernel.shape) == 4)
    elif isinstance(layer, tf.keras.layers.Dense):
        yield layer.kernel, _size(layer.kernel)
