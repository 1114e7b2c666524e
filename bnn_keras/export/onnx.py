"""ONNX, by tf2onnx. Binary kernels are stored in one bit per weight, and computed in float.

ONNX has no binary operators. Operators in front of a layer decode its kernel; ONNX Runtime computes them when it opens
the file, so that the layer runs as with a float kernel. So does OpenVINO, but not with `BitShift`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.constants import FloatLayers, find_float_layers, scales_of
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor

OPSET = 17
_FILTERS = {"Conv": 0, "MatMul": -1}  # axes of filters of kernels


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write an `.onnx` file that maps `images` (batch, height, width, channels) to `outputs`.

    Returns:
        The binary layers whose kernels are float; all of them are computed in float.

    Raises:
        BnnError: The converter crashed.
    """
    kernels = worker.call(f"{__name__}:write", str(job.graph), str(file))
    stored = [(kernel, "a filter has values of several magnitudes") for kernel in kernels]
    computed = dict.fromkeys(job.kernels, "the format has no binary operators")
    return FloatLayers(find_float_layers(job.kernels, stored), computed)


def write(graph: str, file: str) -> list[np.ndarray]:
    """Convert a SavedModel to an `.onnx` file. Runs in the worker.

    Returns:
        The kernels that are not stored in one bit per weight, (filters, height, width, inputs) or (units, inputs).
    """
    import onnx
    import tensorflow as tf
    import tf2onnx

    loaded = tf.saved_model.load(graph)
    function = loaded.signatures["serving_default"]
    graph_def = tf2onnx.tf_loader.from_function(
        function, [function.inputs[0].name], [output.name for output in function.outputs]
    )
    with tf.Graph().as_default() as tf_graph:
        tf.import_graph_def(graph_def, name="")
        model = tf2onnx.tfonnx.process_tf_graph(
            tf_graph,
            opset=OPSET,
            input_names=[function.inputs[0].name],
            output_names=[output.name for output in function.outputs],
        ).make_model("bnn-keras")
    _shorten_names(model.graph)
    kernels = _store_in_bits(model.graph)
    onnx.checker.check_model(model)
    Path(file).write_bytes(model.SerializeToString())
    return kernels


def _shorten_names(graph: Any) -> None:
    """Replace the names of values by numbers, and remove the prefix that the names of all layers have.

    tf2onnx's names take more bytes than the weights of a small binary network. All remain if a graph inside of an
    operator may refer to them.
    """
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return
    produced = (name for node in graph.node for name in node.output)
    names = {name: str(number) for number, name in enumerate([*_names(graph.initializer), *produced])}
    names |= {name: name for name in ("", *_names(graph.input), *_names(graph.output))}
    layers = [name for name in _names(graph.node) if "/" in name]
    prefix = posixpath.commonpath(layers or [""]) + "/"
    for node in graph.node:
        node.name = node.name.removeprefix(prefix)
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    del graph.value_info[:]


def _names(values: Iterable[Any]) -> list[str]:
    return [value.name for value in values]


def _store_in_bits(graph: Any) -> list[np.ndarray]:
    """Replace kernels ±α by their bits, and by operators that compute them.

    Returns:
        The other kernels, (filters, height, width, inputs) or (units, inputs).
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    axes = {node.input[1]: _FILTERS[node.op_type] for node in graph.node if node.op_type in _FILTERS}
    nodes, others = [_table(graph)], []
    for name, axis in axes.items():
        if name not in tensors:
            continue
        values = numpy_helper.to_array(tensors[name])
        scales = scales_of(values, axis % values.ndim)
        if scales is None:
            values = np.moveaxis(values, axis, 0)
            others.append(values.transpose(0, 2, 3, 1) if values.ndim == 4 else values)
        else:
            graph.initializer.remove(tensors[name])
            nodes += _decoder(graph, name, values, scales)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return others


def _table(graph: Any) -> Any:
    """Add the eight signs of each byte to a graph; return the operator that makes `table` of them, floats (256, 8)."""
    from onnx import TensorProto, helper

    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    _add(graph, "signs", 2 * bits.astype(np.int8) - 1)
    return helper.make_node("Cast", ["signs"], ["table"], to=TensorProto.FLOAT)


def _decoder(graph: Any, name: str, values: np.ndarray, scales: np.ndarray) -> list[Any]:
    """Add the bits of a kernel to a graph, the most significant bit first.

    Returns:
        The operators that compute the value `name` of them: α · table[bytes].
    """
    from onnx import TensorProto, helper

    bits, shape, alpha, indices, bytes_, signs = (f"{name}.{number}" for number in range(6))
    _add(graph, bits, np.packbits(~np.signbit(values).ravel()))
    _add(graph, shape, np.array(values.shape, np.int64))
    _add(graph, alpha, scales)
    nodes = [
        helper.make_node("Cast", [bits], [indices], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", indices], [bytes_]),
    ]
    if values.size % 8:  # the last byte has bits that belong to no weight
        flat, start, end, all_signs, some_signs = (f"{name}.{number}" for number in range(6, 11))
        for part, number in ((flat, -1), (start, 0), (end, values.size)):
            _add(graph, part, np.array([number], np.int64))
        nodes.append(helper.make_node("Reshape", [bytes_, flat], [all_signs]))
        nodes.append(helper.make_node("Slice", [all_signs, start, end], [some_signs]))
        bytes_ = some_signs
    nodes.append(helper.make_node("Reshape", [bytes_, shape], [signs]))
    nodes.append(helper.make_node("Mul", [signs, alpha], [name]))
    return nodes


def _add(graph: Any, name: str, values: np.ndarray) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(values, name))


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a file with ONNX Runtime.

    Raises:
        BnnError: The file cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise BnnError(f"ONNX Runtime cannot read {str(file)!r} ({error}); export again") from error

    def predict(images: np.ndarray) -> np.ndarray:
        return session.run(None, {session.get_inputs()[0].name: images})[0]

    return predict
