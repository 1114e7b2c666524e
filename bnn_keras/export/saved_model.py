"""TensorFlow's SavedModel, for TensorFlow Serving. Kernels of binary layers are stored as bits and computed in float.

The folder has one graph of constants, as in TensorFlow 1, which every loader reads. TensorFlow 2 would write several
copies of the graph and the names of all objects, which take more bytes than a small binary network. TensorFlow does not
fold large constants, so kernels are variables that are never saved: loaders initialize them, which decodes the bits.
"""

from __future__ import annotations

import graphlib
import posixpath
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.variable_pb2 import VariableDef
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from bnn_keras.errors import BnnError
from bnn_keras.export.constants import FloatLayers, find_float_layers, scales_of
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor, with_keras
from bnn_keras.export.saved_graph import INPUT, OUTPUT
from bnn_keras.export.threads import limit_threads

v1 = tf.compat.v1
_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_IDENTITIES = ("Identity", "IdentityN")


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write a folder whose signature `serving_default` maps `images` to `outputs`.

    Returns:
        The binary layers whose kernels are float; all of them are computed in float.

    Raises:
        OSError: The folder cannot be written.
    """
    constants, output = _constant_graph(job.graph)
    with tf.Graph().as_default() as graph:
        kernels, others = _decoded_kernels(constants)
        rest = [node for node in constants.node if node.name not in kernels]
        rest_graph = v1.GraphDef(node=rest, library=constants.library, versions=constants.versions)
        images, outputs = tf.import_graph_def(rest_graph, kernels, [f"{INPUT}:0", output], name="")
        v1.add_to_collection(v1.saved_model.constants.MAIN_OP_KEY, v1.local_variables_initializer())
        meta_graph = v1.train.export_meta_graph(graph=graph, strip_default_attrs=True)
    for node in meta_graph.graph_def.node:
        node.attr.pop("_output_shapes", None)
    meta_graph.meta_info_def.tags.append(tf.saved_model.SERVING)
    meta_graph.signature_def[_SIGNATURE].CopyFrom(
        SignatureDef(
            inputs={INPUT: _info(images)},
            outputs={OUTPUT: _info(outputs)},
            method_name=tf.saved_model.PREDICT_METHOD_NAME,
        )
    )
    content = SavedModel(saved_model_schema_version=tf.saved_model.SAVED_MODEL_SCHEMA_VERSION, meta_graphs=[meta_graph])
    file.mkdir()
    (file / tf.saved_model.SAVED_MODEL_FILENAME_PB).write_bytes(content.SerializeToString(deterministic=True))
    stored = [(np.moveaxis(values, -1, 0), "a filter has values of several magnitudes") for values in others]
    computed = dict.fromkeys(job.kernels, "TensorFlow has no binary layers")
    return FloatLayers(find_float_layers(job.kernels, stored), computed)


def _info(tensor: tf.Tensor) -> TensorInfo:
    return TensorInfo(name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto())


def _constant_graph(folder: Path) -> tuple[Any, str]:
    """Return the graph of a SavedModel with constants in place of variables, and the name of its output.

    Identities and copies of nodes are left out, and names are short: they would take more bytes than the weights of a
    small binary network.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(folder))
    frozen = convert_variables_to_constants_v2(loaded.signatures[_SIGNATURE], lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    nodes = {node.name: node for node in graph.node if node.op != "NoOp"}
    inputs = {name: [_value(text) for text in node.input if text[0] != "^"] for name, node in nodes.items()}
    layers = [name for name, node in nodes.items() if node.op not in ("Const", "Placeholder", *_IDENTITIES)]
    prefix = posixpath.commonpath(layers or [""]) + "/"
    values: dict[tuple[str, int], str] = {}  # new names of identities
    names: dict[str, str] = {}  # new names of other nodes
    used: dict[bytes, Any] = {}  # the other nodes, by their content

    def renamed(value: tuple[str, int]) -> str:
        return values.get(value) or f"{names[value[0]]}:{value[1]}"

    for name in graphlib.TopologicalSorter({key: [other for other, _ in inputs[key]] for key in inputs}).static_order():
        node, new_inputs = nodes[name], [renamed(value) for value in inputs[name]]
        if node.op in _IDENTITIES:
            values.update({(name, index): value for index, value in enumerate(new_inputs)})
            continue
        attributes = {key: value for key, value in node.attr.items() if not key.startswith("_")}
        if node.op == "Const":
            attributes["value"].tensor.CopyFrom(_compressed(attributes["value"].tensor))
        key = v1.NodeDef(op=node.op, input=new_inputs, attr=attributes).SerializeToString(deterministic=True)
        if key not in used:
            layer = name.removeprefix(prefix).partition("/")[0]
            short = {"Placeholder": INPUT, "Const": str(len(used))}.get(node.op, f"{layer}.{len(used)}")
            used[key] = v1.NodeDef(name=short, op=node.op, input=new_inputs, attr=attributes)
        names[name] = used[key].name
    constants = v1.GraphDef(node=used.values(), library=graph.library, versions=graph.versions)
    return constants, renamed(_value(frozen.outputs[0].name))


def _value(text: str) -> tuple[str, int]:
    """Return the node of a value, and the value's number among the outputs of the node."""
    name, _, number = text.partition(":")
    return name, int(number or 0)


def _compressed(tensor: Any) -> Any:
    """Return a constant, as one value if all of its values are equal."""
    values = tf.make_ndarray(tensor)
    if values.size < 2 or values.tobytes() != values.ravel()[:1].tobytes() * values.size:
        return tensor
    return tf.make_tensor_proto(values.flat[0], values.dtype, values.shape)


def _decoded_kernels(constants: Any) -> tuple[dict[str, tf.Tensor], list[np.ndarray]]:
    """Add variables to the current graph whose initial values are the kernels ±α of a graph, decoded from bits.

    Returns:
        The values of the variables, by the names of the constants that they replace; and the other kernels, (…, inputs,
        filters).
    """
    names = {_value(node.input[1])[0] for node in constants.node if node.op in ("Conv2D", "MatMul")}
    found = {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in constants.node
        if node.op == "Const" and node.name in names
    }
    scales = {name: scales_of(values, values.ndim - 1) for name, values in found.items()}
    others = [found[name] for name, alpha in scales.items() if alpha is None]
    kernels = {name: values for name, values in found.items() if scales[name] is not None}
    variables = {}
    for (name, values), signs in zip(kernels.items(), _signs(list(kernels.values())), strict=False):
        kernel = tf.reshape(signs, values.shape, name=f"{name}r")
        if np.any(scales[name] != 1):
            kernel = tf.multiply(kernel, scales[name], name=f"{name}m")
        variables[name] = _variable(kernel, name)
    return variables, others


def _signs(kernels: list[np.ndarray]) -> list[tf.Tensor]:
    """Return the signs of each kernel as a vector, and a last vector for unused bits. All are decoded together."""
    if not kernels:
        return []
    negative = np.concatenate([np.signbit(values).ravel() for values in kernels])
    sizes = [*(values.size for values in kernels), -len(negative) % 8]
    table = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int8)
    signs = tf.gather(tf.cast(table, tf.float32), tf.cast(np.packbits(negative), tf.int32))
    return tf.split(tf.reshape(signs, [-1]), sizes)


