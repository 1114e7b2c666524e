"""Graph passes for OpenVINO that replace operations by fewer ones, compared bit for bit."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from bnn_keras.export.openvino import binarize, compiled_model, inference
from bnn_keras.export.openvino_fusing import fuse_clips, keep_scales, slice_maps

IMAGES = np.random.default_rng(1).normal(0, 1, (1, 6, 8, 4)).astype(np.float32)


def outputs(model):
    return inference(compiled_model(model, 1))(IMAGES)


def types(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def clip(smallest, largest, shape=(1, 1, 1, 1)):
    x = ops.parameter([1, 6, 8, 4], np.float32)
    least, most = np.full(shape, smallest, np.float32), np.full(shape, largest, np.float32)
    return ov.Model([ops.maximum(ops.minimum(ops.transpose(x, [0, 3, 1, 2]), most), least)], [x])


def test_a_clip_becomes_one_operation():
    model = clip(-1, 0.5)
    expected = outputs(model)
    fuse_clips(model)
    assert "Clamp" in types(model)
    assert "Minimum" not in types(model)
    assert np.array_equal(outputs(model), expected)


@pytest.mark.parametrize("model", [lambda: clip(1, -1), lambda: clip(-1, 1, (1, 4, 1, 1))])
def test_other_limits_stay(model):
    """A `Clamp` has one pair of limits, and OpenVINO refuses a lower one above the upper one."""
    model = model()
    fuse_clips(model)
    assert "Clamp" not in types(model)


def sliced(begin, steps, shrink=(0, 0, 0, 0)):
    """Return slices of a map with the channels last, as TensorFlow takes them, behind a transpose of OpenVINO's map."""
    x = ops.parameter([1, 6, 8, 4], np.float32)
    channels_last = ops.transpose(ops.relu(ops.transpose(x, [0, 3, 1, 2])), [0, 2, 3, 1])
    masks = [int(not value) for value in begin]
    y = ops.strided_slice(channels_last, list(begin), [0, 0, 0, 0], list(steps), masks, [1, 1, 1, 1], [], list(shrink))
    return ov.Model([y], [x])


@pytest.mark.parametrize(("begin", "steps"), [((0, 1, 1, 0), (1, 2, 2, 1)), ((0, 0, 3, 1), (1, 3, 1, 2))])
def test_slices_are_taken_of_the_map_itself(begin, steps):
    model = sliced(begin, steps)
    expected = outputs(model)
    slice_maps(model)
    model.validate_nodes_and_infer_types()
    (node,) = [node for node in model.get_ordered_ops() if node.get_type_name() == "StridedSlice"]
    assert node.input_value(0).get_node().get_type_name() == "Relu"
    assert np.array_equal(outputs(model), expected)


def test_slices_that_remove_an_axis_stay():
    model = sliced((0, 1, 1, 0), (1, 1, 1, 1), shrink=(0, 1, 0, 0))
    slice_maps(model)
    (node,) = [node for node in model.get_ordered_ops() if node.get_type_name() == "StridedSlice"]
    assert node.input_value(0).get_node().get_type_name() == "Transpose"


def test_scales_stay_in_front_of_sums():
    x = ops.parameter([1, 6, 8, 4], np.float32)
    y = ops.transpose(x, [0, 3, 1, 2]).output(0)
    scales = np.array([0.5, 1, 2, 4], np.float32).reshape(4, 1, 1, 1)
    weights = np.where(np.random.default_rng(2).normal(size=(4, 4, 3, 3)) < 0, -scales, scales)
    for _ in range(2):
        signs = ops.sign(ops.add(ops.sign(y), np.full((1, 1, 1, 1), 0.1, np.float32)))
        shifted = ops.add(ops.convolution(signs, weights, [1, 1], [1, 1], [1, 1], [1, 1]), scales.reshape(1, 4, 1, 1))
        y = ops.add(shifted, y).output(0)
    model = ov.Model([ops.relu(y)], [x])
    for node in [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]:
        binarize(node)
    expected = outputs(model)
    keep_scales(model)
    assert types(model).count("Clamp") == 2
    assert np.array_equal(outputs(model), expected)
