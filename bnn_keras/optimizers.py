"""Optimizers for binarized networks: SGD, Adam, AdamW and Bop.

All are subclasses of `tf.keras.optimizers.legacy.Optimizer`, which Larq's `CaseOptimizer` requires.

Weight decay is coupled, as PyTorch's argument `weight_decay`: g ← g + λ · w before the optimizer's own update. Only
AdamW decouples it. Gradients are clipped before weight decay is added: g ← g · min(1, clip_norm / ‖g‖), where ‖g‖ is
the norm of all gradients together.

Weights can have factors of the learning rate (`learning_rate_factors`): η becomes factor · η. The factor 0 freezes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import larq
import numpy as np
import tensorflow as tf

from bnn_keras import elementwise
from bnn_keras.errors import BnnError

WeightDecayOf = Literal["everything", "kernels"] | Sequence[str]
GradsAndVars = list[tuple[tf.Tensor, tf.Variable]]

_REPLICA = re.compile(r"/replica_\d+(?=:\d+$)")  # in the names of a mirrored variable's copies
_SHOWN_NAMES = 6
_RATES = ("lr", "lr_t", "neg_lr_t")  # Keras's names of the learning rate and of what is proportional to it


def _matches(variable: tf.Variable, pattern: str) -> bool:
    """Return whether a pattern matches the whole name of a variable."""
    return fnmatch.fnmatchcase(_REPLICA.sub("", variable.name), pattern)


def learning_rate_factor(variable: tf.Variable, factors: Mapping[str, float]) -> float:
    """Return the factor of a variable's learning rate.

    Args:
        variable: The variable.
        factors: Patterns of names with `*`, `?` and `[…]`, and their factors. The first pattern that matches the whole
            name counts; without one, the factor is 1.

    Example:
        >>> kernel, bias = tf.Variable([[1.0]], name="fc/kernel"), tf.Variable([1.0], name="fc/bias")
        >>> [learning_rate_factor(variable, {"*/bias:0": 2.0, "fc*": 0.5}) for variable in (kernel, bias)]
        [0.5, 2.0]
    """
    return next((factor for pattern, factor in factors.items() if _matches(variable, pattern)), 1.0)


def is_decayed(variable: tf.Variable, weight_decay_of: WeightDecayOf) -> bool:
    """Return whether weight decay applies to a variable.

    Args:
        variable: The variable.
        weight_decay_of: "everything"; "kernels", the variables with two or more axes; or patterns of names with
            `*`, `?` and `[…]`, of which one has to match the whole name.

    Example:
        >>> kernel, bias = tf.Variable([[1.0]], name="conv1/kernel"), tf.Variable([1.0], name="conv1/bias")
        >>> [is_decayed(kernel, choice) for choice in ("everything", "kernels", ["*/bias:0"])]
        [True, True, False]
        >>> [is_decayed(bias, choice) for choice in ("everything", "kernels", ["*/bias:0"])]
        [True, False, True]
    """
    if weight_decay_of == "everything":
        return True
    if weight_decay_of == "kernels":
        return bool(variable.shape.rank >= 2)
    return any(_matches(variable, pattern) for pattern in weight_decay_of)


def decayed_variables(
    variables: Iterable[tf.Variable], weight_decay_of: WeightDecayOf, latent_free: bool = False
) -> list[tf.Variable]:
    """Return the variables that weight decay applies to, in their order.

    Args:
        variables: The trainable variables of a model.
        weight_decay_of: See `is_decayed`.
        latent_free: Whether Bop flips the binary ones among the variables. Weight decay never applies to those.

    Raises:
        BnnError: A pattern matches none of the variables.

    Example:
        >>> model = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1, name="dense")])
        >>> [variable.name for variable in decayed_variables(model.variables, ["*/kernel:0"])]
        ['dense/kernel:0']
    """
    trained = _trained(variables, latent_free)
    patterns = () if isinstance(weight_decay_of, str) else weight_decay_of
    _verify_patterns("weight_decay_of", "weight decay", patterns, trained)
    return [variable for variable in trained if is_decayed(variable, weight_decay_of)]


def verify_learning_rate_factors(
    variables: Iterable[tf.Variable], factors: Mapping[str, float], latent_free: bool = False
) -> None:
    """Verify that each pattern of `learning_rate_factors` matches a variable that the learning rate applies to.

    Args:
        variables: The trainable variables of a model.
        factors: See `learning_rate_factor`.
        latent_free: Whether Bop flips the binary ones among the variables. It has no learning rate.

    Raises:
        BnnError: A pattern matches none of the variables.

    Example:
        >>> model = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1, name="dense")])
        >>> verify_learning_rate_factors(model.variables, {"*/bias:0": 2.0})
    """
    _verify_patterns("learning_rate_factors", "a learning rate", factors, _trained(variables, latent_free))


def _trained(variables: Iterable[tf.Variable], latent_free: bool) -> list[tf.Variable]:
    """Return the variables that Bop does not flip."""
    return [
        variable for variable in variables if not (latent_free and larq.optimizers.Bop.is_binary_variable(variable))
    ]


def _verify_patterns(key: str, what: str, patterns: Iterable[str], variables: Sequence[tf.Variable]) -> None:
    for pattern in patterns:
        if not any(_matches(variable, pattern) for variable in variables):
            names = ", ".join(repr(variable.name) for variable in variables[:_SHOWN_NAMES])
            raise BnnError(
                f"{key} has the pattern {pattern!r}, which matches no weight that {what} can apply to; "
                f"expected patterns of names such as {names}: correct it or remove it"
            )


class _LearningRateFactors(tf.keras.optimizers.legacy.Optimizer):
    """Multiply the learning rate of some variables. Frozen variables, with the factor 0, do not count for clipping.

    This is the first base class of each optimizer, so that all rules behind it see the changed rate.

    Args:
        *args: Positional arguments of the optimizer.
        learning_rate_factors: See `learning_rate_factor`. None: no factors.
        **kwargs: Keyword arguments of the optimizer.
    """

    def __init__(self, *args: Any, learning_rate_factors: Mapping[str, float] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.learning_rate_factors = dict(learning_rate_factors or {})

    def _transform_gradients(self, grads_and_vars: GradsAndVars) -> GradsAndVars:
        trained = [pair for pair in grads_and_vars if learning_rate_factor(pair[1], self.learning_rate_factors)]
        return super()._transform_gradients(trained)

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None) -> tf.Operation:
        factor = learning_rate_factor(var, self.learning_rate_factors)
        coefficients = _coefficients(self, var, apply_state)
        changed = {name: factor * value if name in _RATES else value for name, value in coefficients.items()}
        state = {(var.device, var.dtype.base_dtype): changed if factor != 1 else coefficients}
        return super()._resource_apply_dense(grad, var, state)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the optimizer."""
        return {**super().get_config(), "learning_rate_factors": self.learning_rate_factors}


