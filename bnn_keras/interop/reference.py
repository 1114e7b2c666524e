"""Names and layouts: one tensor of ours as the reference stores it, and the other way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from bnn_keras.constraints import apply_constraints
from bnn_keras.errors import BnnError

_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One variable of a model and the reference's tensor that it stands for.

    Attributes:
        name: The reference's name.
        variable: Ours (the latent weights, where it is quantized).
        flattened: (height, width, channels) of the map whose flattened form feeds this dense kernel; Keras flattens it
            as HWC, PyTorch as CHW. None for every other tensor.
    """

    name: str
    variable: tf.Variable
    flattened: tuple[int, int, int] | None

    def to_reference(self, value: np.ndarray) -> np.ndarray:
        """A value in our layout (HWIO, IO), in the reference's (OIHW, OI)."""
        if self.flattened:
            value = value.reshape(*self.flattened, -1).transpose(2, 0, 1, 3).reshape(value.shape)
        return value.transpose(_axes_to_reference(value.ndim))

    def from_reference(self, value: np.ndarray) -> np.ndarray:
        """A value in the reference's layout, in ours."""
        value = value.transpose(np.argsort(_axes_to_reference(value.ndim)))
        if self.flattened:
            height, width, channels = self.flattened
            value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(value.shape)
        return value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the reference's layout."""
        shape = tuple(self.variable.shape)
        return tuple(shape[axis] for axis in _axes_to_reference(len(shape)))


def _axes_to_reference(rank: int) -> tuple[int, ...]:
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(rank, tuple(range(rank)))


def _flattened_map(layer: tf.keras.layers.Layer) -> tuple[int, int, int] | None:
    """The map behind a dense layer, where a `Flatten` and only layers that keep its features lie in between."""
    if not isinstance(layer, tf.keras.layers.Dense):
        return None
    above = layer.inbound_nodes[0].inbound_layers
    while not isinstance(above, list | tf.keras.layers.Flatten | tf.keras.layers.Dense) and above.inbound_nodes:
        above = above.inbound_nodes[0].inbound_layers
    return tuple(above.input_shape[1:]) if isinstance(above, tf.keras.layers.Flatten) else None


def _tensors(model: tf.keras.Model) -> list[Tensor]:
    return [
        Tensor(
            name=f"{layer.name}.{_NAMES[kind]}",
            variable=variable,
            flattened=_flattened_map(layer) if kind == "kernel" else None,
        )
        for layer in model.layers
        for variable in layer.weights
        for kind in [variable.name.split("/")[-1].split(":")[0]]
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

    `num_batches_tracked`, which nothing reads, is left out.

    Raises:
        BnnError: A tensor of the model is missing or has another shape, or there is one that the model does not have.
    """
    given = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    wanted = {tensor.name: tensor for tensor in _tensors(model)}
    problems = [
        *(f"{name} is missing" for name in wanted if name not in given),
        *(f"{name} is unknown" for name in given if name not in wanted),
        *(
            f"{name} has shape {given[name].shape}, expected {tensor.shape}"
            for name, tensor in wanted.items()
            if name in given and tuple(given[name].shape) != tensor.shape
        ),
    ]
    if problems:
        what = "; ".join(problems)
        raise BnnError(f"these are not the tensors of {model.name}: {what}; choose the network they are of")
    return {name: tensor.from_reference(np.asarray(given[name])) for name, tensor in wanted.items()}


def load_reference(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Gives a model the reference's weights, and applies its constraints once.

    Raises:
        BnnError: As `from_reference`; the model is then as it was.
    """
    values = from_reference(model, tensors)
    for tensor in _tensors(model):
        tensor.variable.assign(values[tensor.name])
    apply_constraints(model)
