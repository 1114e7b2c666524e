"""Convert tensors between our layout and the reference's, and name them as the reference does."""

from __future__ import annotations

import dataclasses
import fnmatch
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
_SHOWN_PROBLEMS = 10
_NUMBERED = re.compile(r"^layer_with_weights-(\d+)/")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A variable of a model and the tensor of the reference that corresponds to it.

    Attributes:
        name: The reference's name of the tensor.
        variable: Our variable. For a quantized kernel, it holds the latent weights.
        keras: Whether the reference is written in Keras and has our layout.
        rotated: Whether the reference is our network rotated by 180°.
        flat: Whether the reference stores the tensor as a column.
        stored_shape: Shape in which the reference stores a vector, with -1 for its length.
        binary: Whether it is a kernel that the layer quantizes.
        flattened: (height, width, channels) of the feature map that is flattened before this layer; None if there is
            no such map. Keras flattens in HWC order, PyTorch in CHW order.
    """

    name: str
    variable: tf.Variable
    keras: bool = False
    rotated: bool = False
    flat: bool = False
    stored_shape: tuple[int, ...] = (-1,)
    binary: bool = False
    flattened: tuple[int, int, int] | None = None

    def to_reference(self, value: np.ndarray) -> np.ndarray:
        """Convert a value from our layout (HWIO, IO) to the reference's (OIHW, OI)."""
        if self.keras:
            return value
        if self.flattened:
            maps = self._rotate(value.reshape(*self.flattened, -1))
            value = maps.transpose(2, 0, 1, 3).reshape(value.shape)
        elif value.ndim == 4:
            value = self._rotate(value)
        value = value.transpose(_AXES_TO_REFERENCE[value.ndim])
        return value.reshape(self.shape)

    def from_reference(self, value: np.ndarray) -> np.ndarray:
        """Convert a value from the reference's layout to ours."""
        if self.keras:
            return value
        axes = _AXES_TO_REFERENCE[len(self.variable.shape)]
        value = value.reshape([self.variable.shape[axis] for axis in axes]).transpose(np.argsort(axes))
        if self.flattened:
            height, width, channels = self.flattened
            maps = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
            return self._rotate(maps).reshape(value.shape)
        return self._rotate(value) if value.ndim == 4 else value

    def _rotate(self, maps: np.ndarray) -> np.ndarray:
        """Rotate the first two axes by 180° if the reference is rotated."""
        return maps[::-1, ::-1] if self.rotated else maps

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the reference's layout."""
        shape = tuple(self.variable.shape)
        if self.keras:
            return shape
        if self.flat:
            return (int(np.prod(shape)), 1)
        if len(shape) == 1:
            return tuple(shape[0] if size == -1 else size for size in self.stored_shape)
        return tuple(shape[axis] for axis in _AXES_TO_REFERENCE[len(shape)])


_AXES_TO_REFERENCE = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def _flattened_map(layer: tf.keras.layers.Layer) -> tuple[int, int, int] | None:
    """Return the shape of the feature map that is flattened before a layer, or None.

    Only layers that keep the order of features may be between the `Flatten` and the layer.
    """
    if not isinstance(layer, tf.keras.layers.Dense | tf.keras.layers.BatchNormalization):
        return None
    previous = layer.inbound_nodes[0].inbound_layers
    while not isinstance(previous, list | tf.keras.layers.Flatten | tf.keras.layers.Dense) and previous.inbound_nodes:
        previous = previous.inbound_nodes[0].inbound_layers
    return tuple(previous.input_shape[1:]) if isinstance(previous, tf.keras.layers.Flatten) else None


def layout_of(model: tf.keras.Model) -> catalog.ReferenceLayout:
    """Return how the reference stores the network of a model; the default for a model outside of the catalog.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> layout_of(build_model(resolve("nin").experiment)).file.best
        'best_acc'
    """
    row, scheme = catalog.NETWORKS.get(model.name), getattr(model, "scheme", None)
    if not row:
        return catalog.ReferenceLayout()
    name, bits = (scheme.name, scheme.bits) if scheme else (row.scheme, row.bits)
    return row.layout(name, bits, getattr(model, "variant", "")) or catalog.ReferenceLayout()


