"""Names and layouts: one tensor of ours as the reference stores it, and the other way."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.constraints import apply_constraints
from bnn_keras.errors import BnnError
from bnn_keras.layers import Rotate180

_NAMES = {
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_KERAS_NAME = re.compile(r"((quant_)?(conv2d|dense)|batch_normalization)(_\d+)?")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One variable of a model and the reference's tensor that it stands for.

    Attributes:
        name: The reference's name.
        variable: Ours (the latent weights, where it is quantized).
        keras: Whether the reference is written in Keras: its layout is ours.
        turned: Whether the reference is our network turned by 180°.
        flat: Whether it is stored as a column.
        flattened: (height, width, channels) of the map whose flattened form this tensor meets; Keras flattens it as
            HWC, PyTorch as CHW. None where there is none.
    """

    name: str
    variable: tf.Variable
    keras: bool = False
    turned: bool = False
    flat: bool = False
    flattened: tuple[int, int, int] | None = None

    def to_reference(self, value: np.ndarray) -> np.ndarray:
        """A value in our layout (HWIO, IO), in the reference's (OIHW, OI)."""
        if self.keras:
            return value
        if self.flattened:
            maps = self._turned(value.reshape(*self.flattened, -1))
            value = maps.transpose(2, 0, 1, 3).reshape(value.shape)
        elif value.ndim == 4:
            value = self._turned(value)
        value = value.transpose(_AXES_TO_REFERENCE[value.ndim])
        return value.reshape(-1, 1) if self.flat else value

    def from_reference(self, value: np.ndarray) -> np.ndarray:
        """A value in the reference's layout, in ours."""
        if self.keras:
            return value
        axes = _AXES_TO_REFERENCE[len(self.variable.shape)]
        value = value.reshape([self.variable.shape[axis] for axis in axes]).transpose(np.argsort(axes))
        if self.flattened:
            height, width, channels = self.flattened
            maps = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
            return self._turned(maps).reshape(value.shape)
        return self._turned(value) if value.ndim == 4 else value

    def _turned(self, maps: np.ndarray) -> np.ndarray:
        """Turned by 180° in its first two axes, where the reference is."""
        return maps[::-1, ::-1] if self.turned else maps

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the reference's layout."""
        shape = tuple(self.variable.shape)
        if self.keras:
            return shape
        if self.flat:
            return (int(np.prod(shape)), 1)
        return tuple(shape[axis] for axis in _AXES_TO_REFERENCE[len(shape)])


_AXES_TO_REFERENCE = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def _flattened_map(layer: tf.keras.layers.Layer) -> tuple[int, int, int] | None:
    """The map behind a layer, where a `Flatten` and only layers that keep its features lie in between."""
    if not isinstance(layer, tf.keras.layers.Dense | tf.keras.layers.BatchNormalization):
        return None
    above = layer.inbound_nodes[0].inbound_layers
    while not isinstance(above, list | tf.keras.layers.Flatten | tf.keras.layers.Dense) and above.inbound_nodes:
        above = above.inbound_nodes[0].inbound_layers
    return tuple(above.input_shape[1:]) if isinstance(above, tf.keras.layers.Flatten) else None


def _reference_of(model: tf.keras.Model) -> catalog.ReferenceLayout:
    row = catalog.NETWORKS.get(model.name)
    return (row.reference if row else None) or catalog.ReferenceLayout()


def _tensor(
    layer: tf.keras.layers.Layer, variable: tf.Variable, reference: catalog.ReferenceLayout, rotated: bool
) -> Tensor:
    kind = variable.name.split("/")[-1].split(":")[0]
    if _KERAS_NAME.fullmatch(layer.name):
        return Tensor(f"{layer.name}/{kind}", variable, keras=True)
    if kind != "kernel":
        flattened = None if isinstance(layer, tf.keras.layers.Dense) else _flattened_map(layer)
        return Tensor(f"{layer.name}.{_NAMES[kind]}", variable, turned=rotated, flattened=flattened)
    # The name follows from the kind of layer, not from its quantizer: a float network has the same.
    binary = hasattr(layer, "kernel_quantizer")
    return Tensor(
        (reference.binary_kernel if binary else reference.kernel).format(layer.name),
        variable,
        turned=rotated,
        flat=binary and reference.flat,
        flattened=_flattened_map(layer),
    )


