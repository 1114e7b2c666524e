"""The graph pass for OpenVINO, compared with float convolutions."""

import numpy as np
import openvino as ov
import pytest
import tensorflow as tf
from openvino import opset13 as ops

from bnn_keras.build import build_network, build_scheme
from bnn_keras.experiment import resolve
from bnn_keras.export import openvino as pass_
from bnn_keras.export.freeze import freeze
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.export.saved_graph import save_graph

SIZE = 9
RANDOM = np.random.default_rng(4)


def graph(weights, padding, stride, pad_value=None):
    """Return conv(sign(x), weights) · 0.5 + 0.25 as OpenVINO's converter writes it, in NCHW order."""
    x = ops.parameter([1, weights.shape[1], SIZE, SIZE], np.float32)
    signs = ops.sign(ops.add(ops.sign(x), np.full((1, 1, 1, 1), 0.1, np.float32)))
    if pad_value is not None:
        signs = ops.pad(signs, [0, 0, 1, 1], [0, 0, 1, 1], "constant", np.float32(pad_value))
    margins = [padding, padding]
    y = ops.convolution(signs, weights, [stride, stride], margins, margins, [1, 1])
    y = ops.add(ops.multiply(y, np.float32(0.5)), np.float32(0.25))
    return ov.Model([y], [x])


def kernel(filters, inputs, size, seed=0):
    random = np.random.default_rng(seed)
    scales = random.uniform(0.5, 1.5, (filters, 1, 1, 1)).astype(np.float32)
    return np.where(random.normal(size=(filters, inputs, size, size)) > 0, scales, -scales)


def outputs(model, images):
    return pass_.compiled_model(model, 1)(images)[0].copy()


def images(inputs):
    values = np.random.default_rng(1).normal(0, 1, (1, inputs, SIZE, SIZE)).astype(np.float32)
    values[..., 0] = 0.0
    values[..., 1] = -0.0
    return values


def binarized(model):
    """Apply the pass; return the number of binary convolutions."""
    nodes = [node for node in model.get_ordered_ops() if pass_.is_sign_convolution(node)]
    for node in nodes:
        pass_.binarize(node)
    model.validate_nodes_and_infer_types()
    return [node.get_type_name() for node in model.get_ordered_ops()].count("BinaryConvolution")


@pytest.mark.parametrize(
    ("filters", "inputs", "size"), [(16, 16, 3), (50, 20, 5), (32, 12, 2), (7, 8, 3), (64, 2, 3), (500, 80, 4)]
)
@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (1, 1), (1, 2)])
def test_equals_the_float_convolution(filters, inputs, size, padding, stride):
    """Input channels are padded to a multiple of 8; otherwise OpenVINO's results are wrong without a warning."""
    weights = kernel(filters, inputs, size)
    expected = outputs(graph(weights, padding, stride), images(inputs))
    model = graph(weights, padding, stride)
    assert binarized(model) == 1
    np.testing.assert_allclose(outputs(model, images(inputs)), expected, rtol=1e-5, atol=1e-3)


def test_equals_the_float_pointwise_convolution():
    weights = kernel(500, 804, 1)
    expected = outputs(graph(weights, 0, 1), images(804))
    model = graph(weights, 0, 1)
    assert binarized(model) == 1
    np.testing.assert_allclose(outputs(model, images(804)), expected, rtol=1e-5, atol=1e-3)


def test_padding_with_ones_is_moved_before_the_sign():
    weights = kernel(16, 16, 3)
    expected = outputs(graph(weights, 0, 1, pad_value=1), images(16))
    model = graph(weights, 0, 1, pad_value=1)
    assert binarized(model) == 1
    np.testing.assert_allclose(outputs(model, images(16)), expected, rtol=1e-5, atol=1e-3)


def three_valued():
    weights = kernel(16, 16, 3)
    weights[0, 0, 0, 0] *= 2
    return graph(weights, 0, 1)


def real_inputs():
    x = ops.parameter([1, 16, SIZE, SIZE], np.float32)
    return ov.Model([ops.convolution(x, kernel(16, 16, 3), [1, 1], [0, 0], [0, 0], [1, 1])], [x])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (three_valued, "a filter has values of several magnitudes"),
        (real_inputs, "its inputs are not signs"),
        (lambda: graph(kernel(16, 15, 3), 0, 1), "it has 15 input channels, an odd number"),
        (lambda: graph(kernel(16, 16, 3), 0, 1, pad_value=0), "its inputs are not signs"),
        (lambda: graph(kernel(16, 16, 1), 1, 1), "its padding of 1 is as wide as its kernel"),
    ],
)
def test_other_convolutions_stay_float(model, reason):
    model = model()
    assert binarized(model) == 0
    (convolution,) = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    assert pass_.obstacle(convolution) == reason


