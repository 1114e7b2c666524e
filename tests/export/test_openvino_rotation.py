"""The pass that moves the rotation of the images through a graph for OpenVINO."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from bnn_keras.export.openvino import compiled_model
from bnn_keras.export.openvino_rotation import fold_rotation

RANDOM = np.random.default_rng(0)


def floats(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def reverse(x):
    """Return the rotation as OpenVINO's converter writes it."""
    return ops.strided_slice(x, [0] * 4, [0] * 4, [1, -1, -1, 1], [1] * 4, [1] * 4)


def convolution(x, kernel, stride=1, mode="same_upper", margins=(0, 0)):
    return ops.convolution(x, kernel, [stride] * 2, [margins[0]] * 2, [margins[1]] * 2, [1, 1], mode)


def subsample(x):
    return ops.strided_slice(x, [0, 0, 1, 1], [0] * 4, [1, 1, 2, 2], [1, 1, 0, 0], [1] * 4)


# Functions from a map (1, 4, 10, 8) to another, and how many rotations are left.
LAYERS = {
    "convolution with stride 2": (lambda x: convolution(x, floats(3, 4, 3, 3), 2), 0),
    "convolution with explicit padding": (lambda x: convolution(x, floats(3, 4, 3, 3), 1, "explicit", (0, 1)), 0),
    "windows that leave a column out": (lambda x: convolution(x, floats(3, 4, 1, 1), 2, "valid"), 1),
    "dilated": (lambda x: ops.convolution(x, floats(3, 4, 3, 2), [1, 1], [0, 0], [1, 0], [2, 3]), 0),
    "max pool": (lambda x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [1, 1], [3, 3]).output(0), 0),
    "average pool": (lambda x: ops.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], True), 0),
    "shortcut": (lambda x: ops.add(convolution(x, floats(4, 4, 3, 3), 2), subsample(x)), 0),
    "padding": (lambda x: ops.pad(x, [0, 0, 1, 0], [0, 2, 0, 2], "constant", np.float32(1)), 0),
    "elementwise": (lambda x: ops.multiply(ops.relu(x), floats(1, 4, 1, 1)), 0),
    "a map of weights": (lambda x: ops.add(x, floats(1, 4, 10, 8)), 1),
    "concatenation": (lambda x: ops.concat([x, ops.negative(x)], 1), 0),
}


def outputs(model, images):
    return compiled_model(model, 1)(images)[0].copy()


def rotations(model):
    return sum(
        node.get_type_name() == "StridedSlice" and (node.input_value(3).get_node().get_data() < 0).any()
        for node in model.get_ordered_ops()
    )


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_the_rotated_images(name):
    layer, _ = LAYERS[name]
    x = ops.parameter([1, 10, 8, 4], np.float32)
    y = layer(ops.transpose(reverse(x), [0, 3, 1, 2]))
    weights = floats(1, *list(y.output(0).shape if hasattr(y, "output") else y.get_shape())[1:])
    model = ov.Model([ops.reduce_mean(y, [2, 3]), ops.reduce_sum(ops.multiply(y, weights), [1, 2, 3])], [x])
    images = floats(1, 10, 8, 4)
    compiled = compiled_model(model, 1)(images)
    expected = [compiled[index].copy() for index in (0, 1)]
    model = fold_rotation(model)
    actual = compiled_model(model, 1)(images)
    for index in (0, 1):
        np.testing.assert_allclose(actual[index], expected[index], rtol=1e-4, atol=1e-4)
    assert rotations(model) == 1  # in front of the product, or of the layer


@pytest.mark.parametrize("name", LAYERS)
def test_a_mean_over_the_map_needs_no_rotation(name):
    layer, left = LAYERS[name]
    x = ops.parameter([1, 10, 8, 4], np.float32)
    model = ov.Model([ops.reduce_mean(layer(ops.transpose(reverse(x), [0, 3, 1, 2])), [2, 3])], [x])
    images = floats(1, 10, 8, 4)
    expected = outputs(model, images)
    model = fold_rotation(model)
    assert rotations(model) == left
    np.testing.assert_allclose(outputs(model, images), expected, rtol=1e-4, atol=1e-4)


def test_a_flattened_map_is_rotated_itself():
    x = ops.parameter([1, 10, 8, 4], np.float32)
    y = ops.transpose(convolution(ops.transpose(reverse(x), [0, 3, 1, 2]), floats(3, 4, 3, 3), 2), [0, 2, 3, 1])
    model = ov.Model([ops.reshape(y, [1, -1], False)], [x])
    images = floats(1, 10, 8, 4)
    expected = outputs(model, images)
    model = fold_rotation(model)
    (rotation,) = [node for node in model.get_ordered_ops() if node.get_type_name() == "StridedSlice"]
    assert list(rotation.get_output_shape(0)) == [1, 5, 4, 3]
    np.testing.assert_allclose(outputs(model, images), expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_rotation_stays_as_it_is():
    x = ops.parameter([1, 4, 10, 8], np.float32)
    model = ov.Model([subsample(x)], [x])
    before = [node.get_friendly_name() for node in model.get_ordered_ops()]
    model = fold_rotation(model)
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == before
