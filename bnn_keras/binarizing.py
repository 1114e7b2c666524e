"""Binarize a Keras model: replace its convolutions and dense layers by those of a scheme."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import scheme_of
from bnn_keras.constraints import apply_constraints
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import SchemeConfig
from bnn_keras.graphs import Layer, Node, copy_layer, flat_copy, nodes_of, parents_of, rebuild, take_layer_weights
from bnn_keras.layers import precision_policy
from bnn_keras.schemes import Scheme

layers = tf.keras.layers

_FIRST_AND_LAST = ("first", "last")
# Layers whose weights multiply channel by channel: they are neither binarized nor refused.
_REAL = (layers.DepthwiseConv2D, layers.PReLU, layers.BatchNormalization, layers.LayerNormalization)
_CONVOLUTIONS = (layers.Conv2D, layers.Dense, layers.DepthwiseConv2D)
# Activations whose outputs are never negative, so that their signs are all +1. The first two are rectifiers.
_RECTIFIERS = ("relu", "relu6")
_NOT_NEGATIVE = (*_RECTIFIERS, "sigmoid", "hard_sigmoid", "softplus", "softmax", "exponential")
# Layers whose outputs are not negative if their input is not. Of the merging ones, each input, or all of them, matter.
_PASSING = (
    *(layers.MaxPool2D, layers.AveragePooling2D, layers.GlobalAveragePooling2D, layers.GlobalMaxPool2D),
    *(layers.Dropout, layers.Flatten, layers.Reshape, layers.Permute),
    *(layers.ZeroPadding2D, layers.Cropping2D, layers.UpSampling2D, layers.Concatenate, layers.Maximum),
)
_MIXING = (layers.Add, layers.Average, layers.Minimum)
# Arguments of a layer that the scheme decides, or that belong to the position of the layer in the old model.
_NOT_COPIED = ("activation", "kernel_constraint", "dtype", "batch_input_shape")


def binarize(
    model: tf.keras.Model,
    scheme: str | Scheme = "irnet",
    bits: str | None = None,
    skip: Iterable[str] = _FIRST_AND_LAST,
    *,
    verbose: bool = True,
) -> tf.keras.Model:
    """Return a copy of a Keras model with the binary layers of a scheme.

    Each `Conv2D` and `Dense` becomes a layer of the scheme with the same name, strides, padding, dilation, groups and
    bias. Its weights are taken over as latent weights. All other layers are copied with their weights.
    `DepthwiseConv2D` stays real. Nested models are flattened: their layers become layers of the new model.

    Inputs and activations:

    - With binary activations, each binary layer takes the sign of its inputs. The sign of a ReLU's output is always +1.
      Therefore an activation that is never negative (ReLU, ReLU6, sigmoid, …) is dropped if it feeds a binary layer,
      also through pooling, dropout, padding, reshaping or a concatenation, or if all terms of a sum are such
      activations. The layer then takes the signs of what the activation received, and so does every other layer that
      read the activation. A batch norm in between keeps it.
    - With real activations (1/32), all activations stay.
    - A scheme with an activation of its own (`reactnet`) puts it in the place of every ReLU.
    - A binary layer that reads the inputs of the model, if not skipped, takes them as they are.
    - A `ZeroPadding2D` in front of a binary layer pads with sign(0) = +1, and `padding="same"` with 0.

    The copy is not compiled. It trains with `fit`. Schemes with annealed values (`irnet`) need the callback `Anneal`.
    For Bop, give a scheme `without_latents()`, and compile with `optimizers.bop`.

    Args:
        model: A functional or sequential model of tf.keras, in memory or from `tf.keras.applications`.
        scheme: Name of a scheme of the catalog, or a `Scheme`.
        bits: Bits of weights / activations. Default: "1/1", or those of a given `Scheme`.
        skip: Layers that stay real: their names; "first", those that no convolution or dense layer precedes; "last",
            those that none follows.
        verbose: Print a line that says which layers stay real and which activations are dropped or replaced.

    Returns:
        A model with the same inputs and outputs. Its attribute `scheme` is the scheme.

    Raises:
        BnnError: The scheme, its bits or a name in `skip` is unknown, or a layer cannot be binarized or copied. One
            error names all such layers.

    Example:
        >>> model = tf.keras.Sequential(
        ...     [
        ...         tf.keras.Input((28, 28, 1)),
        ...         layers.Conv2D(8, 3, activation="relu", name="conv1"),
        ...         layers.Conv2D(16, 3, strides=2, activation="relu", name="conv2"),
        ...         layers.Flatten(),
        ...         layers.Dense(10, name="logits"),
        ...     ]
        ... )
        >>> binary = binarize(model, "xnor")
        binarize: scheme xnor 1/1 in 1 of 3 layers; real: conv1, logits; activations dropped: conv1
        >>> binary.get_layer("conv2").input_quantizer.precision, binary.output_shape
        (1, (None, 10))
        >>> binarize(model, skip=["conv3"])
        Traceback (most recent call last):
        bnn_keras.errors.BnnError: unknown layer 'conv3'; did you mean 'conv2'? known: conv1, conv2, first, last, logits
    """
    scheme = _scheme(scheme, bits)
    model = flat_copy(model)
    plan = _Plan(model, scheme, _names(skip))
    result = rebuild(model, plan.layers_for)
    for old, new in plan.copies.items():
        if old in plan.binary:
            new.kernel.assign(old.kernel)
            if old.use_bias:
                new.bias.assign(old.bias)
        else:
            take_layer_weights(new, old)
    apply_constraints(result)
    result.scheme = scheme
    if verbose:
        print(plan.summary())
    return result


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more if names else "none"


def _names(skip: Iterable[str]) -> tuple[str, ...]:
    return (skip,) if isinstance(skip, str) else tuple(skip)


def _scheme(scheme: str | Scheme, bits: str | None) -> Scheme:
    """Return the scheme at the given bits.

    Raises:
        BnnError: There is no such scheme, it does not support the bits, or it makes no layers.
    """
    name = scheme.name if isinstance(scheme, Scheme) else catalog.find("scheme", scheme).name
    supported = catalog.SCHEMES[name].bits if name in catalog.SCHEMES else ()
    default = scheme.bits if isinstance(scheme, Scheme) else "1/1" if "1/1" in supported else supported[0]
    chosen = bits or default
    if supported and chosen not in supported:
        raise BnnError(unknown(f"bits of scheme {name!r}", chosen, supported))
    scheme = (
        scheme if isinstance(scheme, Scheme) else scheme_of(SchemeConfig.model_validate({"name": name, "bits": chosen}))
    )
    scheme = scheme.with_bits(chosen)
    if scheme.binary_weights and not scheme.latent_free and scheme.kernel_quantizer() is None:
        raise BnnError(f"scheme {name!r} has no quantizers of its own; choose another one, such as 'irnet'")
    return scheme


class _Plan:
    """What becomes of each layer of a flat model.

    Attributes:
        binary: Layers that get the scheme's layer.
        changed: Calls of activations that are dropped, or replaced by the scheme's own.
        copies: The new layer of each layer that has one.
    """

    def __init__(self, model: tf.keras.Model, scheme: Scheme, skip: Sequence[str]):
        self.scheme = scheme
        self.nodes = nodes_of(model)
        self.parents = parents_of(self.nodes)
        kernels = [node for node in self.nodes if _multiplies(node.layer)]
        first, last = self._ends(kernels)
        self._check_names(skip, kernels)
        ends = {"first": first, "last": last}
        skipped = {node.layer for name in skip for node in ends.get(name, ())}
        skipped |= {node.layer for node in kernels if node.layer.name in skip}
        _check_layers([node for node in kernels if node.layer not in skipped])
        self.kernels = list(dict.fromkeys(node.layer for node in kernels))
        self.binary = {layer for layer in self.kernels if type(layer) in (layers.Conv2D, layers.Dense)} - skipped
        self.images = {node.layer for node in first}
        dropped = self._dropped() if scheme.binary_activations else set()
        replaced = {node for node in self.nodes if scheme.own_activation and _activation(node.layer) in _RECTIFIERS}
        self.changed = dropped | replaced
        self.copies: dict[Layer, Layer] = {}
        self._used: set[str] = {layer.name for layer in model.layers}
        self._called: set[Layer] = set()

    def layers_for(self, node: Node) -> Sequence[Layer]:
        """Return the layers in the place of a call."""
        layer = node.layer
        changed = node in self.changed
        if not isinstance(layer, _CONVOLUTIONS):
            if changed:
                return self._own_activation(layer, self._name(node))
            return [self._copy(layer, lambda: copy_layer(layer))]
        function = layer.activation
        split = layer in self.binary or any(other.layer is layer for other in self.changed)
        if layer in self.binary:
            new = self._copy(layer, lambda: self._binary(layer))
        else:
            new = self._copy(layer, lambda: copy_layer(layer, **({"activation": "linear"} if split else {})))
        if not split or function is tf.keras.activations.linear:
            return [new]
        name = self._free(f"{layer.name}.activation")
        kept = [layers.Activation(function, name=name, dtype=layer.dtype_policy)]
        return [new, *(self._own_activation(layer, name) if changed else kept)]

    def summary(self) -> str:
        """Return one line: what is binary, what stays real, what became of activations."""
        real = [
            layer.name + (" (DepthwiseConv2D)" if isinstance(layer, layers.DepthwiseConv2D) else "")
            for layer in self.kernels
            if layer not in self.binary
        ]
        changed = list(dict.fromkeys(node.layer.name for node in self.nodes if node in self.changed))
        what = "replaced" if self.scheme.own_activation else "dropped"
        return (
            f"binarize: scheme {self.scheme.name} {self.scheme.bits} in {len(self.binary)} of {len(self.kernels)} "
            f"layers; real: {_few(real)}; activations {what}: {_few(changed)}"
        )

    def _ends(self, kernels: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """Return the calls of layers with kernels that no other such call precedes, and those that none follows."""
        behind: set[Node] = set()
        for node in self.nodes:
            if any(parent in behind or _multiplies(parent.layer) for parent in self.parents[node]):
                behind.add(node)
        before: set[Node] = set()
        for node in reversed(self.nodes):
            if node in before or _multiplies(node.layer):
                before.update(self.parents[node])
        return [node for node in kernels if node not in behind], [node for node in kernels if node not in before]

    def _check_names(self, skip: Sequence[str], kernels: Sequence[Node]) -> None:
        names = {node.layer.name for node in kernels}
        for name in skip:
            if name not in names and name not in _FIRST_AND_LAST:
                raise BnnError(unknown("layer", name, {*names, *_FIRST_AND_LAST}))

    def _dropped(self) -> set[Node]:
        """Return the calls of activations because of which the signs in front of a binary layer would all be +1."""

        @functools.cache
        def never_negative(node: Node) -> frozenset[Node]:
            layer = node.layer
            if _activation(layer) in _NOT_NEGATIVE:
                return frozenset([node])
            parts = [never_negative(parent) for parent in self.parents[node]]
            if isinstance(layer, _PASSING) or (isinstance(layer, _MIXING) and all(parts)):
                return frozenset().union(*parts)
            return frozenset()

        binary = [node for node in self.nodes if node.layer in self.binary]
        return set().union(*(never_negative(parent) for node in binary for parent in self.parents[node]))

    def _copy(self, layer: Layer, make: Callable[[], Layer]) -> Layer:
        if layer not in self.copies:
            with precision_policy(layer.dtype_policy):
                self.copies[layer] = make()
        return self.copies[layer]

    def _binary(self, layer: Layer) -> Layer:
        """Return the scheme's layer for a convolution or dense layer."""
        config = layer.get_config()
        arguments = {key: value for key, value in config.items() if key not in _NOT_COPIED}
        inputs = "images" if layer in self.images else "activated"
        make = self.scheme.conv2d if isinstance(layer, layers.Conv2D) else self.scheme.dense
        return make(inputs=inputs, **arguments)

    def _own_activation(self, layer: Layer, name: str) -> list[Layer]:
        """Return the scheme's own activation, if it has one, in the place of that of a layer."""
        with precision_policy(layer.dtype_policy):
            return [self.scheme.own_activation(name)] if self.scheme.own_activation else []

    def _name(self, node: Node) -> str:
        """Return the name of an activation's layer, or a new one if it was called before."""
        first = node.layer not in self._called
        self._called.add(node.layer)
        return node.layer.name if first else self._free(node.layer.name)

    def _free(self, name: str) -> str:
        """Return a name that no layer has, with a number behind it if needed."""
        candidates: Iterator[str] = (f"{name}_{number}" if number else name for number in range(len(self._used) + 1))
        free = next(candidate for candidate in candidates if candidate not in self._used)
        self._used.add(free)
        return free


