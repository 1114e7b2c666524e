"""QONNX, the hand-over to FPGA tools: FINN and hls4ml.

QONNX is ONNX with operators for quantized values. A sign is a `BipolarQuant`, whether of an activation or of a kernel,
and all other operators are ONNX's. tf2onnx converts the network, and QONNX's own passes clean the graph up.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras import files
from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.constants import FloatLayers, find_float_layers, scales_of
from bnn_keras.export.freeze import freeze
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor
from bnn_keras.export.saved_graph import save_graph

OPSET = 11  # that of QONNX's passes
DOMAIN = "qonnx.custom_op.general"
_FILTER_AXES = {"Conv": 0, "MatMul": -1, "Gemm": -1}
_PADDED = ("Conv", "MaxPool", "AveragePool")
_EXECUTED_BATCH = 32


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write a `.qonnx` file that maps `images` (batch, channels, height, width) to `outputs`.

    All shapes are static. Kernels and activations of binary layers are outputs of `BipolarQuant` with scale 1, which
    QONNX's type inference knows as `BIPOLAR`. Scales of filters, biases and batch norms are a `Mul` and an `Add` behind
    the layer. Dense layers are `MatMul`.

    Returns:
        All binary layers: the file marks their kernels and inputs as signs, but holds and computes them as float.

    Raises:
        BnnError: The converter crashed, or changed a binary kernel.
    """
    with files.writing_temporary(), tempfile.TemporaryDirectory(prefix="bnn-keras-") as folder:
        graph = Path(folder) / "graph"
        save_graph(freeze(job.model, job.kernels), graph, job.softmax)
        constants = worker.call(f"{__name__}:write", str(graph), str(file), job.batch_size)
    changed = find_float_layers(job.kernels, constants)
    if changed:
        raise BnnError(
            f"{len(changed)} binary layer(s) are not binary in the converted graph: {', '.join(list(changed)[:3])}; "
            "export to packed, which stores every binary layer"
        )
    stored = dict.fromkeys(job.kernels, "QONNX stores the signs of a kernel as float32")
    return FloatLayers(stored, dict.fromkeys(job.kernels, "QONNX's executor computes in float"))


def write(graph: str, file: str, batch_size: int) -> list[tuple[np.ndarray, str]]:
    """Convert a SavedModel to a `.qonnx` file, which is an ONNX file. Runs in the worker.

    Returns:
        The kernels without `BipolarQuant`, (filters, …), as `find_float_layers` expects them.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.batchnorm_to_affine import BatchNormToAffine
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.util.cleanup import cleanup_model

    model = ModelWrapper(_converted(graph, batch_size)).transform(InferShapes())
    constants: list[tuple[np.ndarray, str]] = []
    for node in list(model.graph.node):
        if node.op_type in _FILTER_AXES and model.get_initializer(node.input[1]) is not None:
            constants += _as_affine(model, node)
    _remove_reshapes_to_the_same_shape(model)
    _remove_clips_before_signs(model)
    _write_pads(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cleanup_model(model.transform(InferShapes()).transform(BatchNormToAffine()))
    model.save(file)
    return constants


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a file with QONNX's executor, on images (batch, height, width, channels).

    The executor creates a session of ONNX Runtime for each operator, so it is slow.

    Raises:
        BnnError: The file cannot be read, or has another batch size.
    """
    try:
        fixed = worker.call(f"{__name__}:batch_size_of", str(file))
    except (BnnError, ImportError):
        raise
    except Exception as error:  # the libraries' exceptions have no common base class
        raise BnnError(f"QONNX cannot read {str(file)!r} ({error}); export again") from error
    if batch_size not in (None, fixed):
        raise BnnError(
            f"{str(file)!r} has a batch size of {fixed}, got {batch_size}; export again with --batch-size {batch_size}"
        )
    return lambda images: worker.call(f"{__name__}:predictions", str(file), images)


def batch_size_of(file: str) -> int:
    """Return the fixed batch size of a file. Runs in the worker."""
    return read(file).graph.input[0].type.tensor_type.shape.dim[0].dim_value


