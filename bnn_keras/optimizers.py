"""Optimizers, all of `tf.keras.optimizers.legacy`, which Larq's `CaseOptimizer` needs.

Weight decay here is coupled, as PyTorch's argument `weight_decay`: g ← g + λ·w, before the optimizer sees the gradient;
only AdamW's is decoupled. Gradients that are too long are scaled down before that: g ← g · min(1, clip_norm / ‖g‖),
with the norm of all gradients together.
"""

from __future__ import annotations

from typing import Any, Literal

import larq
import tensorflow as tf

legacy = tf.keras.optimizers.legacy
Decayed = Literal["everything", "kernels"]
GradsAndVars = list[tuple[tf.Tensor, tf.Variable]]


class _WeightDecay:
    """The arguments of an optimizer with weight decay; kernels are variables with two axes or more.

    Args:
        *args: As the optimizer.
        weight_decay: λ.
        weight_decay_of: What it falls on.
        **kwargs: As the optimizer.
    """

    def __init__(
        self, *args: Any, weight_decay: float = 0.0, weight_decay_of: Decayed = "everything", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_decay = weight_decay
        self.weight_decay_of = weight_decay_of

    def decays(self, variable: tf.Variable) -> bool:
        """Whether weight decay falls on a variable."""
        return self.weight_decay > 0 and (self.weight_decay_of == "everything" or variable.shape.rank >= 2)

    def get_config(self) -> dict[str, Any]:
        """Its arguments."""
        return {**super().get_config(), "weight_decay": self.weight_decay, "weight_decay_of": self.weight_decay_of}


class _CoupledWeightDecay(_WeightDecay):
    """g ← g + λ·w, after clipping: Keras refuses to clip where it is given transformers of gradients."""

    def _transform_gradients(self, grads_and_vars: GradsAndVars) -> GradsAndVars:
        return [
            (gradient + tf.constant(self.weight_decay, gradient.dtype) * variable, variable)
            if self.decays(variable)
            else (gradient, variable)
            for gradient, variable in super()._transform_gradients(grads_and_vars)
        ]


class Adam(_CoupledWeightDecay, legacy.Adam):
    """Adam as Keras has it, with weight decay."""


class _TorchEpsilon(legacy.Adam):
    """Adam whose ε is added to √v̂.

    Keras's Adam adds ε to √v before the correction of v, so that its ε is larger by 1 / √(1 − β₂ᵗ): 32 times in the
    first step.
    """

    def _prepare_local(self, var_device: str, var_dtype: tf.DType, apply_state: Any) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        coefficients = apply_state[(var_device, var_dtype)]
        coefficients["epsilon"] *= tf.sqrt(1 - coefficients["beta_2_power"])


class TorchAdam(_CoupledWeightDecay, _TorchEpsilon):
    """Adam with PyTorch's epsilon.

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w − η · m̂ / (√v̂ + ε) with m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ).

    Source: torch.optim.Adam; Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """


class TorchAdamW(_WeightDecay, _TorchEpsilon):
    """AdamW: w ← w − η · λ · w, then Adam's step with PyTorch's epsilon.

    Source: torch.optim.AdamW; Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None) -> tf.Operation:
        if not self.decays(var):
            return super()._resource_apply_dense(grad, var, apply_state)
        rate = self._decayed_lr(var.dtype.base_dtype) * self.weight_decay
        with tf.control_dependencies([var.assign_sub(rate * var, use_locking=self._use_locking)]):
            return super()._resource_apply_dense(grad, var, apply_state)


class TorchSGD(_CoupledWeightDecay, legacy.SGD):
    """Gradient descent as PyTorch has it: v ← μ v + g, w ← w − η v; with Nesterov's momentum w ← w − η (g + μ v).

    Keras's v ← μ v − η g, w ← w + v is the same while η stands still; where it falls, Keras's velocity still has the
    larger steps of before.

    Source: torch.optim.SGD; Sutskever et al. 2013, eq. 3 and 4.
    """

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None) -> tf.Operation:
        if not self._momentum:
            return super()._resource_apply_dense(grad, var, apply_state)
        coefficients = (apply_state or {}).get((var.device, var.dtype.base_dtype)) or self._fallback_apply_state(
            var.device, var.dtype.base_dtype
        )
        velocity = self.get_slot(var, "momentum")
        new = velocity.assign(coefficients["momentum"] * velocity + grad, use_locking=self._use_locking)
        step = grad + coefficients["momentum"] * new if self.nesterov else new
        return var.assign_sub(coefficients["lr_t"] * step, use_locking=self._use_locking).op


def sgd(learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any) -> legacy.Optimizer:
    """Gradient descent as PyTorch has it. Hyper-parameters: `momentum`, `nesterov`, and those of weight decay."""
    return TorchSGD(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def adam(learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any) -> legacy.Optimizer:
    """Adam as Keras has it. Hyper-parameters: `beta_1`, `beta_2`, `epsilon`, and those of weight decay."""
    return Adam(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def adam_torch(learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any) -> legacy.Optimizer:
    """Adam as PyTorch has it. Hyper-parameters as those of `adam`."""
    return TorchAdam(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def adamw(learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any) -> legacy.Optimizer:
    """Adam as PyTorch has it, with decoupled weight decay. Hyper-parameters as those of `adam`."""
    return TorchAdamW(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def bop(learning_rate: float, *, threshold: float, gamma: float, **hyperparameters: Any) -> legacy.Optimizer:
    """Bop for the binary weights, Keras's Adam, with coupled weight decay, for all others.

    m ← (1 − γ) m + γ g; w ← −w where w · m > threshold, else w (a weight that is no ±1 yet takes its sign).

    Variables are told apart by their precision. Hyper-parameters: `threshold`, `gamma`, and those of `adam`.

    Source: Helwegen et al. 2019, arXiv:1906.02107, algorithm 1; larq.optimizers.
    """
    flips = larq.optimizers.Bop(threshold=threshold, gamma=gamma)
    others = adam(learning_rate, **hyperparameters)
    return larq.optimizers.CaseOptimizer((larq.optimizers.Bop.is_binary_variable, flips), default_optimizer=others)


def set_hyperparameter(optimizer: legacy.Optimizer, name: str, value: float) -> None:
    """Sets a hyper-parameter of an optimizer, or of that of its parts which has it.

    Raises:
        AttributeError: No part has it.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales losses, for float16
    for part in getattr(inner, "optimizers", [inner]):
        if name in part._hyper:
            # Asking for the variable makes it, with what a checkpoint has for it: assigning it comes after that.
            tf.keras.backend.set_value(getattr(part, name), value)
            return
    raise AttributeError(f"no hyper-parameter {name!r}")
