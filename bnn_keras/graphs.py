"""Copy functional and sequential Keras models, without nested models or with other layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from bnn_keras.errors import BnnError

Layer: TypeAlias = tf.keras.layers.Layer
Node: TypeAlias = Any  # one call of a layer; Keras has no public name for it


def nodes_of(model: tf.keras.Model) -> list[Node]:
    """Return the calls of layers in a model, inputs first. `Input` layers are left out.

    >>> x = tf.keras.Input((3,))
    >>> [node.layer.name for node in nodes_of(tf.keras.Model(x, tf.keras.layers.ReLU(name="relu")(x)))]
    ['relu']
    """
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def parents_of(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """Return for each call the calls whose outputs it receives."""
    producers = {key: node for node in nodes for key in node.flat_output_ids}
    return {node: [producers[key] for key in node.flat_input_ids if key in producers] for node in nodes}


def flat_copy(model: tf.keras.Model, dtype: str | None = None) -> tf.keras.Model:
    """Return a copy of a model with its weights, in which the layers of nested models are layers of the model itself.

    Layers keep their names. If two have the same name, that of a nested model is put in front of the second.

    Args:
        model: A functional or sequential model.
        dtype: Type of weights and computations of all layers. Default: the types of the model.

    Raises:
        BnnError: The model is not one of this Keras, has no input shape, or has a layer that cannot be copied.

    >>> base = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2, name="features")], name="base")
    >>> x = tf.keras.Input((3,), name="x")
    >>> model = tf.keras.Model(x, tf.keras.layers.Dense(1, name="head")(base(x)))
    >>> [layer.name for layer in flat_copy(model).layers]
    ['x', 'features', 'head']
    """
    _check(model)
    names = _names(model)
    copies: dict[Layer, Layer] = {}

    def copy(node: Node) -> Sequence[Layer]:
        layer = node.layer
        if layer not in copies:
            copies[layer] = copy_layer(layer, name=names[layer], **({"dtype": dtype} if dtype else {}))
        return [copies[layer]]

    result = rebuild(model, copy)
    for old, new in copies.items():
        take_layer_weights(new, old)
    return result


def rebuild(model: tf.keras.Model, layers_for: Callable[[Node], Sequence[Layer]]) -> tf.keras.Model:
    """Return a model with the same inputs and other layers. Nested models are rebuilt in place.

    Args:
        model: A functional or sequential model.
        layers_for: Returns the layers to apply, one after another, for a call of a layer. None drops the call, whose
            input is then its output.

    Returns:
        A model of the same name, with inputs and outputs in the same structure. Only layers have been copied that
        `layers_for` returns.
    """
    inputs = [
        tf.keras.Input(x.shape[1:], x.shape[0], name=x._keras_history.layer.name, dtype=x.dtype) for x in model.inputs
    ]
    outputs = _apply(model, inputs, layers_for, {})
    pack = tf.nest.pack_sequence_as
    structures = (model._nested_inputs, inputs), (model._nested_outputs, outputs)
    return tf.keras.Model(*(pack(structure, tensors) for structure, tensors in structures), name=model.name)


def copy_layer(layer: Layer, **changes: Any) -> Layer:
    """Return a new layer with the config of a layer, except for changes.

    >>> copy_layer(tf.keras.layers.Dense(3), name="other").units
    3
    """
    return type(layer).from_config({**layer.get_config(), **changes})


def take_layer_weights(new: Layer, old: Layer) -> None:
    """Copy the weights of a layer to a copy of it, which may lack the last ones."""
    if new.weights:
        new.set_weights(old.get_weights()[: len(new.weights)])
        if hasattr(new, "finalize_state"):  # preprocessing layers compute constants from their weights
            new.finalize_state()


def _apply(
    model: tf.keras.Model,
    inputs: Sequence[tf.Tensor],
    layers_for: Callable[[Node], Sequence[Layer]],
    arguments: Mapping[str, Any],
) -> list[tf.Tensor]:
    """Apply new layers to the inputs of a model; `arguments` are those that the model was called with."""
    values = _Values({str(id(x)): y for x, y in zip(model.inputs, inputs, strict=True)})
    for node in nodes_of(model):
        positional, keywords = node.map_arguments(values)
        if is_graph(node.layer):
            received = node.layer._flatten_to_reference_inputs(positional[0])
            outputs = _apply(node.layer, received, layers_for, {**arguments, **keywords})
        else:
            keywords = {**keywords, **_accepted(node.layer, arguments)}
            outputs = positional[0]
            for position, layer in enumerate(layers_for(node)):
                outputs = layer(outputs) if position else layer(*positional, **keywords)
        values.update(zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True))
    return [values[str(id(x))][0] for x in model.outputs]


class _Values(dict):
    """Values of tensors by the id of the original. Keras takes each from a list, once for each use."""

    def __getitem__(self, key: str) -> list[tf.Tensor]:
        return [super().__getitem__(key)]


def _accepted(layer: Layer, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return `training`, with which a nested model was called, for a layer that distinguishes it."""
    training = arguments.get("training")
    return {"training": training} if training is not None and layer._expects_training_arg else {}


def is_graph(layer: Layer) -> bool:
    """Return whether a layer is a functional model, or a sequential one with an input shape."""
    return isinstance(layer, tf.keras.Model) and layer._is_graph_network


def _layers(model: tf.keras.Model) -> Iterator[tuple[Layer, str]]:
    """Yield all layers that are called, and the name of the model that each is in, "" for the outermost."""
    for node in nodes_of(model):
        if is_graph(node.layer):
            yield from ((layer, inside or node.layer.name) for layer, inside in _layers(node.layer))
        else:
            yield node.layer, ""


def _names(model: tf.keras.Model) -> dict[Layer, str]:
    names = {layer: "" for layer, _ in _layers(model)}
    taken = {x._keras_history.layer.name for x in model.inputs}
    for layer, inside in sorted(_layers(model), key=lambda item: item[1] != ""):
        if not names[layer]:
            name = layer.name
            while name in taken:
                name = f"{inside or model.name}.{name}"
            names[layer] = name
            taken.add(name)
    return names


def _check(model: Any) -> None:
    """Check that a model can be copied.

    Raises:
        BnnError: It cannot.
    """
    if not isinstance(model, tf.keras.Model):
        raise BnnError(
            f"the model is a {type(model).__module__}.{type(model).__name__}; expected a model of tf.keras, which is "
            "Keras 2 (tf-keras) after `import bnn_keras`: build it again with tf.keras"
        )
    if not model._is_graph_network:
        raise BnnError(
            f"model {model.name!r} is a {type(model).__name__} without a graph of layers; expected a functional model, "
            "or a Sequential with an input shape: start it with tf.keras.Input(shape)"
        )
    wrong = [f"{layer.name} ({reason})" for layer, reason in _uncopyable(model)]
    if wrong:
        raise BnnError(
            f"model {model.name!r} has layers that cannot be copied: {', '.join(wrong)}; replace them by layers with a "
            "get_config, and nested models by functional ones"
        )


def _uncopyable(model: tf.keras.Model) -> Iterator[tuple[Layer, str]]:
    for layer in dict.fromkeys(layer for layer, _ in _layers(model)):
        if isinstance(layer, tf.keras.Model):
            yield layer, "a subclassed model"
            continue
        try:
            copy_layer(layer, name=layer.name)
        except (NotImplementedError, TypeError, ValueError) as error:
            yield layer, f"{type(layer).__name__}: {' '.join(str(error).split()):.80}"
