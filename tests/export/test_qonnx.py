"""The QONNX file: its operators and types, its outputs, and QONNX's own passes."""

import warnings

import numpy as np
import onnx
import pytest
import tensorflow as tf
from helpers import error_line
from onnx import helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.bipolar_to_xnor import ConvertBipolarMatMulToXnorPopcount
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model

from bnn_keras import export_model, schemes
from bnn_keras.errors import BnnError
from bnn_keras.export import open_export, qonnx
from bnn_keras.export.finn import for_finn
from bnn_keras.export.freeze import freeze
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.export.saved_graph import save_graph

layers = tf.keras.layers


def classifier():
    """A real convolution, a padded binary one behind a clip and a pooling, and a binary dense layer."""
    scheme = schemes.xnor()
    x = images = tf.keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.MaxPool2D(2)(tf.clip_by_value(x, -1, 1))
    x = layers.BatchNormalization()(scheme.conv2d(6, 3, padding="same")(x))
    return tf.keras.Model(images, scheme.dense(10, use_bias=False)(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network, images, and its QONNX file, written in this process."""
    folder, model = tmp_path_factory.mktemp("qonnx"), classifier()
    images = randomize_weights(model)
    save_graph(freeze(model), folder / "graph")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tf2onnx and QONNX
        float_kernels = qonnx.write(str(folder / "graph"), str(folder / "model.qonnx"), 1)
    assert [filters.shape for filters, _ in float_kernels] == [(8, 27)]
    return model, images, folder / "model.qonnx"


def executed(model, images):
    """Return the outputs of a model of batch size 1."""
    name = model.graph.input[0].name
    batches = [np.moveaxis(image[None], -1, 1) for image in images]
    return np.concatenate([next(iter(execute_onnx(model, {name: batch}).values())) for batch in batches])


@pytest.mark.slow
def test_operators_types_and_shapes(written):
    model = cleanup_model(ModelWrapper(str(written[2]))).transform(InferDataTypes())
    operators = [node.op_type for node in model.graph.node]
    assert set(operators) == {"BipolarQuant", "Conv", "Mul", "Add", "MaxPool", "Transpose", "Reshape", "MatMul"}
    assert operators.count("BipolarQuant") == 4
    assert model.check_all_tensor_shapes_specified()
    assert model.get_tensor_shape(model.graph.input[0].name) == [1, 3, 8, 8]
    for node in model.get_nodes_by_op_type("BipolarQuant"):
        assert model.get_tensor_datatype(node.output[0]) == DataType["BIPOLAR"]
    _, binary = model.get_nodes_by_op_type("Conv")
    (dense,) = model.get_nodes_by_op_type("MatMul")
    for layer in (binary, dense):
        assert [model.get_tensor_datatype(name).name for name in layer.input] == ["BIPOLAR", "BIPOLAR"]
        assert model.get_tensor_datatype(layer.output[0]) == DataType["INT32"]


@pytest.mark.slow
def test_executor_predicts_what_the_network_predicts(written):
    model, images, file = written
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(qonnx.predictions(str(file), images), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(executed(ModelWrapper(str(file)), images[:2]), expected[:2], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_form_for_finn_has_numbers_where_maps_are_padded(written):
    model, images, file = written
    form = for_finn(file).transform(InferDataTypes())
    _, binary = form.get_nodes_by_op_type("Conv")
    (dense,) = form.get_nodes_by_op_type("MatMul")
    types = [[form.get_tensor_datatype(name).name for name in layer.input] for layer in (binary, dense)]
    assert types == [["INT2", "BIPOLAR"], ["BIPOLAR", "BIPOLAR"]]
    np.testing.assert_allclose(executed(form, images[:2]), model(images[:2], training=False), rtol=1e-4, atol=1e-4)
    (number,) = form.get_nodes_by_op_type("MultiThreshold")
    x = np.resize(np.float32([-1e-30, -0.0, 0.0, 1e-30, -3, 3]), form.get_tensor_shape(number.input[0]))
    assert np.array_equal(executed_part(form, [number], x), np.where(x >= 0, 1, -1))


@pytest.mark.slow
def test_dense_layer_becomes_xnor_and_popcount(written):
    """FINN writes the sign of the inputs as a MultiThreshold first; QONNX's pass then converts the layer."""
    model = cleanup_model(ModelWrapper(str(written[2])), preserve_qnt_ops=True)
    (dense,) = model.get_nodes_by_op_type("MatMul")
    sign, kernel = model.find_producer(dense.input[0]), model.find_producer(dense.input[1])
    inputs = model.get_tensor_shape(sign.input[0])
    x = np.random.default_rng(0).normal(size=inputs).astype(np.float32)
    before = executed_part(model, [sign, kernel, dense], x)
    threshold = helper.make_node(
        *("MultiThreshold", [sign.input[0], "threshold"], [sign.output[0]]),
        **{"domain": qonnx.DOMAIN, "out_dtype": "BIPOLAR", "out_scale": 2.0, "out_bias": -1.0},
    )
    converted = part(model, [threshold, dense], {"threshold": np.zeros((1, 1), np.float32)})
    converted.set_initializer(dense.input[1], model.get_initializer(kernel.input[0]))
    converted.set_tensor_datatype(dense.input[1], DataType["BIPOLAR"])
    converted = converted.transform(InferShapes()).transform(InferDataTypes())
    converted = converted.transform(ConvertBipolarMatMulToXnorPopcount())
    assert "XnorPopcountMatMul" in [node.op_type for node in converted.graph.node]
    assert np.array_equal(next(iter(execute_onnx(converted, {sign.input[0]: x}).values())), before)


def part(model, nodes, initializers=()):
    """Return the model of some nodes, from the first input of the first node to the output of the last."""
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, model.get_tensor_shape(name))
        for name in (nodes[0].input[0], nodes[-1].output[0])
    ]
    opsets = [helper.make_opsetid("", qonnx.OPSET), helper.make_opsetid(qonnx.DOMAIN, 1)]
    graph = helper.make_graph(nodes, "part", values[:1], values[1:])
    result = ModelWrapper(helper.make_model(graph, opset_imports=opsets))
    for name in {name for node in nodes for name in node.input}:
        if model.get_initializer(name) is not None:
            result.set_initializer(name, model.get_initializer(name))
    for name, array in dict(initializers).items():
        result.set_initializer(name, array)
    return result


