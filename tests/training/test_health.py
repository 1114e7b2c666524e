"""The health of layers: values, resuming, and that measuring changes nothing."""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import same_weights
from trainings import build_tiny_model, small_experiment, tiny_networks

from bnn_keras import train
from bnn_keras.layers import precision_policy
from bnn_keras.runs import Run
from bnn_keras.training import health
from bnn_keras.training.callbacks import MeasureEpoch, SaveRun
from bnn_keras.training.distribution import build_replicas

TIMES = ("seconds", "images_per_second", "first")


class Killed(BaseException):
    """Raised in the place of a `kill -9`."""


def test_measures_of_weights():
    layer = larq.layers.QuantDense(1, kernel_quantizer="ste_sign", kernel_constraint="weight_clip", name="dense")
    model = tf.keras.Sequential([tf.keras.layers.Input((4,)), layer])
    layer.set_weights([np.array([[-1.0], [0.5], [1.0], [-0.2]]), np.zeros(1)])
    model.compile(loss="mse")
    measure = MeasureEpoch(examples=1)
    measure.set_model(model)
    measure.on_epoch_begin(0)
    layer.set_weights([np.array([[1.0], [0.5], [1.0], [-0.2]]), np.zeros(1)])
    logs = {}
    measure.on_epoch_end(0, logs)
    measured = dict(health.measure_weights(model, measure))
    assert measured == {"flip_ratio/dense": 0.25, "positive_weights/dense": 0.75, "clipped_weights/dense": 0.5}
    assert logs["flip_ratio"] == 0.25


def test_measures_of_inputs_and_gradients():
    """The loss is Σ (y − label)² / 2 over two images: its gradient in y is y − label."""
    inputs = tf.keras.Input((2,))
    x = tf.keras.layers.BatchNormalization(epsilon=0.0, name="norm")(inputs)
    layer = larq.layers.QuantDense(1, input_quantizer="ste_sign", use_bias=False, name="dense")
    model = tf.keras.Model(inputs, layer(x))
    model.compile(loss="mse")
    model.get_layer("norm").set_weights([np.ones(2), np.zeros(2), np.array([1.0, 0.0]), np.array([4.0, 1.0])])
    layer.set_weights([np.array([[0.5], [0.25]])])
    images = tf.constant([[4.0, 3.0], [0.0, 0.5]])  # normalised: (1.5, 3), (−0.5, 0.5)
    measured = health.build_probe(model, images, tf.zeros((2, 1)))()
    assert {name: float(value) for name, value in measured.items()} == {
        "saturated_inputs/dense": 0.5,
        "constant_inputs/dense": 0.5,
        "gradient_norm/dense": pytest.approx(np.hypot(0.75 + 0.25, 0.75 - 0.25)),  # y = 0.75, −0.25
        "batch_norm_shift/norm": (0.5 + 1.75) / 2,
    }


@pytest.mark.parametrize("scheme", ["float", "irnet", "reactnet", "recu"])
def test_a_probe_changes_no_variable(scheme):
    model = build_tiny_model(small_experiment(scheme=scheme), dropout=0.5)
    model.compile(loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    images, labels = tf.random.stateless_normal((4, *model.input_shape[1:]), (1, 2)), tf.zeros(4, tf.int64)
    measured = build_replicas("single").on_first(health.build_probe(model, images, labels))
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    assert ("saturated_inputs/binary" in measured) == (scheme != "float")
    assert all(np.isfinite(value) for value in measured.values())
    assert measured["gradient_norm/binary"] > 0


@pytest.mark.slow
def test_a_resumed_training_measures_the_same(tmp_path, monkeypatch):
    write = SaveRun.within_epoch

    def write_and_die(self, *args):
        write(self, *args)
        if self.state.epoch == 1:
            self.wait()
            raise Killed

    monkeypatch.setattr(health, "STEPS_BETWEEN_PROBES", 2)
    options = {"plain": True, "save_every": "1steps"}
    experiment = small_experiment(epochs=2, batch_size=16, examples=32)
    with tiny_networks(dropout=0.5):
        train(experiment, tmp_path / "whole", **options)
        with monkeypatch.context() as patch:
            patch.setattr(SaveRun, "within_epoch", write_and_die)
            with pytest.raises(Killed):
                train(experiment, tmp_path / "killed", **options)
        train(experiment, tmp_path / "killed", **options)
        monkeypatch.setattr(health, "STEPS_BETWEEN_PROBES", 100)
        train(experiment, tmp_path / "unprobed", **options)
    whole, killed, unprobed = (
        [{key: value for key, value in row.items() if key not in TIMES} for row in Run(tmp_path / name).metrics]
        for name in ("whole", "killed", "unprobed")
    )
    assert whole == killed
    assert {"flip_ratio/binary", "saturated_inputs/binary", "batch_norm_shift/batch_norm"} <= whole[0].keys()
    assert unprobed == [{key: row[key] for key in unprobed[0]} for row in whole]
    assert "saturated_inputs/binary" not in unprobed[0]
    assert same_weights(tmp_path / "whole" / "weights.h5", tmp_path / "unprobed" / "weights.h5")


def test_norms_of_gradients_in_float16():
    """They neither vanish nor overflow, although the optimizer's loss scale is large at the start."""
    norms = []
    for precision in ("float32", "mixed_float16"):
        with precision_policy(precision):
            model = build_tiny_model(small_experiment())
            model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            images, labels = tf.random.stateless_normal((4, *model.input_shape[1:]), (1, 2)), tf.zeros(4, tf.int64)
            measured = health.build_probe(model, images, labels)()
            norms.append([float(measured[f"gradient_norm/{layer}"]) for layer in ("first", "binary", "logits")])
    assert norms[1] == pytest.approx(norms[0], rel=0.01)
