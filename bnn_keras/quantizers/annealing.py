"""Hyper-parameters of estimators that change while a network trains."""

from __future__ import annotations

import tensorflow as tf


class Annealed:
    """Named values that the quantizers of a model share and a training changes, such as IR-Net's t and k.

    They are no weights of the model: Keras neither counts nor saves them; a checkpoint holds them explicitly.

    Args:
        values: The values to begin with, by name.
    """

    def __init__(self, **values: float):
        self.variables = {name: tf.Variable(value, False, dtype=tf.float64) for name, value in values.items()}

    def __getitem__(self, name: str) -> tf.Variable:
        return self.variables[name]

    def assign(self, **values: float) -> None:
        """Changes some of the values, by name."""
        for name, value in values.items():
            self.variables[name].assign(value)

    def values(self) -> dict[str, float]:
        """The values by name."""
        return {name: float(variable.numpy()) for name, variable in self.variables.items()}


def anneal(model: tf.keras.Model, name: str, value: float) -> None:
    """Changes one value wherever it anneals in a model."""
    for annealed in annealed_of(model):
        annealed.assign(**{name: value})


def annealed_of(model: tf.keras.Model) -> list[Annealed]:
    """Everything that anneals in a model and in models inside it, each once."""
    found = (getattr(part, "annealed", None) for part in model.submodules)
    return list({id(each): each for each in found if isinstance(each, Annealed)}.values())
