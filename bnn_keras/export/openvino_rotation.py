"""A graph pass for OpenVINO: networks that rotate their images by 180° compute the same without the rotation.

Imported networks rotate their images, because Keras pads below and on the right (docs/architecture.md). OpenVINO can
pad on any side: a convolution of a rotated map is the rotation of a convolution with the rotated kernel and exchanged
padding. The rotation moves through the graph in this way, until a mean over the map makes it vanish. In front of an
operation without such a rule it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import Constant

Axes = tuple[int, ...]

_ELEMENTWISE = (
    *("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Power", "SquaredDifference"),
    *("Relu", "PRelu", "Clamp", "Elu", "Gelu", "Sigmoid", "Tanh", "Swish", "HSwish", "HSigmoid"),
    *("Sign", "Abs", "Negative", "Sqrt", "Exp", "Floor", "Convert"),
)


def fold_rotation(model: ov.Model) -> ov.Model:
    """Return a model in which the rotation of the images is moved through the graph, if less is rotated then.

    Args:
        model: A model with static shapes.
    """
    moved = model.clone()
    _move_rotation(moved)
    return moved if _rotated_values(moved) < _rotated_values(model) else model


def _rotated_values(model: ov.Model) -> int:
    """Return how many values a model reverses."""
    return sum(int(np.prod(node.get_output_shape(0))) for node in model.get_ordered_ops() if _reversed_axes(node))


def _move_rotation(model: ov.Model) -> None:
    """Move the rotation of the images through a graph as far as possible."""
    rotated: dict[str, Axes] = {}  # axes along which the outputs of nodes are reversed now, and were not before
    for node in model.get_ordered_ops():
        source = node.input_value(0) if node.get_input_size() else None
        if source and source.get_node().get_type_name() == "Parameter" and (axes := _reversed_axes(node)):
            rotated[source.get_node().get_friendly_name()] = axes
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(source)
            continue
        inputs = [rotated.get(value.get_node().get_friendly_name(), ()) for value in node.input_values()]
        axes = next(filter(None, inputs), ())
        if not axes:
            continue
        rule = _RULES.get(node.get_type_name())
        further = any(output.get_target_inputs() for output in node.outputs()[1:])
        moved = rule(node, inputs, axes) if rule and not further else None
        if moved is None:
            _rotate_inputs(node, inputs)
        else:
            rotated[node.get_friendly_name()] = moved
    model.validate_nodes_and_infer_types()


def _reversed_axes(node: ov.Node) -> Axes:
    """Return the axes along which a node reverses its input; none if it does something else."""
    if node.get_type_name() != "StridedSlice":
        return ()
    strides = _constant(node, 3)
    same = list(node.get_output_shape(0)) == list(node.get_input_shape(0))
    if strides is None or not same or not set(strides.tolist()) <= {1, -1}:
        return ()
    return tuple(np.flatnonzero(strides == -1).tolist())


def _rotate_inputs(node: ov.Node, inputs: Sequence[Axes]) -> None:
    """Reverse the inputs of a node along their axes, so that it computes what it did before."""
    for index, axes in enumerate(inputs):
        if axes:
            value = node.input_value(index)
            strides = np.ones(len(value.get_shape()), np.int64)
            strides[list(axes)] = -1
            zeros, masks = np.zeros_like(strides), [1] * len(strides)
            node.input(index).replace_source_output(
                ops.strided_slice(value, zeros, zeros, strides, masks, masks).output(0)
            )


def _constant(node: ov.Node, index: int) -> np.ndarray | None:
    source = node.input_value(index).get_node() if node.get_input_size() > index else None
    return source.get_data() if isinstance(source, Constant) else None


def _set_constant(node: ov.Node, index: int, values: np.ndarray) -> None:
    node.input(index).replace_source_output(ops.constant(np.ascontiguousarray(values)).output(0))


# A rule takes a node, the axes along which each of its inputs is reversed, and those of the first that is. It changes
# the node and returns the axes along which its output is reversed, or None if it cannot.


def _elementwise(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    rank = len(node.get_output_shape(0))
    for value, reversed_axes in zip(node.input_values(), inputs, strict=True):
        shape = (1,) * (rank - len(value.get_shape())) + tuple(value.get_shape())
        if reversed_axes != axes and any(shape[axis] != 1 for axis in axes):
            return None
    return axes


def _transpose(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    order = _constant(node, 1)
    return None if order is None else tuple(index for index, axis in enumerate(order.tolist()) if axis in axes)


def _convolution(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    kernel = _constant(node, 1)
    if kernel is None or axes != (2, 3) or not _move_windows(node, kernel.shape[-2:]):
        return None
    _set_constant(node, 1, kernel[..., ::-1, ::-1])
    return axes


def _pool(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    attributes = node.get_attributes()
    if axes != (2, 3) or attributes["rounding_type"] != "floor":
        return None
    return axes if _move_windows(node, attributes["kernel"]) else None


def _move_windows(node: ov.Node, kernel: Sequence[int]) -> bool:
    """Exchange the padding of a convolution or pool, so that its windows cover the same pixels of a reversed map.

    Returns:
        Whether there is such a padding. The last pixels of a map, which no window covers, are its first ones then.
    """
    attributes = node.get_attributes()
    begins = []
    for axis in (0, 1):
        size, outputs = node.get_input_shape(0)[2 + axis], node.get_output_shape(0)[2 + axis]
        extent = attributes.get("dilations", (1, 1))[axis] * (kernel[axis] - 1) + 1
        covered = (outputs - 1) * attributes["strides"][axis] + extent
        padded = size + attributes["pads_begin"][axis] + attributes["pads_end"][axis]
        begins.append(attributes["pads_end"][axis] - (padded - covered))
    if min(begins) < 0:
        return False
    ends = list(attributes["pads_begin"])
    for key, value in (("auto_pad", "explicit"), ("pads_begin", begins), ("pads_end", ends)):
        node.set_attribute(key, value)
    return True


def _pad(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    begins, ends = _constant(node, 1), _constant(node, 2)
    if begins is None or ends is None:
        return None
    exchanged = np.isin(np.arange(len(begins)), axes)
    _set_constant(node, 1, np.where(exchanged, ends, begins))
    _set_constant(node, 2, np.where(exchanged, begins, ends))
    return axes


def _subsample(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    begins, strides = _constant(node, 1), _constant(node, 3)
    before, after = np.array(node.get_input_shape(0)), np.array(node.get_output_shape(0))
    if begins is None or strides is None or len(begins) != len(before) or len(after) != len(before):
        return None
    if (strides < 1).any() or (begins < 0).any() or (before != after)[~np.isin(np.arange(len(before)), axes)].any():
        return None
    masked = np.array([*node.get_attributes()["begin_mask"], *[0] * len(begins)][: len(begins)], bool)
    last = np.where(masked, 0, begins) + (after - 1) * strides
    moved = np.where(np.isin(np.arange(len(before)), axes), before - 1 - last, 0)
    _set_constant(node, 1, moved)
    _set_constant(node, 2, moved + (after - 1) * strides + 1)
    for key in ("begin_mask", "end_mask"):
        node.set_attribute(key, [0] * len(before))
    return axes


def _reduce(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    reduced = _constant(node, 1)
    return () if reduced is not None and set(axes) <= set(reduced.ravel().tolist()) else None


def _concat(node: ov.Node, inputs: Sequence[Axes], axes: Axes) -> Axes | None:
    rank = len(node.get_output_shape(0))
    return axes if set(inputs) == {axes} and node.get_attributes()["axis"] % rank not in axes else None


_RULES: dict[str, Callable[[ov.Node, Sequence[Axes], Axes], Axes | None]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "Transpose": _transpose,
    **dict.fromkeys(("Convolution", "GroupConvolution"), _convolution),
    **dict.fromkeys(("MaxPool", "AvgPool"), _pool),
    "Pad": _pad,
    "StridedSlice": _subsample,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"), _reduce),
    "Concat": _concat,
}
