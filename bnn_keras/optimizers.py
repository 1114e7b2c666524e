"""Optimizers, all of `tf.keras.optimizers.legacy`, which Larq's `CaseOptimizer` needs.

Weight decay here is coupled, as PyTorch's argument `weight_decay`: g ← g + λ·w, before the optimizer sees the gradient.
"""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf


def _coupled_weight_decay(rate: float) -> Any:
    """A gradient transformer: g ← g + rate · w."""

    def transform(grads_and_vars: list[tuple[tf.Tensor, tf.Variable]]) -> list[tuple[tf.Tensor, tf.Variable]]:
        return [
            (gradient + tf.constant(rate, gradient.dtype) * variable, variable) for gradient, variable in grads_and_vars
        ]

    return transform


def _transformers(weight_decay: float) -> list[Any]:
    return [_coupled_weight_decay(weight_decay)] if weight_decay else []


class TorchAdam(tf.keras.optimizers.legacy.Adam):
    """Adam with PyTorch's epsilon.

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w − η · m̂ / (√v̂ + ε) with m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ).

    Keras's Adam adds ε to √v before the correction of v, so that its ε is larger by 1 / √(1 − β₂ᵗ): 32 times in the
    first step.

    Source: torch.optim.Adam; Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    def _prepare_local(self, var_device: str, var_dtype: tf.DType, apply_state: Any) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        coefficients = apply_state[(var_device, var_dtype)]
        coefficients["epsilon"] *= tf.sqrt(1 - coefficients["beta_2_power"])


def adam(learning_rate: float, weight_decay: float, **hyperparameters: float) -> tf.keras.optimizers.legacy.Optimizer:
    """Adam as Keras has it, with coupled weight decay. Hyper-parameters: `beta_1`, `beta_2`, `epsilon`."""
    return tf.keras.optimizers.legacy.Adam(
        learning_rate, gradient_transformers=_transformers(weight_decay), **hyperparameters
    )


def adam_torch(
    learning_rate: float, weight_decay: float, **hyperparameters: float
) -> tf.keras.optimizers.legacy.Optimizer:
    """Adam as PyTorch has it, with coupled weight decay. Hyper-parameters: `beta_1`, `beta_2`, `epsilon`."""
    return TorchAdam(learning_rate, gradient_transformers=_transformers(weight_decay), **hyperparameters)


def bop(
    learning_rate: float, weight_decay: float, threshold: float, gamma: float, **hyperparameters: float
) -> tf.keras.optimizers.legacy.Optimizer:
    """Bop for the binary weights, Keras's Adam, with coupled weight decay, for all others.

    m ← (1 − γ) m + γ g; w ← −w where w · m > threshold, else w (a weight that is no ±1 yet takes its sign).

    Variables are told apart by their precision. Hyper-parameters: `threshold`, `gamma`, and Adam's.

    Source: Helwegen et al. 2019, arXiv:1906.02107, algorithm 1; larq.optimizers.
    """
    flips = larq.optimizers.Bop(threshold=threshold, gamma=gamma)
    others = adam(learning_rate, weight_decay, **hyperparameters)
    return larq.optimizers.CaseOptimizer((larq.optimizers.Bop.is_binary_variable, flips), default_optimizer=others)


def set_hyperparameter(optimizer: tf.keras.optimizers.legacy.Optimizer, name: str, value: float) -> None:
    """Sets a hyper-parameter of an optimizer, or of that of its parts which has it.

    Raises:
        AttributeError: No part has it.
    """
    for part in getattr(optimizer, "optimizers", [optimizer]):
        if name in part._hyper:
            # Asking for the variable makes it, with what a checkpoint has for it: assigning it comes after that.
            tf.keras.backend.set_value(getattr(part, name), value)
            return
    raise AttributeError(f"no hyper-parameter {name!r}")