def _multiplies(layer: Layer) -> bool:
    """Return whether a layer has kernels: weights of two or more dimensions."""
    matrices = any(len(weight.shape) > 1 for weight in layer.weights)
    return isinstance(layer, layers.DepthwiseConv2D) or (matrices and not isinstance(layer, _REAL))


def _activation(layer: Layer) -> str | None:
    """Return the name of the function that a layer applies to its outputs, or None."""
    if isinstance(layer, layers.ReLU):
        return None if layer.negative_slope or layer.threshold else "relu"
    if isinstance(layer, layers.Softmax):
        return "softmax"
    if isinstance(layer, (layers.Activation, *_CONVOLUTIONS)):
        return getattr(layer.activation, "__name__", None)
    function = layer.get_config().get("function") if type(layer).__name__ == "TFOpLambda" else None
    return function.rsplit(".", 1)[-1] if isinstance(function, str) else None


def _check_layers(nodes: Iterable[Node]) -> None:
    """Check that layers can be binarized, or are left real.

    Raises:
        BnnError: Some cannot. The error names all of them.
    """
    reasons: Mapping[str, str] = {node.layer.name: reason for node in nodes if (reason := _obstacle(node))}
    if reasons:
        named = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
        raise BnnError(
            f"{len(reasons)} layer(s) cannot be binarized: {named}; expected Conv2D, DepthwiseConv2D or Dense: leave "
            f"them real with skip={(*_FIRST_AND_LAST, *reasons)!r}, or replace them"
        )


def _obstacle(node: Node) -> str | None:
    """Return why a layer with kernels cannot be binarized, or None."""
    layer = node.layer
    if isinstance(layer, layers.DepthwiseConv2D):
        return None
    if type(layer) not in (layers.Conv2D, layers.Dense):
        return type(layer).__name__
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "Conv2D with channels_first"
    if isinstance(layer, layers.Dense) and len(layer.get_input_shape_at(0)) != 2:
        return "Dense of inputs with more than two dimensions"
    return None
