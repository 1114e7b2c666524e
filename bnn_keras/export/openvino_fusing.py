"""Graph passes for OpenVINO: the same values with fewer operations. Each operation takes about 1 µs on a small map."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import Constant


def fuse_clips(model: ov.Model) -> None:
    """Replace max(min(x, b), a), which TensorFlow's clip becomes, by one `Clamp`.

    OpenVINO computes a `Clamp` together with the convolution and the sum in front of it.
    """
    for node in model.get_ordered_ops():
        inner = node.input_value(0).get_node() if node.get_type_name() == "Maximum" else None
        if inner is None or inner.get_type_name() != "Minimum" or len(inner.output(0).get_target_inputs()) > 1:
            continue
        smallest, largest = _scalar(node.input_value(1)), _scalar(inner.input_value(1))
        if smallest is not None and largest is not None and smallest <= largest:
            _replace(node, ops.clamp(inner.input_value(0), smallest, largest))


def slice_maps(model: ov.Model) -> None:
    """Take slices of maps in OpenVINO's order of axes, (batch, channels, height, width).

    TensorFlow's graph takes them with the channels last: OpenVINO would transpose the whole map in front of the slice.
    """
    for node in model.get_ordered_ops():
        transposed = node.input_value(0).get_node() if node.get_type_name() == "StridedSlice" else None
        if transposed is None or transposed.get_type_name() != "Transpose" or _changes_axes(node):
            continue
        order = transposed.input_value(1).get_node()
        bounds = [node.input_value(index).get_node() for index in range(1, node.get_input_size())]
        rank = len(node.get_input_shape(0))
        if not all(isinstance(value, Constant) for value in (order, *bounds)) or len(bounds) != 3:
            continue
        if any(value.get_data().shape != (rank,) for value in bounds):
            continue
        back = np.argsort(order.get_data())
        masks = [node.get_attributes()[key] for key in ("begin_mask", "end_mask")]
        begin, end, step = (value.get_data()[back] for value in bounds)
        begin_mask, end_mask = ([*mask, *[0] * rank][:rank] for mask in masks)
        sliced = ops.strided_slice(
            transposed.input_value(0), begin, end, step, np.take(begin_mask, back), np.take(end_mask, back)
        )
        _replace(node, ops.transpose(sliced, order.get_data()))


def keep_scales(model: ov.Model) -> None:
    """Keep the scales of binary convolutions in front of the sums with their shortcuts, in a model with int8 layers.

    OpenVINO takes a scale in front of a sum for the scale of an int8 layer. It moves it through the sum, and leaves a
    multiplication by 1 of the whole map in every second block. It does not move scales through a `Clamp`, which it
    computes together with the convolution; this one has no effect, its limits are those of float32.
    """
    largest = float(np.finfo(np.float32).max)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add" or _constants(node):
            continue
        for operand in node.inputs():
            value = operand.get_source_output()
            shifted = value.get_node()
            if shifted.get_type_name() == "Add" and _constants(shifted) and _is_scaled(shifted):
                operand.replace_source_output(ops.clamp(value, -largest, largest).output(0))


def _is_scaled(shifted: ov.Node) -> bool:
    """Return whether a constant is added to a binary convolution times a constant."""
    scaled = [value.get_node() for value in shifted.input_values() if value.get_node().get_type_name() == "Multiply"]
    return any(
        value.get_node().get_type_name() == "BinaryConvolution" for node in scaled for value in node.input_values()
    )


def _constants(node: ov.Node) -> bool:
    return any(isinstance(value.get_node(), Constant) for value in node.input_values())


def _changes_axes(node: ov.Node) -> bool:
    """Return whether a slice adds or removes axes."""
    return any(any(node.get_attributes()[key]) for key in ("new_axis_mask", "shrink_axis_mask", "ellipsis_mask"))


def _scalar(value: ov.Output) -> float | None:
    constant = value.get_node()
    if not isinstance(constant, Constant) or constant.get_data().size != 1:
        return None
    return float(constant.get_data().ravel()[0])


def _replace(node: ov.Node, replacement: ov.Node) -> None:
    replacement.set_friendly_name(node.get_friendly_name())
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(replacement.output(0))
