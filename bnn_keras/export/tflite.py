"""TFLite with Larq Compute Engine's binary convolutions, for ARM; and plain float TFLite for comparison.

Larq Compute Engine runs in the `worker`, because its converter and its interpreter can crash.

TFLite does not compute constants when it loads a file, except for dequantization. Kernels of binary layers with real
inputs therefore take eight bits per weight: signs in int8, and α as the scale of each filter, which is exact.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.constants import FloatLayers, find_float_layers, scales_of
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor

_CONV_2D, _DEPTHWISE_CONV_2D, _DEQUANTIZE, _FULLY_CONNECTED = 3, 4, 6, 9  # operator codes of TFLite's schema
_DEQUANTIZE_VERSION = 5  # with one scale per filter
_FLOAT32, _INT8 = 0, 9  # type codes
_FILE_IDENTIFIER = b"TFL3"


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write a `.tflite` file.

    Args:
        job: The network. `floats` is "float32" or "int8". With float32, kernels of binary layers with real inputs are
            stored as int8 and computed in float, which is exact. With int8, weights of real-valued convolutions and
            dense layers are int8 with one scale per filter, and their inputs are quantized at run time (TFLite's hybrid
            kernels).
        file: The file to write.

    Returns:
        The binary layers that are not stored or not computed in one bit.

    Raises:
        BnnError: The converter crashed.
    """
    model, constants = worker.call(f"{__name__}:convert_graph", str(job.graph), job.floats)
    file.write_bytes(model)
    reason = "the converter did not recognise it as binary"
    float_layers = find_float_layers(job.kernels, [(kernel, reason) for kernel in constants])
    return FloatLayers(float_layers, float_layers)


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a file with Larq Compute Engine, one image at a time.

    Raises:
        BnnError: The interpreter crashed, or `batch_size` is not 1.
    """
    if batch_size not in (None, 1):
        raise BnnError(f"{str(file)!r} has a batch size of 1, got {batch_size}; use --batch-size 1")
    return lambda images: worker.call(f"{__name__}:predictions", str(file), threads or 1, images)


def convert_float(graph: Path, file: Path) -> None:
    """Convert a SavedModel to a `.tflite` file with TensorFlow's own converter; every layer is float."""
    import tensorflow as tf

    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(graph)).convert())


@functools.lru_cache(maxsize=1)
def interpreter(file: str, threads: int, modified: int = 0) -> Any:
    """Return Larq Compute Engine's interpreter of a file. Runs in the worker.

    Args:
        file: The `.tflite` file.
        threads: Number of threads.
        modified: Modification time of the file in ns, to load a rewritten file again.
    """
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    return Interpreter(Path(file).read_bytes(), num_threads=threads)


def predictions(file: str, threads: int, images: np.ndarray) -> np.ndarray:
    """Return the outputs of a file. Runs in the worker."""
    modified = Path(file).stat().st_mtime_ns
    # The interpreter compares dtypes by identity. An unpickled array has an equal dtype, but another object.
    return interpreter(file, threads, modified).predict(images.astype(np.float32))


def convert_graph(graph: str, floats: str) -> tuple[bytes, list[np.ndarray]]:
    """Convert a SavedModel. Runs in the worker.

    Returns:
        The `.tflite` file, and its float kernels, (filters, height, width, inputs) or (units, inputs).
    """
    import larq_compute_engine

    data = larq_compute_engine.convert_saved_model(graph)
    model = _parse(data)
    weights = _float_weights(model)
    kernels = [_values(model, tensor) for tensor, _ in weights]
    store = _quantize if floats == "int8" else _store_signs
    changed = [store(model, tensor, axis) for tensor, axis in weights]
    return _serialize(model) if any(changed) else data, kernels


def _parse(data: bytes) -> Any:
    from larq_compute_engine.mlir.python import tflite_schema

    return tflite_schema.ModelT.InitFromObj(tflite_schema.Model.GetRootAs(data, 0))


def _serialize(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def _float_weights(model: Any) -> list[tuple[Any, int]]:
    """Return the tensors of constant float kernels, each with its filter axis."""
    axes = {_CONV_2D: 0, _DEPTHWISE_CONV_2D: 3, _FULLY_CONNECTED: 0}
    weights = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex].builtinCode
            if code not in axes:
                continue
            tensor = graph.tensors[operator.inputs[1]]
            if tensor.type == _FLOAT32 and model.buffers[tensor.buffer].data is not None:
                weights[tensor.buffer] = (tensor, axes[code])
    return list(weights.values())


def _values(model: Any, tensor: Any) -> np.ndarray:
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), "<f4").reshape(tensor.shape)


def _store_signs(model: Any, tensor: Any, axis: int) -> bool:
    """Store a kernel ±α as signs in int8, and multiply them by α in front of the layer, which TFLite does once.

    Returns:
        Whether the kernel is ±α. Others stay as they are.
    """
    from larq_compute_engine.mlir.python import tflite_schema

    values = _values(model, tensor)
    scales = scales_of(values, axis)
    if scales is None:
        return False
    model.operatorCodes.append(_operator_code(_DEQUANTIZE, _DEQUANTIZE_VERSION))
    for graph in model.subgraphs:
        for index, other in enumerate(list(graph.tensors)):
            if other.buffer != tensor.buffer:
                continue
            decoded = tflite_schema.TensorT()
            decoded.name, decoded.shape, decoded.type = other.name + b"/decoded", other.shape, _FLOAT32
            decoded.buffer = len(model.buffers)
            model.buffers.append(tflite_schema.BufferT())
            for operator in graph.operators:
                operator.inputs = np.where(operator.inputs == index, len(graph.tensors), operator.inputs)
            decoder = tflite_schema.OperatorT()
            decoder.opcodeIndex = len(model.operatorCodes) - 1
            decoder.inputs, decoder.outputs = (np.array([value], np.int32) for value in (index, len(graph.tensors)))
            graph.tensors.append(decoded)
            graph.operators.insert(0, decoder)
            other.type, other.quantization = _INT8, _scales(scales.ravel(), axis)
    model.buffers[tensor.buffer].data = np.where(np.signbit(values), -1, 1).astype(np.int8).ravel().view(np.uint8)
    return True


def _operator_code(operator: int, version: int) -> Any:
    from larq_compute_engine.mlir.python import tflite_schema

    code = tflite_schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = operator
    code.version = version
    return code


def _scales(scales: np.ndarray, axis: int) -> Any:
    """Return the quantization of a tensor: value = scale · q, with one scale per filter or one for all."""
    from larq_compute_engine.mlir.python import tflite_schema

    quantization = tflite_schema.QuantizationParametersT()
    quantization.scale = scales
    quantization.zeroPoint = np.zeros(scales.size, np.int64)
    quantization.quantizedDimension = axis
    return quantization


def _quantize(model: Any, tensor: Any, axis: int) -> bool:
    """Quantize a float kernel to int8: w ≈ scale · q, with one scale per filter and q in −127 … 127."""
    values = _values(model, tensor)
    others = tuple(other for other in range(values.ndim) if other != axis)
    scales = np.abs(values).max(axis=others, keepdims=True) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    tensor.type, tensor.quantization = _INT8, _scales(scales.ravel(), axis)
    model.buffers[tensor.buffer].data = np.frombuffer(np.round(values / scales).astype(np.int8).tobytes(), np.uint8)
    return True