def _tensor(
    layer: tf.keras.layers.Layer, variable: tf.Variable, layout: catalog.ReferenceLayout, rotated: bool
) -> Tensor:
    kind = variable.name.split("/")[-1].split(":")[0]
    if layout.file.kind == "keras":
        return Tensor(f"{layer.name}/{kind}", variable, keras=True)
    if kind != "kernel":
        flattened = None if isinstance(layer, tf.keras.layers.Dense) else _flattened_map(layer)
        name = f"{layer.name}.{_NAMES.get(kind, kind)}"
        for end, (renamed, stored_shape) in layout.parts.items():
            if name.endswith(end):
                return Tensor(name.removesuffix(end) + renamed, variable, stored_shape=stored_shape)
        return Tensor(name, variable, rotated=rotated, flattened=flattened)
    # The name depends on the class of the layer, not on its quantizer, so that a float network has the same names.
    binary = hasattr(layer, "kernel_quantizer")
    return Tensor(
        (layout.binary_kernel if binary else layout.kernel).format(layer.name),
        variable,
        rotated=rotated,
        flat=binary and layout.flat,
        binary=binary and layer.kernel_quantizer is not None,
        flattened=_flattened_map(layer),
    )


def tensors_of(model: tf.keras.Model) -> list[Tensor]:
    """Return the tensors of the reference for all variables of a model that hold floating-point numbers.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> tensor = tensors_of(build_model(resolve("lenet5").experiment))[0]
        >>> tensor.name, tensor.shape, tensor.binary
        ('conv1.weight', (20, 1, 5, 5), False)
    """
    layout = layout_of(model)
    rotated = any(isinstance(layer, Rotate180) for layer in model.layers)
    return [
        _tensor(layer, variable, layout, rotated)
        for layer in model.layers
        for variable in layer.weights
        if variable.dtype.is_floating
    ]


def reference_names(model: tf.keras.Model, variables: Iterable[tf.Variable]) -> list[str]:
    """Return the reference's names of variables of a model, in the same order.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> reference_names(model, model.get_layer("bin_conv2.conv").weights)
        ['bin_conv2.conv.weight', 'bin_conv2.conv.bias']
    """
    names = {id(tensor.variable): tensor.name for tensor in tensors_of(model)}
    return [names[id(variable)] for variable in variables]


def with_layer_names(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors with the names of a model's layers in place of their numbers in a checkpoint of TensorFlow.

    "layer_with_weights-0/kernel" is the kernel of the first layer that has weights. All other names stay.

    Args:
        model: The network that the tensors belong to.
        tensors: The tensors by name.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("binarynet").experiment)
        >>> list(with_layer_names(model, {"layer_with_weights-1/beta": np.zeros(3)}))
        ['batch_normalization/beta']
    """
    layers = [layer.name for layer in model.layers if layer.weights]

    def named(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"{layers[number]}/" if number < len(layers) else match[0]

    return {_NUMBERED.sub(named, name): value for name, value in tensors.items()}


def to_reference(model: tf.keras.Model, values: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Convert the weights or gradients of a model to the reference's names and layouts.

    Args:
        model: A network of the catalog.
        values: Arrays in our layout by the reference's names, such as gradients. Default: the weights of the model.
            For quantized kernels these are the latent weights.

    Returns:
        The arrays by the reference's names, in the reference's layout: kernels as OIHW and OI, rows of dense kernels
        in CHW order.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> tensors = to_reference(model)
        >>> model.get_layer("bin_conv2.conv").kernel.shape.as_list(), tensors["bin_conv2.conv.weight"].shape
        ([5, 5, 20, 50], (50, 20, 5, 5))
    """
    tensors = tensors_of(model)
    if values is None:
        values = {tensor.name: tensor.variable.numpy() for tensor in tensors}
    return {tensor.name: tensor.to_reference(values[tensor.name]) for tensor in tensors if tensor.name in values}


