"""Predictors: functions from images to outputs, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

Predictor = Callable[[np.ndarray], np.ndarray]


def in_batches(predict: Predictor, batch_size: int) -> Predictor:
    """Return a predictor for any number of images from one for a fixed batch size; it pads the last batch."""

    def predict_all(images: np.ndarray) -> np.ndarray:
        results = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            missing = batch_size - len(batch)
            full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
            results.append(np.asarray(predict(full))[: len(batch)])
        return np.concatenate(results)

    return predict_all


def with_keras(function: Callable[..., tf.Tensor]) -> Predictor:
    """Return a predictor that compiles and calls a Keras model or another TensorFlow function."""
    compiled = tf.function(lambda images: function(images), reduce_retracing=True)
    return lambda images: compiled(tf.constant(images)).numpy()
