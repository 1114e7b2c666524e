"""TFLite with Larq Compute Engine's binary convolutions, for ARM; and plain float TFLite to compare with.

Everything of Larq Compute Engine runs in the `worker`: its converter and its interpreter have crashed on networks.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.graphs import Predictor, Source, in_batches, layers_with

_CONV_2D, _DEPTHWISE_CONV_2D, _FULLY_CONNECTED = 3, 4, 9  # TFLite's numbers of its operators
_FLOAT32, _INT8 = 0, 9  # and of its types
_FILE_IDENTIFIER = b"TFL3"


def convert(source: Source, file: Path) -> dict[str, str]:
    """Writes a `.tflite`.

    Args:
        source: The network. `floats` is "float32", or "int8": weights of real convolutions and dense layers as int8,
            with a scale for each filter; their inputs are quantized when they come (TFLite's hybrid kernels).
        file: The file to write.

    Returns:
        Names of the binary layers that stayed float, and why.

    Raises:
        BnnError: The converter crashed.
    """
    model, constants = worker.call(f"{__name__}:converted", str(source.graph), source.floats)
    file.write_bytes(model)
    return layers_with(source.kernels, [(kernel, "the converter did not take it for binary") for kernel in constants])


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Predicts with a file, one image after the other.

    Raises:
        BnnError: The interpreter crashed; or batches of several images are asked for.
    """
    if batch_size not in (None, 1):
        raise BnnError(f"{str(file)!r} takes one image after the other, asked for are batches of {batch_size}; use 1")
    return lambda images: worker.call(f"{__name__}:predictions", str(file), threads or 1, images)


def convert_float(graph: Path, file: Path) -> None:
    """Writes the `.tflite` of a SavedModel by TensorFlow's own converter: every layer is float."""
    import tensorflow as tf

    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(graph)).convert())


def load_float(file: Path, threads: int = 1) -> Predictor:
    """Predicts with a file of `convert_float` by TensorFlow's own interpreter (XNNPACK)."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (images,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    return in_batches(predict, 1)


@functools.lru_cache(maxsize=1)
def interpreter(file: str, threads: int, written: int = 0) -> Any:
    """Larq Compute Engine's interpreter of a file; `written` tells files of one name apart."""
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    return Interpreter(Path(file).read_bytes(), num_threads=threads)


def predictions(file: str, threads: int, images: np.ndarray) -> np.ndarray:
    """What a file makes of images."""
    # The interpreter knows NumPy's own float32 object alone, not the equal one of an array that has travelled.
    written = Path(file).stat().st_mtime_ns
    return interpreter(file, threads, written).predict(images.astype(np.float32))


def converted(graph: str, floats: str) -> tuple[bytes, list[np.ndarray]]:
    """The `.tflite` of a SavedModel, and its float kernels, (filters, height, width, inputs) or (units, inputs)."""
    import larq_compute_engine

    data = larq_compute_engine.convert_saved_model(graph)
    model = _parsed(data)
    weights = _float_weights(model)
    kernels = [_values(model, tensor) for tensor, _ in weights]
    if floats == "int8":
        for tensor, axis in weights:
            _quantize(model, tensor, axis)
        data = _serialized(model)
    return data, kernels


def _parsed(data: bytes) -> Any:
    from larq_compute_engine.mlir.python import tflite_schema

    return tflite_schema.ModelT.InitFromObj(tflite_schema.Model.GetRootAs(data, 0))


def _serialized(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def _float_weights(model: Any) -> list[tuple[Any, int]]:
    """Tensors of constant float kernels, each with its axis of filters."""
    axes = {_CONV_2D: 0, _DEPTHWISE_CONV_2D: 3, _FULLY_CONNECTED: 0}
    found = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex].builtinCode
            if code not in axes:
                continue
            tensor = graph.tensors[operator.inputs[1]]
            if tensor.type == _FLOAT32 and model.buffers[tensor.buffer].data is not None:
                found[tensor.buffer] = (tensor, axes[code])
    return list(found.values())


def _values(model: Any, tensor: Any) -> np.ndarray:
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), "<f4").reshape(tensor.shape)


def _quantize(model: Any, tensor: Any, axis: int) -> None:
    """A float kernel to int8, w ≈ scale · q with one scale for each filter and q in −127 … 127."""
    from larq_compute_engine.mlir.python import tflite_schema

    values = _values(model, tensor)
    others = tuple(place for place in range(values.ndim) if place != axis)
    scales = np.abs(values).max(axis=others, keepdims=True) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    quantization = tflite_schema.QuantizationParametersT()
    quantization.scale = scales.ravel()
    quantization.zeroPoint = np.zeros(scales.size, np.int64)
    quantization.quantizedDimension = axis
    tensor.type, tensor.quantization = _INT8, quantization
    model.buffers[tensor.buffer].data = np.frombuffer(np.round(values / scales).astype(np.int8).tobytes(), np.uint8)