def from_reference(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the tensors of a reference to our layout.

    `num_batches_tracked` and tensors without a counterpart here (`catalog.ReferenceLayout.unused`) are ignored. Kernels
    of type uint8 are signs packed along the input channels, as binary-wide-resnet publishes them: bit 1 is +√(2/n), bit
    0 is −√(2/n), where n is the number of weights of a filter.

    Args:
        model: A network of the catalog. It is not changed.
        tensors: The reference's tensors by name.

    Returns:
        The arrays in our layout by the reference's names.

    Raises:
        BnnError: A tensor of the model is missing, has another shape, or holds integers, NaN or infinite numbers; or a
            tensor does not belong to the model.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> values = from_reference(model, to_reference(model))
        >>> values["bin_conv2.conv.weight"].shape
        (5, 5, 20, 50)
    """
    unused = layout_of(model).unused
    received = {name: np.asarray(value) for name, value in tensors.items() if not _ignored(name, unused)}
    expected = {tensor.name: tensor for tensor in tensors_of(model)}
    received = {
        name: _unpacked(value, expected[name].shape) if name in expected and value.dtype == np.uint8 else value
        for name, value in received.items()
    }
    problems = [
        *(f"{name} is missing" for name in expected if name not in received),
        *(f"{name} is unknown" for name in received if name not in expected),
        *(
            f"{name} holds {value.dtype}, expected floating-point numbers"
            for name, value in received.items()
            if name in expected and value.dtype.kind != "f"
        ),
        *(
            f"{name} holds NaN or infinite numbers"
            for name, value in received.items()
            if name in expected and value.dtype.kind == "f" and not np.isfinite(value).all()
        ),
        *(
            f"{name} has shape {received[name].shape}, expected {tensor.shape}"
            for name, tensor in expected.items()
            if name in received and received[name].shape != tensor.shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:_SHOWN_PROBLEMS])
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise BnnError(
            f"these are not the tensors of {model.name}: {shown}{more}; choose the network that they belong to"
        )
    return {name: tensor.from_reference(received[name]) for name, tensor in expected.items()}


def _ignored(name: str, unused: Iterable[str]) -> bool:
    """Return whether a tensor is a counter of batches, or has one of the `unused` names."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ("*num_batches_tracked", *unused))


def _unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Unpack signs from bits along the second axis; their magnitude is He's standard deviation √(2/n)."""
    if bits.ndim != 4 or len(shape) != 4 or bits.shape[1] != -(-shape[1] // 8):
        return bits
    signs = 2.0 * np.unpackbits(bits, axis=1, count=shape[1]) - 1
    return (signs * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def classes_of(model: tf.keras.Model, tensors: Mapping[str, np.ndarray]) -> int | None:
    """Return the number of classes in the tensors of a reference: the outputs of the last kernel.

    Returns:
        The number of classes, or None if the last kernel is missing.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> classes_of(model, {"ip2.weight": np.zeros((26, 500))})
        26
    """
    kernels = [tensor for tensor in tensors_of(model) if len(tensor.variable.shape) > 1]
    last = tensors.get(kernels[-1].name)
    return None if last is None or not last.ndim else last.shape[-1 if kernels[-1].keras else 0]


def load_reference(model: tf.keras.Model, tensors: Mapping[str, np.ndarray], constrain: bool = True) -> None:
    """Load the tensors of a reference into a model, then apply the model's constraints once.

    Args:
        model: A network of the catalog. If it is the reference rotated by 180°, build it with `network.rotated=true`.
        tensors: The reference's tensors by name, for example from `read_checkpoint`.
        constrain: Whether to apply the constraints. Without them, the model has the latent weights of the tensors bit
            by bit, and is not ready for a forward pass.

    Raises:
        BnnError: The tensors do not belong to the model (see `from_reference`). The model is then unchanged.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> experiment = resolve("lenet5").experiment
        >>> model, other = build_model(experiment), build_model(experiment.model_copy(update={"seed": 2}))
        >>> load_reference(other, to_reference(model))
        >>> bool((other.get_layer("conv1").kernel == model.get_layer("conv1").kernel).numpy().all())
        True
    """
    values = from_reference(model, tensors)
    for tensor in tensors_of(model):
        tensor.variable.assign(values[tensor.name])
    if constrain:
        apply_constraints(model)
