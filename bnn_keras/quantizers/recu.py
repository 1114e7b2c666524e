"""ReCU's estimators (Xu et al. 2021, arXiv:2103.12369), as its code computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise
from bnn_keras.quantizers.annealing import Annealed
from bnn_keras.quantizers.signs import approximate_sign

TAU = 1.0  # default of the reference's layers, before its trainer sets it: no weight is clamped
EPSILON = 1e-5


def clamped_scaled_sign(kernel: tf.Tensor, scale: tf.Tensor, tau: Any) -> tf.Tensor:
    r"""Binarize a kernel to ±α with a learnt α for each filter, and clamp its standardised weights.

    Forward, for the n weights w of a filter: s = 2√2 · (w − mean(w)) / √(var(w) + 1e-5), var with n − 1;
    b = α · sign(s).

    Backward: dα = Σ db · sign(s) over the filter. s receives α · db where |s| ≤ Q, else 0, with
    Q = −ln(2 − 2τ) · mean |s| over the whole kernel, which has no gradient. The gradient from s to w includes those of
    the mean and of the variance.

    Q is the quantile τ of |s|'s Laplace distribution (eq. 10 of the paper). The paper clamps weights to ±Q. As Q > 0,
    this changes no sign: it only stops the gradient of weights beyond ±Q (of normal ones 34 % at τ = 0.85, 0.2 % at
    0.99). sign(0) is +1 here and 0 in the reference.

    Args:
        kernel: HWIO (or IO) kernel; a filter is one index of the last axis.
        scale: The scales α, (filters,). A negative one flips the signs of its filter.
        tau: τ, 0.5 ≤ τ ≤ 1, a number or a scalar variable. At 1, Q is infinite.

    Returns:
        ±α in the shape of `kernel`.

    Source: ReCU, cifar/modules/binarized_modules.py (`BinarizeConv2d`).

    >>> kernel = tf.constant([[1.0], [2.0], [4.0], [5.0]])
    >>> clamped_scaled_sign(kernel, scale=tf.constant([0.5]), tau=0.85).numpy().tolist()
    [[-0.5], [-0.5], [0.5], [0.5]]
    """
    filter_axes = range(len(kernel.shape) - 1)
    centred = kernel - tf.reduce_mean(kernel, filter_axes, keepdims=True)
    standardised = 2 * math.sqrt(2) * centred / _deviation(centred, filter_axes)
    quantile = -tf.math.log(2 - 2 * tf.convert_to_tensor(tau, dtype_hint=tf.float64))
    bound = tf.stop_gradient(tf.cast(quantile, kernel.dtype) * tf.reduce_mean(tf.abs(standardised)))

    @tf.custom_gradient
    def sign(standardised: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return elementwise.masked(dy, tf.abs(standardised) <= bound)

        return elementwise.sign(standardised), grad

    return scale * sign(standardised)


def normalized_sign(x: tf.Tensor) -> tf.Tensor:
    r"""Compute the sign of activations that are divided by the deviation of their image.

    Forward: z = x / √(var(x) + 1e-5), var with n − 1 over the n values of an image; y = +1 where z ≥ 0, else −1.
    Backward: dz = max(2 − 2|z|, 0) · dy. The gradient from z to x includes that of the variance.

    The division changes no sign, only the gradients: those of values within one deviation of an image pass. sign(0) is
    +1 here, as in Larq, and 0 in the reference.

    Args:
        x: Activations, (batch, …).

    Returns:
        ±1 in the shape of `x`.

    Source: ReCU, cifar/modules/binarized_modules.py (`BinarizeConv2d`, `BinaryQuantize_a`).

    >>> x = tf.constant([[-30.0, 10.0, 20.0]])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = normalized_sign(x)
    >>> y.numpy().tolist()
    [[-1.0, 1.0, 1.0]]
    >>> tape.gradient(y, x).numpy().any()
    True
    """
    return approximate_sign(_normalized(x))


@tf.custom_gradient
def _normalized(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Divide the values of each image by their deviation, with the gradient in one closed form.

    Forward: z = r x, r = 1 / √(var(x) + 1e-5).
    Backward: dx = r dz − r³ / (n − 1) · (Σ x dz) · (x − mean(x)). TensorFlow's own gradient of these operations takes
    twice as many passes over the map.
    """
    axes = list(range(1, len(x.shape)))
    centred, correction = x - tf.reduce_mean(x, axes, keepdims=True), _correction(x, axes)
    inverse = tf.math.rsqrt(correction * tf.reduce_mean(centred * centred, axes, keepdims=True) + EPSILON)

    def grad(dz: tf.Tensor) -> tf.Tensor:
        factor = inverse**3 * correction * tf.reduce_mean(x * dz, axes, keepdims=True)
        return inverse * dz - factor * centred

    return x * inverse, grad


