"""QONNX files in the form that hls4ml reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.export.qonnx import DOMAIN, constant, is_padded, read, replace

_CHANNELS_LAST = "qonnx.custom_op.channels_last"


def for_hls4ml(file: str | Path) -> Any:
    """Return the network of a QONNX file in the form that hls4ml reads.

    Images are (batch, height, width, channels). Other operators avoid defects of hls4ml 1.3:

    - It repeats the numbers of a `Mul` or `Add` of one number per channel for each pixel, and then fails. They become a
      `BatchNormalization`.
    - It merges a batch norm and a sign into a threshold, which is wrong for negative scales and behind binary dense
      layers. A reshape in between prevents it.
    - It stores a sign as a bit, so that padding with 0 is padding with −1. Signs of padded maps become 2 · [x ≥ 0] − 1,
      where a `Quant` of one bit computes [x ≥ 0].

    Args:
        file: A file of format `qonnx`.

    Returns:
        A `qonnx.core.modelwrapper.ModelWrapper`, for `hls4ml.converters.convert_from_onnx_model`.

    Raises:
        ImportError: QONNX is not installed.
        ValueError: The file has operators of other domains.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model
    from qonnx.util.onnx import eltwise_optypes

    eltwise_optypes.add("BipolarQuant")  # missing there, so that transposes would stay around each sign
    model = ModelWrapper(read(str(file)))
    _merge_affine_nodes(model)
    model = model.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
    for sign in model.get_nodes_by_op_type("BipolarQuant"):
        producer = model.find_producer(sign.input[0])
        if producer is None:
            continue  # a kernel, or the images
        if is_padded(model, sign):
            _write_sign_as_number(model, sign)
        elif producer.op_type == "BatchNormalization":
            _separate_sign(model, sign)
    return cleanup_model(model)


def _merge_affine_nodes(model: Any) -> None:
    """Replace chains of `Mul` and `Add` of one number per channel by one `BatchNormalization` each."""
    merged: set[str] = set()
    for first in list(model.graph.node):
        chain, node = [], first
        scale, bias = np.ones(1, np.float32), np.zeros(1, np.float32)
        while first.output[0] not in merged and node and (numbers := _numbers_of_channels(model, node)) is not None:
            scale, bias = (scale * numbers, bias * numbers) if node.op_type == "Mul" else (scale, bias + numbers)
            chain.append(node)
            readers = model.find_consumers(node.output[0])
            node = readers[0] if len(readers) == 1 else None
        if chain:
            channels = model.get_tensor_shape(first.output[0])[1]
            normalization = _affine(model, first.input[0], chain[-1].output[0], channels, scale, bias)
            replace(model, chain, [normalization])
            merged |= {node.output[0] for node in chain}


def _numbers_of_channels(model: Any, node: Any) -> np.ndarray | None:
    """Return the constant of a `Mul` or `Add` of one number per channel, (channels,), else None."""
    values = model.get_initializer(node.input[1]) if node.op_type in ("Mul", "Add") else None
    if values is None:
        return None
    rank, channels = len(model.get_tensor_shape(node.output[0])), model.get_tensor_shape(node.output[0])[1]
    shape = [*[1] * (rank - values.ndim), *values.shape]
    return values.ravel() if values.size == shape[1] == channels else None


def _write_sign_as_number(model: Any, sign: Any) -> None:
    """Replace sign(x) by 2 · min(max(⌊x + 1⌋, 0), 1) − 1 in a graph with channels last."""
    from onnx import helper

    shape = model.get_tensor_shape(sign.output[0])
    domain = _CHANNELS_LAST if len(shape) == 4 else ""
    shifted, bit = (_tensor(model, shape) for _ in range(2))
    quantizer = [shifted, *(constant(model, np.full(1, value, np.float32)) for value in (1, 0, 1))]
    nodes = [
        _affine(model, sign.input[0], shifted, shape[-1], 1, 1, domain),
        helper.make_node("Quant", quantizer, [bit], domain=DOMAIN, signed=0, narrow=0, rounding_mode="FLOOR"),
        _affine(model, bit, sign.output[0], shape[-1], 2, -1, domain),
    ]
    replace(model, [sign], nodes)


def _separate_sign(model: Any, sign: Any) -> None:
    """Put a reshape to the same shape in front of a sign."""
    from onnx import helper

    shape = model.get_tensor_shape(sign.input[0])
    inputs, copy = [sign.input[0], constant(model, np.array(shape, np.int64))], _tensor(model, shape)
    sign.input[0] = copy
    model.graph.node.insert(model.get_node_index(sign), helper.make_node("Reshape", inputs, [copy]))


def _affine(model: Any, x: str, y: str, channels: int, scale: Any, bias: Any, domain: str = "") -> Any:
    """Return a `BatchNormalization` that computes y = scale · x + bias."""
    from onnx import helper

    values = (np.full(channels, number, np.float32) for number in (scale, bias, 0, 1))
    inputs = [x, *(constant(model, array) for array in values)]
    return helper.make_node("BatchNormalization", inputs, [y], domain=domain, epsilon=0.0)


def _tensor(model: Any, shape: list[int]) -> str:
    """Add a tensor to a model, and return its name."""
    name = model.make_new_valueinfo_name()
    model.set_tensor_shape(name, shape)
    return name