def test_a_binary_weight_takes_one_bit(tmp_path):
    model = graph(kernel(64, 64, 3), 1, 1)
    binarized(model)
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    assert (tmp_path / "model.bin").stat().st_size < 64 * 64 * 9 / 8 + 4 * 64 + 1024
    loaded = ov.Core().read_model(tmp_path / "model.xml")
    assert np.array_equal(outputs(loaded, images(64)), outputs(model, images(64)))


def dense(transposed):
    x = ops.parameter([1, 40], np.float32)
    weights = kernel(24, 40, 1)[:, :, 0, 0]
    return ov.Model([ops.matmul(x, weights if transposed else weights.T, False, transposed)], [x])


@pytest.mark.parametrize("model", [real_inputs, lambda: dense(True), lambda: dense(False)])
def test_kernels_of_layers_with_real_inputs_take_one_bit(model, tmp_path):
    """OpenVINO decodes them when it compiles the model, so that outputs are equal bit for bit."""
    model = model()
    shape, count = tuple(model.input().shape), sum(kernel.constant.get_data().size for kernel in pass_._kernels(model))
    values = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    expected = outputs(model, values)
    assert [pass_._store_in_bits(kernel) for kernel in pass_._kernels(model)] == [True]
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    assert (tmp_path / "model.bin").stat().st_size < count / 8 + 8 * 24 + 512
    loaded = pass_.compiled_model(ov.Core().read_model(tmp_path / "model.xml"), 1)
    assert np.array_equal(loaded(values)[0], expected)
    types = [node.get_rt_info()["layerType"].astype(str) for node in loaded.get_runtime_model().get_ordered_ops()]
    assert not {"Convert", "Eltwise", "Subgraph"} & set(types)


def test_other_kernels_are_not_stored_in_bits():
    (kernel,) = pass_._kernels(three_valued())
    assert not pass_._store_in_bits(kernel)


def test_signs_of_a_transposed_input():
    """OpenVINO crashes on them without the max pool of size 1 in between."""
    weights, random = kernel(16, 16, 3), np.random.default_rng(2)
    batch = random.normal(0, 1, (1, SIZE, SIZE, 16)).astype(np.float32)
    x = ops.parameter([1, SIZE, SIZE, 16], np.float32)
    signs = ops.sign(ops.add(ops.sign(ops.transpose(x, [0, 3, 1, 2])), np.full((1, 1, 1, 1), 0.1, np.float32)))
    model = ov.Model([ops.convolution(signs, weights, [1, 1], [1, 1], [1, 1], [1, 1])], [x])
    expected = outputs(model.clone(), batch)
    assert binarized(model) == 1
    np.testing.assert_allclose(outputs(model, batch), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
def test_signs_of_a_sum_with_no_other_user(tmp_path):
    """OpenVINO fuses them with the convolution before them, with wrong results, as in Bi-Real Net with 50 layers."""
    scheme = build_scheme(resolve("birealnet50").experiment)
    model = build_network("birealnet50", scheme, (64, 64, 3), 10, blocks=(1, 1), filters=(64, 128))
    image = randomize_weights(model)[:1]
    frozen = freeze(model, dense_as_convolutions=True)
    block = tf.keras.Model(frozen.input, frozen.get_layer("layers.0.add3").output)
    save_graph(block, tmp_path / "graph")
    pass_.write(str(tmp_path / "graph"), str(tmp_path / "model.xml"), 1)
    actual, expected = pass_.predictions(str(tmp_path / "model.xml"), "float32", 1, image), block(image).numpy()
    assert (np.abs(actual - expected) > 1e-3).mean() < 0.05


@pytest.mark.slow
def test_int8_leaves_sums_and_pools_around_binary_layers_float():
    """Their operands would be quantized, which takes longer than they do, and flips signs behind them."""
    model = graph(kernel(16, 16, 3), 1, 1)
    (x,), (y,) = model.get_parameters(), model.outputs
    pooled = ops.avg_pool(x, [1, 1], [1, 1], [1, 1], [3, 3], True)
    weights = RANDOM.normal(size=(16, 16, 1, 1)).astype(np.float32)
    shortcut = ops.convolution(pooled, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    total = ops.add(y.get_node().input_value(0), shortcut)
    model = ov.Model([ops.max_pool(total, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2])], [x])
    signs = [node.get_friendly_name() for node in model.get_ordered_ops() if pass_.is_sign_convolution(node)]
    quantized = pass_._with_int8(model, signs, images(16), 1)
    found = [node for node in quantized.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    assert [node.input_value(0).get_node().get_type_name() for node in found] == ["AvgPool"]
    assert len(signs) == 1


def test_an_inference_function_keeps_earlier_outputs_and_checks_the_batch():
    x = ops.parameter([2, 3], np.float32)
    infer = pass_.inference(pass_.compiled_model(ov.Model([ops.relu(x)], [x]), 1))
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    first = infer(ones)
    assert np.array_equal(infer(zeros), zeros)
    assert np.array_equal(first, ones)
    with pytest.raises(ValueError, match="cannot reshape"):
        infer(ones[:1])