def _deviation(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Return √(var(x) + 1e-5) over some axes, which are kept; var with n − 1."""
    return tf.sqrt(_correction(x, axes) * tf.math.reduce_variance(x, list(axes), keepdims=True) + EPSILON)


def _correction(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Return n / (n − 1) for the n values over some axes."""
    number = tf.reduce_prod([tf.shape(x)[axis] for axis in axes])
    return tf.cast(number / tf.maximum(number - 1, 1), x.dtype)


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("clamped_scaled_sign")
class ClampedScaledSign(larq.quantizers.Quantizer):
    """Quantize the kernel of a layer with `clamped_scaled_sign`. The scales are weights, drawn from U(0, 1).

    Args:
        tau: Initial τ.
        annealed: τ shared with other quantizers. Replaces the argument `tau`.

    Picture: docs/quantizers.md#clampedscaledsign

    >>> quantizer = ClampedScaledSign(tau=0.85)
    >>> binary = quantizer(tf.constant([[1.0], [2.0], [4.0], [5.0]]))
    >>> [tuple(weight.shape) for weight in quantizer.trainable_weights]
    [(1,)]
    >>> bool(tf.reduce_all(tf.abs(binary) == quantizer.alpha))
    True
    """

    precision = 1

    def __init__(self, tau: float = TAU, annealed: Annealed | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.annealed = annealed or Annealed(tau=tau)

    def build(self, input_shape: Any) -> None:
        """Create the scales."""
        uniform = tf.keras.initializers.RandomUniform(0, 1)
        self.alpha = self.add_weight("alpha", shape=(input_shape[-1],), initializer=uniform)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ±α in the shape of the kernel."""
        return clamped_scaled_sign(inputs, self.alpha, self.annealed["tau"])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments with the current τ, for serialization. A copy does not share it."""
        return {**super().get_config(), **self.annealed.values()}


@larq.utils.register_keras_custom_object
@larq.utils.register_alias("normalized_sign")
class NormalizedSign(larq.quantizers.Quantizer):
    """Quantize the inputs of a layer: `normalized_sign` in training, `approximate_sign` in evaluation.

    The two have the same values. Their gradients differ.

    Picture: docs/quantizers.md#normalizedsign

    >>> NormalizedSign()(tf.constant([[-30.0, 10.0, 20.0]]), training=True).numpy().tolist()
    [[-1.0, 1.0, 1.0]]
    """

    precision = 1

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """Return ±1 in the shape of `inputs`."""
        if training is None:
            training = tf.keras.backend.learning_phase()
        return tf.__internal__.smart_cond.smart_cond(
            training, lambda: normalized_sign(inputs), lambda: approximate_sign(inputs)
        )

    def estimator_slope(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the slope at the inputs, divided by the deviation of their image as in training, in their shape."""
        return elementwise.triangle(inputs / _deviation(inputs, range(1, len(inputs.shape))))

    def inference_form(self) -> larq.quantizers.Quantizer:
        """Return the sign."""
        return larq.quantizers.SteSign()