def _tensors(model: tf.keras.Model) -> list[Tensor]:
    reference = _reference_of(model)
    rotated = any(isinstance(layer, Rotate180) for layer in model.layers)
    return [
        _tensor(layer, variable, reference, rotated)
        for layer in model.layers
        for variable in layer.weights
        if variable.dtype.is_floating
    ]


def reference_names(model: tf.keras.Model, variables: Iterable[tf.Variable]) -> list[str]:
    """The reference's names of some variables of a model, in their order."""
    names = {id(tensor.variable): tensor.name for tensor in _tensors(model)}
    return [names[id(variable)] for variable in variables]


def to_reference(model: tf.keras.Model, values: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Weights or gradients of a model in the reference's names and layouts.

    Args:
        model: One of our networks.
        values: Arrays in our layout by the reference's names, such as gradients; the model's weights where absent.

    Returns:
        The arrays in the reference's layout (OIHW and OI kernels, dense rows in CHW order), by its names.
    """
    tensors = _tensors(model)
    if values is None:
        values = {tensor.name: tensor.variable.numpy() for tensor in tensors}
    return {tensor.name: tensor.to_reference(values[tensor.name]) for tensor in tensors if tensor.name in values}


def from_reference(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reference's tensors in our layout, by the reference's names.

    Left out are `num_batches_tracked`, which nothing reads, and tensors that the reference stores and never uses
    (`catalog.ReferenceLayout.unused`). Kernels in uint8 are taken for signs packed along the input channels, as
    binary-wide-resnet publishes them: bit 1 is +√(2/n), bit 0 −√(2/n), n = weights of a filter.

    Raises:
        BnnError: A tensor of the model is missing, has another shape or no real numbers, or there is one that the model
            does not have.
    """
    unused = _reference_of(model).unused
    given = {name: np.asarray(value) for name, value in tensors.items() if not _surplus(name, unused)}
    wanted = {tensor.name: tensor for tensor in _tensors(model)}
    given = {
        name: _unpacked(value, wanted[name].shape) if name in wanted and value.dtype == np.uint8 else value
        for name, value in given.items()
    }
    problems = [
        *(f"{name} is missing" for name in wanted if name not in given),
        *(f"{name} is unknown" for name in given if name not in wanted),
        *(
            f"{name} holds {value.dtype}, expected real numbers"
            for name, value in given.items()
            if name in wanted and value.dtype.kind not in "fiu"
        ),
        *(
            f"{name} has shape {given[name].shape}, expected {tensor.shape}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:MOST_PROBLEMS])
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        raise BnnError(f"these are not the tensors of {model.name}: {shown}{more}; choose the network they are of")
    return {name: tensor.from_reference(given[name]) for name, tensor in wanted.items()}


MOST_PROBLEMS = 10


def _surplus(name: str, unused: tuple[str, ...]) -> bool:
    return name.endswith("num_batches_tracked") or any(name == one or name.startswith(f"{one}.") for one in unused)


def _unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Signs from bits along the second axis, with He's deviation as their magnitude."""
    if bits.ndim != 4 or len(shape) != 4 or bits.shape[1] != -(-shape[1] // 8):
        return bits
    signs = 2.0 * np.unpackbits(bits, axis=1, count=shape[1]) - 1
    return (signs * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def classes_of(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> int | None:
    """How many classes a reference's tensors tell apart: the outputs of their last kernel; None where it is missing."""
    kernels = [tensor for tensor in _tensors(model) if len(tensor.variable.shape) > 1]
    last = tensors.get(kernels[-1].name)
    return None if last is None or not last.ndim else last.shape[-1 if kernels[-1].keras else 0]


def load_reference(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Gives a model the reference's weights, and applies its constraints once.

    Raises:
        BnnError: As `from_reference`; the model is then as it was.
    """
    values = from_reference(model, tensors)
    for tensor in _tensors(model):
        tensor.variable.assign(values[tensor.name])
    apply_constraints(model)
