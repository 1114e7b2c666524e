"""Reproducible dropout, between an input quantizer and its layer or as a layer."""

from __future__ import annotations

import random
from typing import Any

import larq
import tensorflow as tf

from bnn_keras import elementwise
from bnn_keras.errors import BnnError
from bnn_keras.quantizers.inference import inference_form
from bnn_keras.quantizers.slopes import estimator_slope


@larq.utils.register_keras_custom_object
class Dropout(larq.quantizers.Quantizer):
    """Set a fraction of the inputs to 0 during training and scale the others by 1 / (1 − rate).

    Forward: y = q(x) · d / (1 − rate), d = 0 with probability `rate`, else 1. Backward: dx = q'(dy · d / (1 − rate)).
    In evaluation y = q(x).

    The mask is a pure function of `seed` and of the number of training steps. That number is a weight of the layer, so
    a resumed training draws the same masks as uninterrupted training. Keras's own layer draws from a random state that
    checkpoints do not contain.

    Args:
        rate: Fraction of the inputs to drop, 0 ≤ rate < 1.
        quantizer: Quantizer applied before the dropout; None for dropout alone.
        seed: Seed of the masks. Drawn from Python's generator by default.

    Raises:
        BnnError: The rate is out of bounds.

    Picture: docs/quantizers.md#dropout

    >>> dropout = Dropout(0.5, "xnor_sign", seed=1)
    >>> dropout(tf.constant([0.3, -0.2])).numpy().tolist()
    [1.0, -1.0]
    >>> sorted(set(dropout(tf.ones(100), training=True).numpy().tolist()))
    [0.0, 2.0]
    """

    def __init__(self, rate: float, quantizer: Any = None, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise BnnError(f"dropout rate is {rate!r}; expected 0 ≤ rate < 1, such as 0.5")
        self.rate = rate
        self.quantizer = larq.quantizers.get(quantizer)
        self.seed = random.randrange(2**31) if seed is None else seed
        self.precision = getattr(self.quantizer, "precision", None)

    def build(self, input_shape: Any) -> None:
        """Create the counter of training steps."""
        self.step = self.add_weight(
            "step",
            shape=(),
            dtype=tf.int64,
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """Return the quantized inputs, with dropout in training mode."""
        x = self.quantizer(inputs) if self.quantizer else inputs
        if training is None:
            training = tf.keras.backend.learning_phase()
        return tf.__internal__.smart_cond.smart_cond(training, lambda: self._drop(x), lambda: tf.identity(x))

    def _drop(self, x: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        key = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(self.seed, tf.int64), self.step]), replica)
        kept = tf.random.stateless_uniform(tf.shape(x), key) >= self.rate
        self.step.assign_add(1)
        return elementwise.masked(x / (1 - self.rate), kept)

    def inference_form(self) -> Any:
        """Return the quantizer in front of the dropout, which inference leaves out."""
        return inference_form(self.quantizer)

    def estimator_slope(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the slope of the quantizer in front of the dropout, in the shape of `inputs`."""
        return estimator_slope(self.quantizer, inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        quantizer = larq.quantizers.serialize(self.quantizer) if self.quantizer else None
        return {**super().get_config(), "rate": self.rate, "quantizer": quantizer, "seed": self.seed}
