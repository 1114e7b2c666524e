"""IR-Net's estimators (Qin et al. 2020, arXiv:1909.10788), as its code computes them."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras.quantizers.annealing import Annealed

T, K = 0.1, 10.0  # what the reference's layers have until its trainer sets them


def error_decay_sign(x: tf.Tensor, t: Any, k: Any) -> tf.Tensor:
    r"""Sign with IR-Net's error decay estimator.

    Forward: y = +1 where x ≥ 0, else −1. Backward: dx = k · t · (1 − tanh²(t · x)) · dy (eqs. 10, 11 of the paper).

    t rises in training, from a nearly straight line to the sign itself; k = max(1/t, 1). The reference's sign(0) is 0;
    ours is +1, as in Larq.

    Args:
        x: Activations or weights of any shape.
        t: Steepness, a number or a scalar variable, read when the gradient is computed.
        k: Largest gradient divided by t, likewise.

    Returns:
        ±1 in the shape of `x`.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/modules/binaryfunction.py.
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            steepness, scale = (
                tf.cast(tf.convert_to_tensor(value, dtype_hint=tf.float64), dy.dtype) for value in (t, k)
            )
            return scale * steepness * (1 - tf.square(tf.tanh(steepness * x))) * dy

        return larq.math.sign(x), grad

    return _call(x)


def balanced_scaled_sign(kernel: tf.Tensor, t: Any, k: Any) -> tf.Tensor:
    r"""IR-Net's Libra parameter binarization of a kernel, filter by filter.

    With the n weights w of a filter:

    Forward: v = (w − mean(w)) / std(w), std with n − 1; b = s · sign(v), s = 2^round(log2(mean |v|))
    (eqs. 4 – 7 of the paper).

    Backward: v receives s · db through `error_decay_sign`; from v to w the gradient takes mean and deviation along.
    s has none.

    The paper divides by the deviation with n; the code by that with n − 1, which we follow. A filter whose weights are
    all equal, or that has only one, has no deviation: the result is NaN, there as here.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.
        t: As in `error_decay_sign`.
        k: Likewise.

    Returns:
        ±s in the shape of `kernel`.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/modules/ir_1w1a.py (`IRConv2d`).
    """
    filter_axes = tuple(range(len(kernel.shape) - 1))
    weights = kernel.shape[:-1].num_elements()
    centred = kernel - tf.reduce_mean(kernel, axis=filter_axes, keepdims=True)
    variance = tf.reduce_sum(tf.square(centred), axis=filter_axes, keepdims=True) / (weights - 1)
    standardised = centred / tf.sqrt(variance)
    magnitude = tf.reduce_mean(tf.abs(standardised), axis=filter_axes, keepdims=True)
    two = tf.constant(2, kernel.dtype)
    scale = tf.stop_gradient(tf.pow(two, tf.round(tf.math.log(magnitude) / tf.math.log(two))))
    return scale * error_decay_sign(standardised, t, k)


class _ErrorDecay(larq.quantizers.Quantizer):
    """A quantizer with t and k.

    Args:
        t: Steepness to begin with.
        k: Scale to begin with.
        annealed: t and k shared with other quantizers, instead of the two above.
    """

    precision = 1

    def __init__(self, t: float = T, k: float = K, annealed: Annealed | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.annealed = annealed or Annealed(t=t, k=k)

    def get_config(self) -> dict[str, Any]:
        """The arguments as they are now, for serialization; what is shared is not shared any more."""
        return {**super().get_config(), **self.annealed.values()}


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("error_decay_sign")
class ErrorDecaySign(_ErrorDecay):
    """`error_decay_sign` as a quantizer for the inputs of a layer."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """±1 in the shape of `inputs`."""
        return error_decay_sign(inputs, self.annealed["t"], self.annealed["k"])


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("balanced_scaled_sign")
class BalancedScaledSign(_ErrorDecay):
    """`balanced_scaled_sign` as a quantizer for the kernel of a layer."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """±s in the shape of the kernel."""
        return balanced_scaled_sign(inputs, self.annealed["t"], self.annealed["k"])
