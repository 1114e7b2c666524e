"""Networks that end in a softmax, and the same networks without it. Exports convert logits."""

from __future__ import annotations

import tensorflow as tf

from bnn_keras.graphs import Layer, Node, is_graph, nodes_of, rebuild

_FUNCTIONS = (tf.keras.activations.softmax, tf.nn.softmax)


def ends_in_softmax(model: tf.keras.Model) -> bool:
    """Return whether the outputs of a model are those of a softmax.

    >>> x = tf.keras.Input((4,))
    >>> ends_in_softmax(tf.keras.Model(x, tf.keras.layers.Dense(2, activation="softmax")(x)))
    True
    """
    nodes = nodes_of(model)
    if not nodes:
        return False
    last = nodes[-1].layer
    if is_graph(last):
        return ends_in_softmax(last)
    return _is_softmax(last) or getattr(last, "activation", None) in _FUNCTIONS


def without_softmax(network: tf.keras.Model) -> tf.keras.Model:
    """Return a network without its last softmax, which gives logits. The layers of the network are changed.

    Args:
        network: A flat model.

    >>> x = tf.keras.Input((4,))
    >>> model = tf.keras.Model(x, tf.keras.layers.Dense(2, activation="softmax")(x))
    >>> without_softmax(model)(tf.zeros((1, 4))).numpy().tolist()
    [[0.0, 0.0]]
    """
    if not ends_in_softmax(network):
        return network
    last = nodes_of(network)[-1]

    def layers_for(node: Node) -> list[Layer]:
        return [] if node is last and _is_softmax(node.layer) else [node.layer]

    if not _is_softmax(last.layer):
        last.layer.activation = tf.keras.activations.linear
    return rebuild(network, layers_for)


def _is_softmax(layer: Layer) -> bool:
    """Return whether a layer computes a softmax and nothing else."""
    if isinstance(layer, tf.keras.layers.Activation):
        return layer.activation in _FUNCTIONS
    if type(layer).__name__ == "TFOpLambda":
        return layer.get_config()["function"] == "nn.softmax"
    return isinstance(layer, tf.keras.layers.Softmax)