def predictions(file: str, images: np.ndarray) -> np.ndarray:
    """Return the outputs of a file for any number of images. Runs in the worker."""
    from qonnx.core.onnx_exec import execute_onnx

    modified = Path(file).stat().st_mtime_ns
    results = []
    for start in range(0, len(images), _EXECUTED_BATCH):
        batch = np.moveaxis(images[start : start + _EXECUTED_BATCH], -1, 1) if images.ndim == 4 else images
        model = _with_batch_size(file, len(batch), modified)
        (outputs,) = execute_onnx(model, {model.graph.input[0].name: np.ascontiguousarray(batch)}).values()
        results.append(outputs)
    return np.concatenate(results)


@functools.lru_cache(maxsize=2)
def _with_batch_size(file: str, batch_size: int, modified: int) -> Any:
    """Return the model of a file for another batch size; `modified` makes the cache load a rewritten file again."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_shapes import InferShapes

    return ModelWrapper(read(file)).transform(ChangeBatchSize(batch_size)).transform(InferShapes())


def read(file: str) -> Any:
    """Read a file.

    Raises:
        ValueError: It has operators of other domains. QONNX would import a module of that name.
    """
    import onnx

    model = onnx.load(file, load_external_data=False)
    others = {node.domain for node in model.graph.node} - {"", DOMAIN}
    if others:
        raise ValueError(f"unknown domain of operators {min(others)!r}")
    return model


def _converted(graph: str, batch_size: int) -> Any:
    """Return a SavedModel as ONNX, with channels first and a `BipolarQuant` for each sign of an activation."""
    import tensorflow as tf
    from onnx import helper
    from tf2onnx import optimizer, tf_loader, tfonnx
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    class Transposes(TransposeOptimizer):
        """Moves transposes through signs, too."""

        def _initialize_handlers(self) -> None:
            super()._initialize_handlers()
            self._handler_map["BipolarQuant"] = self._simple_through_handler

    loaded = tf.saved_model.load(graph)
    function = loaded.signatures["serving_default"]
    images, outputs = function.inputs[0], [output.name for output in function.outputs]
    graph_def = tf_loader.from_function(function, [images.name], outputs)
    with tf.Graph().as_default() as tf_graph:
        tf.import_graph_def(graph_def, name="")
        converted = tfonnx.process_tf_graph(
            tf_graph,
            opset=OPSET,
            extra_opset=[helper.make_opsetid(DOMAIN, 1)],
            input_names=[images.name],
            output_names=outputs,
            shape_override={images.name: [batch_size, *images.shape[1:]]},
            inputs_as_nchw=[images.name] if len(images.shape) == 4 else None,
        )
    _mark_signs(converted)
    passes = {**optimizer._get_optimizers(), "optimize_transpose": Transposes}
    return optimizer.optimize_graph(converted, optimizers=passes).make_model("bnn-keras")


def _mark_signs(graph: Any) -> None:
    """Replace Larq's sign(x), which is Sign(Sign(x) + 0.1), by BipolarQuant(x, 1) in a graph of tf2onnx.

    Both are +1 for 0 and −0.
    """
    scale = graph.make_const("scale_of_signs", np.float32(1)).output[0]
    for node in graph.get_nodes():
        x = _argument_of_sign(node)
        if x is not None:
            types = {"outputs": node.output, "shapes": node.output_shapes, "dtypes": node.output_dtypes}
            graph.remove_node(node.name)
            graph.make_node("BipolarQuant", [x, scale], domain=DOMAIN, infer_shape_dtype=False, **types)


def _argument_of_sign(node: Any) -> str | None:
    """Return the name of `x` if a node of tf2onnx is Larq's `sign(x)`, else None."""
    if node.type != "Sign" or node.inputs[0].type != "Add":
        return None
    first, second = node.inputs[0].inputs
    return first.input[0] if first.type == "Sign" and second.is_const() else None