def executed_part(model, nodes, x):
    return next(iter(execute_onnx(part(model, nodes).transform(InferShapes()), {nodes[0].input[0]: x}).values()))


@pytest.mark.slow
def test_operators_of_other_domains_are_refused(written, tmp_path):
    """QONNX imports the module that is named like the domain."""
    model = onnx.load(written[2])
    model.graph.node[0].domain = "os"
    onnx.save(model, tmp_path / "model.qonnx")
    with pytest.raises(ValueError, match="unknown domain of operators 'os'"):
        qonnx.batch_size_of(str(tmp_path / "model.qonnx"))


@pytest.mark.slow
def test_export_opens_and_cannot_be_benchmarked(tmp_path):
    model = classifier()
    images, file = randomize_weights(model), tmp_path / "model.qonnx"
    sidecar = export_model(model, "qonnx", file, verify_on=images, batch_size=4)
    assert (sidecar["format"], sidecar["batch_size"], sidecar["agreement"]) == ("qonnx", 4, 100)
    assert set(sidecar["float_layers"].values()) == {"QONNX's executor computes in float"}
    exported = open_export(file)
    np.testing.assert_allclose(exported.logits(images), model(images, training=False), rtol=1e-4, atol=1e-4)
    with pytest.raises(BnnError, match="has a batch size of 4, got 8; export again with --batch-size 8"):
        open_export(file, batch_size=8)
    assert "is a file of format 'qonnx', which no engine here runs for speed" in error_line("benchmark", file)
