"""Kernels of ONNX files in one bit per weight, compared with float kernels."""

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnn_keras.export import onnx as onnx_format


def kernel(shape, axis, seed=0):
    """Return ±α with one α per filter."""
    random = np.random.default_rng(seed)
    scales = random.uniform(0.5, 1.5, [size if index == axis else 1 for index, size in enumerate(shape)])
    return np.where(random.normal(size=shape) > 0, scales, -scales).astype(np.float32)


def model(operator, shape, weights):
    """Return a layer as tf2onnx writes it, behind an identity."""
    nodes = [
        helper.make_node("Identity", ["images:0"], ["net/layer/identity:0"], name="net/layer/identity"),
        helper.make_node(operator, ["net/layer/identity:0", "net/layer/kernel:0"], ["outputs"], name="net/layer/apply"),
    ]
    inputs = [helper.make_tensor_value_info("images:0", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [None] * len(shape))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weights, "net/layer/kernel:0")])
    opset = helper.make_opsetid("", onnx_format.OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def run(model, images, file=""):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images:0": images})[0]


@pytest.mark.parametrize(
    ("operator", "shape", "weights"),
    [
        ("Conv", (1, 16, 9, 9), kernel((24, 16, 3, 3), 0)),
        ("Conv", (1, 3, 9, 9), kernel((7, 3, 3, 3), 0)),  # 189 bits
        ("MatMul", (2, 40), kernel((40, 24), 1)),
        ("MatMul", (2, 40), np.sign(kernel((40, 24), 1))),
    ],
)
def test_kernels_take_one_bit_and_outputs_are_equal(operator, shape, weights, tmp_path):
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    layer = model(operator, shape, weights)
    expected = run(layer, images)
    assert onnx_format._store_in_bits(layer.graph) == []
    onnx.checker.check_model(layer)
    constants = sum(numpy_helper.to_array(tensor).nbytes for tensor in layer.graph.initializer)
    assert constants <= weights.size / 8 + 1 + 4 * weights.shape[-1 if operator == "MatMul" else 0] + 256 * 8 + 7 * 8
    assert np.array_equal(run(layer, images, tmp_path / "optimized.onnx"), expected)
    loaded = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert loaded == [operator]  # ONNX Runtime has computed the kernel
    onnx.save(layer, tmp_path / "layer.onnx")
    other = ov.Core().compile_model(tmp_path / "layer.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(other(images)[0], expected, rtol=1e-4, atol=1e-4)


def test_other_kernels_stay_float():
    weights = kernel((24, 16, 3, 3), 0)
    weights[0, 0, 0, 0] *= 2
    (other,) = onnx_format._store_in_bits(model("Conv", (1, 16, 9, 9), weights).graph)
    assert np.array_equal(other, weights.transpose(0, 2, 3, 1))


def test_names_are_short():
    layer = model("MatMul", (2, 40), kernel((40, 24), 1))
    images = np.ones((2, 40), np.float32)
    expected = run(layer, images)
    onnx_format._shorten_names(layer.graph)
    assert [(node.name, *node.input, *node.output) for node in layer.graph.node] == [
        ("identity", "images:0", "1"),
        ("apply", "1", "0", "outputs"),
    ]
    assert np.array_equal(run(layer, images), expected)
