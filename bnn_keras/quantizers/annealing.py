"""Hyper-parameters of estimators that change during training."""

from __future__ import annotations

import tensorflow as tf


class Annealed:
    """Named values that the quantizers of a model share and that training changes, such as t and k of IR-Net.

    The values are not weights of the model: Keras neither counts nor saves them. Checkpoints store them separately.

    Args:
        **values: Initial values by name.

    >>> annealed = Annealed(t=0.1, k=10.0)
    >>> annealed.assign(t=1.0)
    >>> annealed.values()
    {'t': 1.0, 'k': 10.0}
    """

    def __init__(self, **values: float):
        self.variables = {name: tf.Variable(value, False, dtype=tf.float64) for name, value in values.items()}

    def __getitem__(self, name: str) -> tf.Variable:
        return self.variables[name]

    def assign(self, **values: float) -> None:
        """Change some of the values, by name."""
        for name, value in values.items():
            self.variables[name].assign(value)

    def values(self) -> dict[str, float]:
        """Return the current values by name."""
        return {name: float(variable.numpy()) for name, variable in self.variables.items()}


def anneal(model: tf.keras.Model, name: str, value: float) -> None:
    """Change one annealed value everywhere in a model.

    Args:
        model: The model.
        name: Name of the value, such as "t".
        value: The new value.

    >>> from bnn_keras.quantizers import ErrorDecaySign
    >>> model = tf.keras.Sequential([ErrorDecaySign(t=0.1, k=10.0)])
    >>> anneal(model, "t", 2.0)
    >>> [annealed.values() for annealed in annealed_of(model)]
    [{'t': 2.0, 'k': 10.0}]
    """
    for annealed in annealed_of(model):
        annealed.assign(**{name: value})


def annealed_of(model: tf.keras.Model) -> list[Annealed]:
    """Return every `Annealed` of a model and of its nested models, each once.

    >>> annealed_of(tf.keras.Sequential([tf.keras.layers.ReLU()]))
    []
    """
    candidates = (getattr(module, "annealed", None) for module in model.submodules)
    return list({id(annealed): annealed for annealed in candidates if isinstance(annealed, Annealed)}.values())