def _variable(initial: tf.Tensor, name: str) -> tf.Tensor:
    """Return the value of a local variable, which loaders initialize and do not restore.

    It has the three operators that it needs; TensorFlow's own constructor adds more.
    """
    handle = tf.raw_ops.VarHandleOp(dtype=initial.dtype, shape=initial.shape, shared_name=name, name=f"{name}v")
    assign = tf.raw_ops.AssignVariableOp(resource=handle, value=initial, name=f"{name}a")
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=initial.dtype, name=name)
    definition = VariableDef(
        variable_name=handle.name, initializer_name=assign.name, snapshot_name=value.name, is_resource=True
    )
    v1.add_to_collection(v1.GraphKeys.LOCAL_VARIABLES, ResourceVariable.from_proto(definition))
    return value


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a folder with TensorFlow.

    Raises:
        BnnError: The folder is not a SavedModel.
    """
    limit_threads(threads)
    try:
        loaded = tf.saved_model.load(str(file))
        signature = loaded.signatures[_SIGNATURE]
    except (OSError, KeyError, ValueError) as error:
        raise BnnError(f"cannot read {str(file)!r} as a SavedModel ({error}); export again") from error
    signature.owner = loaded  # keeps the variables alive
    return with_keras(lambda images: signature(images=images)[OUTPUT])
