"""Dropout that repeats: between a quantizer and its layer, or on its own."""

from __future__ import annotations

import random
from typing import Any

import larq
import tensorflow as tf

from bnn_keras.errors import BnnError


@larq.utils.register_keras_custom_object
class Dropout(larq.quantizers.Quantizer):
    """In training sets a share of its inputs to 0, and multiplies the others to make up for it; else does nothing.

    Forward: y = q(x) · d / (1 − rate), d = 0 with probability `rate`, else 1. Backward: dx = q'(dy · d / (1 − rate)).

    What is dropped is a pure function of (seed, number of training steps so far): the number is a weight of the layer,
    so that a training that is resumed drops what one that was never interrupted drops. Keras's own layer draws from a
    state that no checkpoint holds.

    Args:
        rate: Share that is dropped, 0 ≤ rate < 1.
        quantizer: Comes before it: a layer whose inputs are quantized, then dropped. None for dropout alone.
        seed: Drawn from Python's generator where absent.

    Raises:
        BnnError: The rate is out of its bounds.
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
        """Adds the number of training steps."""
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
        """The inputs, quantized and, in training, with some at 0."""
        x = self.quantizer(inputs) if self.quantizer else inputs
        if training is None:
            training = tf.keras.backend.learning_phase()
        return tf.__internal__.smart_cond.smart_cond(training, lambda: self._dropped(x), lambda: tf.identity(x))

    def _dropped(self, x: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        key = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(self.seed, tf.int64), self.step]), replica)
        kept = tf.random.stateless_uniform(tf.shape(x), key) >= self.rate
        self.step.assign_add(1)
        return tf.where(kept, x / (1 - self.rate), tf.zeros_like(x))

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        quantizer = larq.quantizers.serialize(self.quantizer) if self.quantizer else None
        return {**super().get_config(), "rate": self.rate, "quantizer": quantizer, "seed": self.seed}
