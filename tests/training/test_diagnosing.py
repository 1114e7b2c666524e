"""Where a training diverged. The errors of whole trainings are in test_trainer.py."""

import pytest
import tensorflow as tf

from bnn_keras.errors import DivergedError
from bnn_keras.training.diagnosing import StopIfNotFinite, first_not_finite


def network(*layers):
    inputs = x = tf.keras.Input((2,))
    for layer in layers:
        x = layer(x)
    model = tf.keras.Model(inputs, x)
    model.compile(loss="mse")
    return model


def dense(name, value):
    return tf.keras.layers.Dense(2, name=name, kernel_initializer=tf.keras.initializers.Constant(value))


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([dense("a", 1e30), dense("b", 1e30), dense("c", 1e30)], "the output of layer 'b'"),
        ([dense("a", 1e15), dense("b", 1e15)], "the loss"),
        (
            [dense("a", 0.0), tf.keras.layers.Activation(tf.sqrt, name="root"), dense("b", 1.0)],
            "the gradient of layer 'a'",
        ),
        ([dense("a", 1.0)], None),
    ],
)
def test_first_not_finite(layers, found):
    assert first_not_finite(network(*layers), tf.ones((1, 2)), tf.ones((1, 2))) == found


def test_training_stops_after_the_step():
    stop = StopIfNotFinite()
    stop.set_model(network(dense("a", 1.0)))
    stop.on_epoch_begin(1)
    stop.on_train_batch_end(0, {"loss": float("nan")})
    with pytest.raises(DivergedError, match="the loss is nan in epoch 2; expected a finite number; lower the learning"):
        stop.on_train_batch_end(1, {"loss": float("nan")})
