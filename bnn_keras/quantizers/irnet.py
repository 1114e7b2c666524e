"""IR-Net's estimators (Qin et al. 2020, arXiv:1909.10788), as its code computes them."""

from __future__ import annotations

from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise
from bnn_keras.quantizers.annealing import Annealed

T, K = 0.1, 10.0  # defaults of the reference's layers, before its trainer sets them


def error_decay_sign(x: tf.Tensor, t: Any, k: Any) -> tf.Tensor:
    r"""Compute the sign with IR-Net's error decay estimator.

    Forward: y = +1 where x ≥ 0, else −1. Backward: dx = k · t · (1 − tanh²(t · x)) · dy (eqs. 10, 11 of the paper).

    During training t rises: the estimator changes from a nearly straight line to the sign; k = max(1/t, 1). sign(0) is
    +1 here, as in Larq, and 0 in the reference.

    Args:
        x: Activations or weights of any shape.
        t: Steepness, a number or a scalar variable. It is read when the gradient is computed.
        k: Largest gradient divided by t, a number or a scalar variable. It is read when the gradient is computed.

    Returns:
        ±1 in the shape of `x`.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/modules/binaryfunction.py.

    >>> x = tf.constant([-0.5, 0.0, 2.0])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = error_decay_sign(x, t=1.0, k=1.0)
    >>> y.numpy().tolist()
    [-1.0, 1.0, 1.0]
    >>> [round(value, 3) for value in tape.gradient(y, x).numpy().tolist()]
    [0.786, 1.0, 0.071]
    """

    @tf.custom_gradient
    def _call(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            steepness, scale = (
                tf.cast(tf.convert_to_tensor(value, dtype_hint=tf.float64), dy.dtype) for value in (t, k)
            )
            # The gradient of tanh, (1 − tanh²) · dy, is one operation of TensorFlow.
            return scale * steepness * tf.raw_ops.TanhGrad(y=tf.tanh(steepness * x), dy=dy)

        return elementwise.sign(x), grad

    return _call(x)


def balanced_scaled_sign(kernel: tf.Tensor, t: Any, k: Any) -> tf.Tensor:
    r"""Binarize a kernel with IR-Net's Libra parameter binarization, filter by filter.

    For the n weights w of a filter:

    Forward: v = (w − mean(w)) / std(w), std with n − 1; b = s · sign(v), s = 2^round(log2(mean |v|))
    (eqs. 4 – 7 of the paper).

    Backward: v receives s · db through `error_decay_sign`. The gradient from v to w includes those of the mean and of
    the standard deviation; s has no gradient.

    The paper divides by the standard deviation with n, the reference code by that with n − 1. This function follows the
    code. If all weights of a filter are equal, or if it has only one, its standard deviation is not defined and the
    result is NaN, as in the reference.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.
        t: Steepness, as in `error_decay_sign`.
        k: Scale, as in `error_decay_sign`.

    Returns:
        ±s in the shape of `kernel`.

    Source: IR-Net, CIFAR-10/ResNet20/1w1a/modules/ir_1w1a.py (`IRConv2d`).

    >>> balanced_scaled_sign(tf.constant([[1.0], [2.0], [4.0], [5.0]]), t=0.1, k=10.0).numpy().tolist()
    [[-1.0], [-1.0], [1.0], [1.0]]
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
    """Base class of quantizers with t and k."""

    precision = 1

    def __init__(self, t: float = T, k: float = K, annealed: Annealed | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.annealed = annealed or Annealed(t=t, k=k)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments with the current t and k, for serialization. A copy does not share them."""
        return {**super().get_config(), **self.annealed.values()}


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("error_decay_sign")
class ErrorDecaySign(_ErrorDecay):
    """Quantize the inputs of a layer with `error_decay_sign`.

    Args:
        t: Initial steepness.
        k: Initial scale.
        annealed: t and k shared with other quantizers. Replaces the arguments `t` and `k`.

    Picture: docs/quantizers.md#errordecaysign

    >>> quantizer = ErrorDecaySign(t=0.5, k=2.0)
    >>> quantizer(tf.constant([-0.3, 0.2])).numpy().tolist()
    [-1.0, 1.0]
    >>> quantizer.annealed.values()
    {'t': 0.5, 'k': 2.0}
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±1 in the shape of `inputs`."""
        return error_decay_sign(inputs, self.annealed["t"], self.annealed["k"])

    def inference_form(self) -> larq.quantizers.Quantizer:
        """Return the sign."""
        return larq.quantizers.SteSign()


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("balanced_scaled_sign")
class BalancedScaledSign(_ErrorDecay):
    """Quantize the kernel of a layer with `balanced_scaled_sign`.

    Args:
        t: Initial steepness.
        k: Initial scale.
        annealed: t and k shared with other quantizers. Replaces the arguments `t` and `k`.

    Picture: docs/quantizers.md#balancedscaledsign

    >>> BalancedScaledSign()(tf.constant([[1.0], [2.0], [4.0], [5.0]])).numpy().tolist()
    [[-1.0], [-1.0], [1.0], [1.0]]
    """

    powers_of_two = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±s in the shape of the kernel."""
        return balanced_scaled_sign(inputs, self.annealed["t"], self.annealed["k"])
