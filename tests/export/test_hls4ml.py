"""The form for hls4ml has the outputs of its file, and so has the C++ that hls4ml writes."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import small_network
from qonnx.core.onnx_exec import execute_onnx

from bnn_keras import build_model, resolve, schemes
from bnn_keras.export import qonnx
from bnn_keras.export.hls4ml import for_hls4ml
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights


def lenet5():
    return build_model(resolve("lenet5").experiment)


def vgg():
    return small_network("binarynet", schemes.binarynet(), input_shape=(16, 16, 3))


def converted(network, folder):
    """Return a network with random weights, also negative scales of batch norms, and its form for hls4ml."""
    tf.keras.utils.set_random_seed(0)
    model = network()
    randomize_weights(model)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization) and layer.scale:
            layer.gamma.assign(layer.gamma * np.where(np.arange(layer.gamma.shape[0]) % 3, 1, -1))
    qonnx.convert(ExportJob(model, None, []), folder / "model.qonnx")
    return model, for_hls4ml(folder / "model.qonnx")


def random_images(model, count):
    return np.random.default_rng(0).normal(0, 1, (count, *model.input_shape[1:])).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "signs"), [(lenet5, {"BipolarQuant": 4, "Quant": 0}), (vgg, {})])
def test_form_has_the_same_outputs(network, signs, tmp_path):
    model, form = converted(network, tmp_path)
    operators = [node.op_type for node in form.graph.node]
    known = {"BipolarQuant", "Quant", "Conv", "BatchNormalization", "Relu", "MaxPool", "Transpose", "Reshape", "MatMul"}
    assert set(operators) <= known
    assert {name: operators.count(name) for name in signs} == signs
    assert form.get_tensor_shape(form.graph.input[0].name) == [1, *model.input_shape[1:]]
    images, name = random_images(model, 3), form.graph.input[0].name
    actual = np.concatenate([next(iter(execute_onnx(form, {name: image[None]}).values())) for image in images])
    np.testing.assert_allclose(actual, model(images, training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("network", [lenet5, vgg])
def test_simulation_agrees(network, tmp_path):
    """hls4ml writes C++ with fixed-point numbers, whose rounding can flip a sign, and g++ compiles it."""
    hls4ml = pytest.importorskip("hls4ml")
    model, form = converted(network, tmp_path)
    options = {"backend": "Vitis", "default_precision": "ap_fixed<32,16>"}
    config = hls4ml.utils.config_from_onnx_model(form, granularity="name", **options)
    project = hls4ml.converters.convert_from_onnx_model(
        form, output_dir=str(tmp_path / "project"), backend="Vitis", io_type="io_parallel", hls_config=config
    )
    project.compile()
    images = random_images(model, 100)
    expected, actual = model(images, training=False).numpy(), project.predict(images)
    assert (expected.argmax(-1) == actual.argmax(-1)).mean() >= 0.98
    assert np.median(np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)) < 0.01