def _coefficients(optimizer: tf.keras.optimizers.legacy.Optimizer, var: tf.Variable, apply_state: Any) -> Any:
    """Return the hyper-parameters of a step for a variable, by Keras's names."""
    key = (var.device, var.dtype.base_dtype)
    return (apply_state or {}).get(key) or optimizer._fallback_apply_state(*key)


def _decimals(optimizer: tf.keras.optimizers.legacy.Optimizer, names: Sequence[str]) -> list[float]:
    """Return hyper-parameters as they were given: 0.9 instead of the float32 that Keras holds, 0.8999999761581421."""
    return [float(str(np.float32(tf.keras.backend.get_value(getattr(optimizer, name))))) for name in names]


class _WeightDecay(tf.keras.optimizers.legacy.Optimizer):
    """Store the weight decay of an optimizer and which variables it applies to.

    Args:
        *args: Positional arguments of the optimizer.
        weight_decay: λ.
        weight_decay_of: The variables that it applies to, see `is_decayed`.
        **kwargs: Keyword arguments of the optimizer.
    """

    def __init__(
        self, *args: Any, weight_decay: float = 0.0, weight_decay_of: WeightDecayOf = "everything", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_decay = weight_decay
        self.weight_decay_of = weight_decay_of

    def decays(self, variable: tf.Variable) -> bool:
        """Return whether weight decay applies to a variable."""
        return self.weight_decay > 0 and is_decayed(variable, self.weight_decay_of)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the optimizer."""
        return {**super().get_config(), "weight_decay": self.weight_decay, "weight_decay_of": self.weight_decay_of}


class _CoupledWeightDecay(_WeightDecay):
    """Add λ · w to each gradient, after clipping.

    Keras's argument `gradient_transformers` cannot do this: it excludes clipping.
    """

    def _transform_gradients(self, grads_and_vars: GradsAndVars) -> GradsAndVars:
        return [
            (gradient + tf.constant(self.weight_decay, gradient.dtype) * variable, variable)
            if self.decays(variable)
            else (gradient, variable)
            for gradient, variable in super()._transform_gradients(grads_and_vars)
        ]


class Adam(_LearningRateFactors, _CoupledWeightDecay, tf.keras.optimizers.legacy.Adam):
    """Adam with Keras's epsilon and coupled weight decay. See the function `adam`.

    Example:
        >>> optimizer = Adam(0.1, weight_decay=1e-4)
        >>> optimizer.get_config()["weight_decay"]
        0.0001
    """


# PyTorch's names of an optimizer's state, and Keras's names of the same slots (`torch_state`).
_ADAM = ("learning_rate", "beta_1", "beta_2")
_MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}


class _TorchEpsilon(tf.keras.optimizers.legacy.Adam):
    """Adam that adds ε to √v̂, as PyTorch does.

    Keras adds ε to √v before the bias correction of v. This makes its ε larger by the factor 1 / √(1 − β₂ᵗ), which is
    32 in the first step.
    """

    def _prepare_local(self, var_device: str, var_dtype: tf.DType, apply_state: Any) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        coefficients = apply_state[(var_device, var_dtype)]
        coefficients["epsilon"] *= tf.sqrt(1 - coefficients["beta_2_power"])

    def torch_group(self) -> dict[str, Any]:
        """Return the hyper-parameters by PyTorch's names, as the groups of an optimizer's state have them."""
        rate, *betas = _decimals(self, _ADAM)
        return {"lr": rate, "betas": tuple(betas), "eps": self.epsilon, "amsgrad": False}


class TorchAdam(_LearningRateFactors, _CoupledWeightDecay, _TorchEpsilon):
    """Adam with PyTorch's epsilon and coupled weight decay. See the function `adam_torch`.

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w − η · m̂ / (√v̂ + ε) with m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ).

    Example:
        >>> optimizer = TorchAdam(0.1, weight_decay=1e-4, weight_decay_of="kernels")
        >>> [optimizer.decays(tf.Variable(tf.zeros(shape))) for shape in [(3, 4), (4,)]]
        [True, False]

    Source: torch.optim.Adam; Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    torch_state: ClassVar = _MOMENTS


