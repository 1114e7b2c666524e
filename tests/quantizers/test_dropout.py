"""Reproducible dropout: its masks, and when Keras models apply it."""

import random
import types

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import value_and_gradient

from bnn_keras.errors import BnnError
from bnn_keras.layers import ScaledConv2D
from bnn_keras.quantizers import Dropout, XnorSign

ONES = np.ones((100, 100), np.float32)
IMAGES = np.random.default_rng(0).normal(0, 1, (6, 5, 5, 4)).astype(np.float32)
LABELS = np.zeros((6, 2), np.float32)


def masks(quantizer, steps):
    return [quantizer(ONES, training=True).numpy() != 0 for _ in range(steps)]


def network(rate=0.5):
    """Return a model with dropout in the input quantizers of a convolution and of a dense layer."""
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input(IMAGES.shape[1:]),
            ScaledConv2D(3, 3, input_quantizer=Dropout(rate, "xnor_sign", seed=1) if rate else "xnor_sign"),
            tf.keras.layers.Flatten(),
            larq.layers.QuantDense(2, input_quantizer=Dropout(rate, "xnor_sign", seed=2) if rate else "xnor_sign"),
        ]
    )


def steps(model):
    return [int(layer.input_quantizer.step) for layer in model.layers if hasattr(layer, "input_quantizer")]


@pytest.mark.parametrize("arguments", [{}, {"training": False}])
@pytest.mark.parametrize(("quantizer", "expected"), [(None, IMAGES), ("xnor_sign", np.sign(IMAGES))])
def test_evaluation_drops_nothing(quantizer, expected, arguments):
    dropout = Dropout(0.5, quantizer, seed=1)
    assert np.array_equal(dropout(IMAGES, **arguments), expected)
    assert int(dropout.step) == 0


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_training_drops_the_given_fraction_and_scales_the_rest(rate):
    y = Dropout(rate, seed=1)(ONES, training=True).numpy()
    assert np.mean(y == 0) == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_quantized_outputs_have_three_values():
    y = Dropout(0.75, "xnor_sign", seed=1)(IMAGES, training=True).numpy()
    assert np.unique(y).tolist() == [-4, 0, 4]
    assert np.array_equal(np.sign(y)[y != 0], np.sign(IMAGES)[y != 0])


def test_mask_depends_on_seed_and_step_only():
    first = masks(Dropout(0.5, seed=1), 3)
    assert np.array_equal(first, masks(Dropout(0.5, seed=1), 3))
    resumed = Dropout(0.5, seed=1)
    resumed.build(ONES.shape)
    resumed.step.assign(2)
    assert np.array_equal(masks(resumed, 1)[0], first[2])
    # Masks of other steps or seeds are independent: half of the values agree.
    for other in (first[1], first[2], *masks(Dropout(0.5, seed=2), 3)):
        assert np.mean(first[0] == other) == pytest.approx(0.5, abs=0.03)


def test_mask_depends_on_the_replica(monkeypatch):
    (first,) = masks(Dropout(0.5, seed=1), 1)
    context = types.SimpleNamespace(replica_id_in_sync_group=1)
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: context)
    (second,) = masks(Dropout(0.5, seed=1), 1)
    assert 0.4 < np.mean(first != second) < 0.6


@pytest.mark.parametrize("training", [True, tf.constant(True)])
def test_traced_function_draws_the_same_masks(training):
    dropout = Dropout(0.5, seed=1)
    dropout.build(ONES.shape)
    traced = tf.function(lambda: dropout(ONES, training=training))
    assert np.array_equal([traced().numpy() != 0 for _ in range(3)], masks(Dropout(0.5, seed=1), 3))


def test_gradient_passes_kept_inputs_only():
    y, gradient = value_and_gradient(lambda x: Dropout(0.75, seed=1)(x, training=True), ONES, 3 * ONES)
    assert np.array_equal(gradient, 3 * y)

    upstream = np.ones_like(IMAGES)
    y, gradient = value_and_gradient(lambda x: Dropout(0.75, "xnor_sign", seed=1)(x, training=True), IMAGES, upstream)
    assert np.array_equal(gradient, 4.0 * ((y != 0) & (np.abs(IMAGES) < 1)))


def test_precision_equals_that_of_the_quantizer():
    assert Dropout(0.5, "xnor_sign").precision == 1
    assert Dropout(0.5, larq.quantizers.DoReFa(k_bit=2)).precision == 2
    assert Dropout(0.5).precision is None


def test_model_passes_training_to_dropout():
    model, plain = network(), network(rate=0)
    plain.set_weights([weight for weight in model.get_weights() if weight.shape])
    assert np.array_equal(model(IMAGES), plain(IMAGES))
    assert np.array_equal(model(IMAGES, training=False), plain(IMAGES))
    assert steps(model) == [0, 0]
    assert not np.array_equal(model(IMAGES, training=True), plain(IMAGES))
    assert steps(model) == [1, 1]


def test_only_training_steps_are_counted():
    model = network()
    model.compile("sgd", "mse")
    model.train_on_batch(IMAGES, LABELS)
    assert steps(model) == [1, 1]
    model.fit(IMAGES, LABELS, batch_size=2, epochs=2, validation_data=(IMAGES, LABELS), verbose=0)
    model.evaluate(IMAGES, LABELS, verbose=0)
    model.predict(IMAGES, verbose=0)
    assert steps(model) == [7, 7]


@pytest.mark.parametrize("file", ["weights.h5", "weights"])
def test_saved_weights_contain_the_step(file, tmp_path):
    model, copy = network(), network()
    for _ in range(3):
        model(IMAGES, training=True)
    counters = [layer.input_quantizer.step for layer in model.layers if hasattr(layer, "input_quantizer")]
    assert [sum(weight is counter for weight in model.non_trainable_weights) for counter in counters] == [1, 1]
    model.save_weights(tmp_path / file)
    copy.load_weights(tmp_path / file)
    assert steps(copy) == [3, 3]
    assert np.array_equal(model(IMAGES, training=True), copy(IMAGES, training=True))


def test_saved_model_continues_with_the_next_mask(tmp_path):
    model = network()
    model(IMAGES, training=True)
    model.save(tmp_path / "model.keras")
    copy = tf.keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(model(IMAGES, training=True), copy(IMAGES, training=True))


def test_serialization_keeps_arguments():
    dropout = Dropout(0.25, XnorSign(), seed=9)
    copy = larq.quantizers.deserialize(larq.quantizers.serialize(dropout))
    assert (copy.rate, copy.seed, type(copy.quantizer), copy.precision) == (0.25, 9, XnorSign, 1)
    layer = larq.layers.QuantDense(2, input_quantizer=Dropout(0.5))
    copy = larq.layers.QuantDense.from_config(layer.get_config()).input_quantizer
    assert (copy.rate, copy.seed, copy.quantizer) == (0.5, layer.input_quantizer.seed, None)


def test_default_seed_comes_from_pythons_generator():
    random.seed(4)
    seeds = [Dropout(0.5).seed for _ in range(2)]
    random.seed(4)
    assert seeds == [Dropout(0.5).seed for _ in range(2)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_rate_out_of_bounds_is_rejected(rate):
    with pytest.raises(BnnError, match=rf"dropout rate is {rate!r}; expected 0 ≤ rate < 1"):
        Dropout(rate)
