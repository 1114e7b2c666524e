"""Hyper-parameters of estimators that change during training."""

from __future__ import annotations

import tensorflow as tf


class Annealed:
    """Named values that the quantizers of a scheme share and that training changes, such as t and k of IR-Net.

    The scheme that makes them keeps them (`Scheme.annealed`), and `build_network` keeps the scheme with the model. They
    are not weights: Keras neither counts nor saves them. Checkpoints store them separately.

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