class _DecoupledWeightDecay(_WeightDecay):
    """Take w ← w − η · λ · w before the step of the optimizer."""

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None) -> tf.Operation:
        if not self.decays(var):
            return super()._resource_apply_dense(grad, var, apply_state)
        rate = _coefficients(self, var, apply_state)["lr_t"] * self.weight_decay
        with tf.control_dependencies([var.assign_sub(rate * var, use_locking=self._use_locking)]):
            return super()._resource_apply_dense(grad, var, apply_state)


class TorchAdamW(_LearningRateFactors, _DecoupledWeightDecay, _TorchEpsilon):
    """Adam with PyTorch's epsilon and decoupled weight decay. See the function `adamw`.

    w ← w − η · λ · w, then the step of `TorchAdam` without weight decay.

    Example:
        >>> weight = tf.Variable([1.0])
        >>> _ = TorchAdamW(0.5, weight_decay=0.1).apply_gradients([(tf.constant([0.0]), weight)])
        >>> weight.numpy()
        array([0.95], dtype=float32)

    Source: torch.optim.AdamW; Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    torch_state: ClassVar = _MOMENTS


class _TorchMomentum(tf.keras.optimizers.legacy.SGD):
    """Gradient descent whose velocity sums gradients, as in PyTorch."""

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None) -> tf.Operation:
        if not self._momentum:
            return super()._resource_apply_dense(grad, var, apply_state)
        coefficients = _coefficients(self, var, apply_state)
        velocity = self.get_slot(var, "momentum")
        return tf.raw_ops.ResourceApplyMomentum(
            var=var.handle,
            accum=velocity.handle,
            lr=coefficients["lr_t"],
            grad=grad,
            momentum=coefficients["momentum"],
            use_locking=self._use_locking,
            use_nesterov=self.nesterov,
        )

    def torch_group(self) -> dict[str, Any]:
        """Return the hyper-parameters by PyTorch's names, as the groups of an optimizer's state have them."""
        rate, momentum = _decimals(self, ("learning_rate", "momentum"))
        return {"lr": rate, "momentum": momentum, "dampening": 0, "nesterov": self.nesterov}


class TorchSGD(_LearningRateFactors, _CoupledWeightDecay, _TorchMomentum):
    """Gradient descent with PyTorch's momentum and coupled weight decay. See the function `sgd`.

    v ← μ v + g, w ← w − η v; with Nesterov momentum w ← w − η (g + μ v).

    Keras computes v ← μ v − η g, w ← w + v, which is the same while η is constant. After η falls, Keras's velocity
    still contains steps of the larger η.

    Example:
        >>> weight = tf.Variable([1.0])
        >>> optimizer = TorchSGD(0.5, momentum=0.5)
        >>> for learning_rate in (0.5, 0.25):
        ...     optimizer.learning_rate = learning_rate
        ...     _ = optimizer.apply_gradients([(tf.constant([1.0]), weight)])
        >>> weight.numpy()  # 1 − 0.5 · 1 − 0.25 · (0.5 · 1 + 1)
        array([0.125], dtype=float32)

    Source: torch.optim.SGD; Sutskever et al. 2013, eq. 3 and 4.
    """

    torch_state: ClassVar = {"momentum_buffer": "momentum"}


class CaffeSGD(_LearningRateFactors, _CoupledWeightDecay, tf.keras.optimizers.legacy.SGD):
    """Gradient descent with Caffe's momentum, which is Keras's, and coupled weight decay. See the function `sgd`.

    v ← μ v + η g, w ← w − v.

    Example:
        >>> weight = tf.Variable([1.0])
        >>> optimizer = CaffeSGD(0.5, momentum=0.5)
        >>> for learning_rate in (0.5, 0.25):
        ...     optimizer.learning_rate = learning_rate
        ...     _ = optimizer.apply_gradients([(tf.constant([1.0]), weight)])
        >>> weight.numpy()  # 1 − 0.5 · 1 − (0.5 · 0.5 + 0.25 · 1)
        array([0.], dtype=float32)

    Source: Caffe, src/caffe/solvers/sgd_solver.cpp.
    """


_SGD = {"gradients": TorchSGD, "steps": CaffeSGD}


def sgd(
    learning_rate: float,
    clip_norm: float | None = None,
    velocity: Literal["gradients", "steps"] = "gradients",
    **hyperparameters: Any,
) -> tf.keras.optimizers.legacy.Optimizer:
    """Return gradient descent with PyTorch's momentum (`TorchSGD`) or Caffe's (`CaffeSGD`).

    Args:
        learning_rate: η.
        clip_norm: Largest norm of all gradients together. None: no clipping.
        velocity: What the velocity sums: "gradients" as in PyTorch, or "steps" η · g as in Caffe.
        **hyperparameters: `momentum`, `nesterov`, `weight_decay`, `weight_decay_of`, `learning_rate_factors`.

    Example:
        >>> weight = tf.Variable([1.0])
        >>> _ = sgd(0.25, momentum=0.9).apply_gradients([(tf.constant([2.0]), weight)])
        >>> weight.numpy()
        array([0.5], dtype=float32)
    """
    return _SGD[velocity](learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def adam(
    learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any
) -> tf.keras.optimizers.legacy.Optimizer:
    """Return Adam with Keras's epsilon (`Adam`): epsilon is added before bias correction.

    Args:
        learning_rate: η.
        clip_norm: Largest norm of all gradients together. None: no clipping.
        **hyperparameters: `beta_1`, `beta_2`, `epsilon`, `weight_decay`, `weight_decay_of`, `learning_rate_factors`.

    Example:
        >>> weight = tf.Variable([1.0])
        >>> _ = adam(0.25).apply_gradients([(tf.constant([3.0]), weight)])
        >>> print(f"{weight.numpy()[0]:.4f}")
        0.7500
    """
    return Adam(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def adam_torch(
    learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any
) -> tf.keras.optimizers.legacy.Optimizer:
    """Return Adam with PyTorch's epsilon (`TorchAdam`): epsilon is added after bias correction.

    Args:
        learning_rate: η.
        clip_norm: Largest norm of all gradients together. None: no clipping.
        **hyperparameters: `beta_1`, `beta_2`, `epsilon`, `weight_decay`, `weight_decay_of`, `learning_rate_factors`.

    Example:
        In the first step m̂ = g and √v̂ = |g|, so the step is η · g / (|g| + ε).

        >>> weight = tf.Variable([1.0])
        >>> _ = adam_torch(0.25, epsilon=1.0).apply_gradients([(tf.constant([1.0]), weight)])
        >>> print(f"{weight.numpy()[0]:.4f}")
        0.8750
    """
    return TorchAdam(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


def adamw(
    learning_rate: float, clip_norm: float | None = None, **hyperparameters: Any
) -> tf.keras.optimizers.legacy.Optimizer:
    """Return Adam with PyTorch's epsilon and decoupled weight decay (`TorchAdamW`).

    Args:
        learning_rate: η.
        clip_norm: Largest norm of all gradients together. None: no clipping.
        **hyperparameters: `beta_1`, `beta_2`, `epsilon`, `weight_decay`, `weight_decay_of`, `learning_rate_factors`.

    Example:
        >>> weight = tf.Variable([1.0])
        >>> _ = adamw(0.25, weight_decay=0.5).apply_gradients([(tf.constant([3.0]), weight)])
        >>> print(f"{weight.numpy()[0]:.4f}")  # 1 − 0.25 · 0.5 · 1 − 0.25
        0.6250
    """
    return TorchAdamW(learning_rate, global_clipnorm=clip_norm, **hyperparameters)


class Bop(larq.optimizers.Bop):
    """Larq's Bop with the same steps in fewer passes over the weights. See the function `bop`.

    Example:
        >>> Bop(threshold=0.5, gamma=0.25).get_config()["threshold"]
        0.5
    """

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable) -> tf.Operation:
        dtype = var.dtype.base_dtype
        gamma, threshold = (self._get_decayed_hyper(name, dtype) for name in ("gamma", "threshold"))
        m = self.get_slot(var, "m")
        average = m.assign_add(gamma * (grad - m))
        return var.assign(elementwise.sign((threshold - var * average) * var)).op


def bop(
    learning_rate: float, *, threshold: float, gamma: float, **hyperparameters: Any
) -> tf.keras.optimizers.legacy.Optimizer:
    """Return Bop for the binary weights and `adam` for all others.

    m ← (1 − γ) m + γ g; w ← −w if w · m > threshold, else w. A weight that is not ±1 yet takes its sign.

    A variable is binary if its precision is 1.

    Args:
        learning_rate: η of Adam.
        threshold: Smallest w · m that flips a weight.
        gamma: Adaptivity rate γ.
        **hyperparameters: Those of `adam`, which has coupled weight decay.

    Example:
        >>> layer = larq.layers.QuantDense(1, kernel_quantizer=larq.quantizers.NoOp(precision=1), use_bias=False)
        >>> layer.build((None, 2))
        >>> _ = layer.kernel.assign([[1.0], [1.0]])
        >>> optimizer = bop(0.01, threshold=0.1, gamma=0.5)
        >>> _ = optimizer.apply_gradients([(tf.constant([[1.0], [-1.0]]), layer.kernel)])
        >>> layer.get_weights()[0].ravel()
        array([-1.,  1.], dtype=float32)

    Source: Helwegen et al. 2019, arXiv:1906.02107, algorithm 1; larq.optimizers.
    """
    binary = Bop(threshold=threshold, gamma=gamma)
    others = adam(learning_rate, **hyperparameters)
    return larq.optimizers.CaseOptimizer((larq.optimizers.Bop.is_binary_variable, binary), default_optimizer=others)


def set_hyperparameter(optimizer: tf.keras.optimizers.legacy.Optimizer, name: str, value: float) -> None:
    """Set a hyper-parameter of an optimizer.

    In a compound optimizer, such as that of `bop`, the first part that has the hyper-parameter receives the value.

    Args:
        optimizer: The optimizer, which may be wrapped in a `LossScaleOptimizer`.
        name: The name of the hyper-parameter.
        value: Its new value.

    Raises:
        AttributeError: No part of the optimizer has this hyper-parameter.

    Example:
        >>> optimizer = sgd(0.1)
        >>> set_hyperparameter(optimizer, "learning_rate", 0.5)
        >>> float(optimizer.learning_rate)
        0.5
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer, for float16
    parts = getattr(inner, "optimizers", [inner])
    for part in parts:
        if name in part._hyper:
            # Reading the attribute creates the variable and restores it from a pending checkpoint. Assign after that.
            tf.keras.backend.set_value(getattr(part, name), value)
            return
    known = ", ".join(sorted({known for part in parts for known in part._hyper}))
    raise AttributeError(f"unknown hyper-parameter {name!r} of {type(inner).__name__}; known: {known}")
