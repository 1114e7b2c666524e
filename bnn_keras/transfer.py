"""Copy weights from one network to another, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What a copy of weights by name left out.

    Attributes:
        fresh: Names of the weights that only the new network has. They keep their initial values.
        dropped: Names of the weights that only the old network has.
    """

    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def take_weights(model: tf.keras.Model, source: tf.keras.Model) -> Transfer:
    """Copy the weights that two networks have in common, by name.

    Args:
        model: The network that takes the weights.
        source: The network that has them.

    Returns:
        The names of the weights that were not copied.

    Raises:
        BnnError: A weight has another shape in the two networks. No weight is copied then.

    >>> def network(units, bias):
    ...     layer = tf.keras.layers.Dense(units, use_bias=bias, name="dense")
    ...     return tf.keras.Sequential([tf.keras.Input((3,)), layer])
    >>> take_weights(network(2, bias=True), network(2, bias=False))
    Transfer(fresh=('dense/bias:0',), dropped=())
    """
    return assign_weights(model, weights_by_name(source))


def weights_by_name(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """Return the values of all weights of a network.

    >>> model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2, name="dense")])
    >>> {name: value.shape for name, value in weights_by_name(model).items()}
    {'dense/kernel:0': (3, 2), 'dense/bias:0': (2,)}
    """
    return {weight.name: value for weight, value in zip(model.weights, model.get_weights(), strict=True)}


def assign_weights(model: tf.keras.Model, values: Mapping[str, np.ndarray]) -> Transfer:
    """Assign values to the weights of a network that have their names.

    Args:
        model: The network.
        values: The values by the name of the weight.

    Returns:
        The names of the weights without a value, and of the values without a weight.

    Raises:
        BnnError: A value has another shape than its weight. No weight is assigned then.

    >>> model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2, name="dense")])
    >>> assign_weights(model, {"dense/bias:0": np.ones(2), "old/bias:0": np.ones(2)})
    Transfer(fresh=('dense/kernel:0',), dropped=('old/bias:0',))
    """
    weights = {weight.name: weight for weight in model.weights}
    common = [name for name in weights if name in values]
    for name in common:
        if weights[name].shape != values[name].shape:
            raise BnnError(
                f"the weight {name!r} has shape {values[name].shape} in the network it is taken from, but "
                f"{tuple(weights[name].shape)} in the new one; choose networks whose weights of one name have one shape"
            )
    tf.keras.backend.batch_set_value([(weights[name], values[name]) for name in common])
    return Transfer(
        tuple(name for name in weights if name not in values), tuple(name for name in values if name not in weights)
    )


def kernels(model: tf.keras.Model) -> list[str]:
    """Return the names of the kernels of a network: its weights with two or more axes.

    >>> kernels(tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2, name="dense")]))
    ['dense/kernel:0']
    """
    return [weight.name for weight in model.weights if _is_kernel(weight)]


def head(model: tf.keras.Model) -> list[str]:
    """Return the names of the weights of the last layer with a kernel, and of the layers behind it.

    These are the weights whose shapes depend on the number of classes.

    >>> layers = [tf.keras.layers.Dense(2, name="logits"), tf.keras.layers.BatchNormalization(scale=False, name="bn")]
    >>> head(tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(3), *layers]))
    ['logits/kernel:0', 'logits/bias:0', 'bn/beta:0', 'bn/moving_mean:0', 'bn/moving_variance:0']
    """
    names: list[str] = []
    for layer in reversed(model.layers):
        names[:0] = [weight.name for weight in layer.weights]
        if any(map(_is_kernel, layer.weights)):
            break
    return names


def _is_kernel(weight: tf.Variable) -> bool:
    return len(weight.shape) > 1