def _as_affine(model: Any, layer: Any) -> list[tuple[np.ndarray, str]]:
    """Write a layer as op(x, kernel) · scales + bias, with `BipolarQuant` for a kernel of ± one value per filter.

    Returns:
        The kernel, (filters, …), if it has other values.
    """
    from onnx import helper

    kernel, axis = model.get_initializer(layer.input[1]), _FILTER_AXES[layer.op_type]
    if layer.op_type == "Gemm":
        if any(attribute.name == "transB" and attribute.i for attribute in layer.attribute):
            kernel = kernel.T
        layer.op_type = "MatMul"
        del layer.attribute[:]
    scales = scales_of(kernel, axis % kernel.ndim)
    nodes, affine = [], {}
    if scales is not None and (scales != 1).any():
        affine["Mul"] = np.broadcast_to(scales.ravel(), kernel.shape[axis])
    if len(layer.input) > 2:
        affine["Add"] = model.get_initializer(layer.input.pop())
    if scales is not None:
        kernel = np.where(np.signbit(kernel), np.float32(-1), np.float32(1))
        inputs = [constant(model, kernel), constant(model, np.ones((), np.float32))]
        nodes.append(helper.make_node("BipolarQuant", inputs, [model.make_new_valueinfo_name()], domain=DOMAIN))
        model.set_tensor_shape(nodes[0].output[0], list(kernel.shape))
        layer.input[1] = nodes[0].output[0]
    else:
        layer.input[1] = constant(model, kernel)
    nodes.append(layer)
    output, shape = layer.output[0], model.get_tensor_shape(layer.output[0])
    channels = [1, -1, *[1] * (len(shape) - 2)] if layer.op_type == "Conv" else [*[1] * (len(shape) - 1), -1]
    for operator, values in affine.items():
        between = nodes[-1].output[0] = model.make_new_valueinfo_name()
        model.set_tensor_shape(between, shape)
        nodes.append(helper.make_node(operator, [between, constant(model, values.reshape(channels))], [output]))
    replace(model, [layer], nodes)
    filters = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    return [] if scales is not None else [(filters, "a filter has values of several magnitudes")]


def constant(model: Any, values: np.ndarray) -> str:
    """Add an initializer to a model, and return its name."""
    name = model.make_new_valueinfo_name()
    model.set_initializer(name, values)
    return name


def is_padded(model: Any, node: Any) -> bool:
    """Return whether zeros are put around the output of a node, also behind max pools."""
    return any(
        reader.op_type == "Pad"
        or (reader.op_type == "Conv" and any(pad for a in reader.attribute if a.name == "pads" for pad in a.ints))
        or (reader.op_type == "MaxPool" and is_padded(model, reader))
        for reader in model.find_consumers(node.output[0])
    )


def replace(model: Any, old: list[Any], new: list[Any]) -> None:
    """Replace consecutive nodes of a model."""
    index = model.get_node_index(old[0])
    for node in old:
        model.graph.node.remove(node)
    for node in reversed(new):
        model.graph.node.insert(index, node)


def _remove_reshapes_to_the_same_shape(model: Any) -> None:
    """Remove reshapes that do nothing. tf2onnx has one behind an input of one channel, instead of a transpose."""
    for node in model.get_nodes_by_op_type("Reshape"):
        source, target = node.input[0], node.output[0]
        if model.get_tensor_shape(source) == model.get_tensor_shape(target):
            _remove(model, node)


def _remove_clips_before_signs(model: Any) -> None:
    """Remove min(x, c) with c ≥ 0 and max(x, c) with c < 0 if only signs read them, also through max pools."""
    for node in reversed(list(model.graph.node)):
        if node.op_type in ("Min", "Max") and _has_only_sign_readers(model, node):
            limit = model.get_initializer(node.input[1])
            if limit is not None and np.all(limit >= 0 if node.op_type == "Min" else limit < 0):
                _remove(model, node)


def _has_only_sign_readers(model: Any, node: Any) -> bool:
    readers = model.find_consumers(node.output[0])
    return bool(readers) and all(
        reader.op_type == "BipolarQuant" or (reader.op_type == "MaxPool" and _has_only_sign_readers(model, reader))
        for reader in readers
    )


def _remove(model: Any, node: Any) -> None:
    """Remove a node, and have its readers read its first input."""
    for reader in model.find_consumers(node.output[0]):
        reader.input[:] = [node.input[0] if name == node.output[0] else name for name in reader.input]
    model.graph.node.remove(node)


def _write_pads(model: Any) -> None:
    """Write the default padding of convolutions and pools, 0, because QONNX's passes require the attribute."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type in _PADDED and not {"pads", "auto_pad"} & {attribute.name for attribute in node.attribute}:
            node.attribute.append(helper.make_attribute("pads", [0, 0, 0, 0]))
