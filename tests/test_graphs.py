"""Copies of functional models compute the same, without nested models and with other layers."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.graphs import flat_copy, nodes_of, rebuild

layers = tf.keras.layers


def base(name="base"):
    x = images = tf.keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    return tf.keras.Model(images, layers.Add(name="add")([x, 2 * x]), name=name)


def images(count=3):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype(np.float32)


def test_nested_models_are_flattened_and_compute_the_same():
    inputs = tf.keras.Input((8, 8, 3))
    x = base()(inputs, training=False)
    x = base("again")(layers.Conv2D(3, 1, name="between")(x))
    x = tf.keras.Sequential([layers.Flatten(), layers.Dense(2, name="head")], name="top")(x)
    model = tf.keras.Model(inputs, x, name="outer")
    copy = flat_copy(model)
    assert copy.name == "outer"
    assert not any(isinstance(layer, tf.keras.Model) for layer in copy.layers)
    names = [layer.name for layer in copy.layers]
    assert names.count("conv") == names.count("again.conv") == names.count("head") == 1
    x = images()
    assert np.array_equal(copy(x), model(x))
    tf.keras.utils.set_random_seed(1)
    for network in (model, copy):  # the first base stays in inference mode in training
        network.get_layer("between").set_weights([np.zeros((1, 1, 4, 3)), np.ones(3)])
        network(x, training=True)
    assert np.array_equal(copy.get_layer("norm").moving_mean, np.zeros(4))
    assert np.abs(copy.get_layer("again.norm").moving_mean).max() > 0


def test_a_shared_layer_and_a_shared_model_stay_shared():
    left, right = tf.keras.Input((8, 8, 3), name="left"), tf.keras.Input((8, 8, 3), name="right")
    tower = base("tower")
    pool = layers.GlobalAveragePooling2D(name="pool")
    model = tf.keras.Model({"left": left, "right": right}, [pool(tower(left)), pool(tower(right))])
    copy = flat_copy(model)
    assert len(copy.weights) == len(model.weights)
    inputs = {"left": images(), "right": images()[::-1]}
    for expected, actual in zip(model(inputs), copy(inputs), strict=True):
        assert np.array_equal(expected, actual)


def test_the_copy_has_weights_of_its_own():
    model = base()
    copy = flat_copy(model)
    copy.get_layer("conv").kernel.assign_add(tf.ones((3, 3, 3, 4)))
    assert not np.array_equal(model(images()), copy(images()))


def test_adapted_layers_and_types():
    normalization = layers.Normalization()
    normalization.adapt(images())
    inputs = tf.keras.Input((8, 8, 3))
    dense = layers.Dense(2, dtype="mixed_bfloat16")(layers.Flatten()(normalization(inputs)))
    model = tf.keras.Model(inputs, dense)
    assert np.array_equal(flat_copy(model)(images()), model(images()))
    assert flat_copy(model, dtype="float32")(images()).dtype == tf.float32
    np.testing.assert_allclose(flat_copy(model, "float32")(images()), tf.cast(model(images()), tf.float32), atol=0.1)


def test_rebuild_replaces_and_drops_calls():
    model = base()
    old = {node.layer.name for node in nodes_of(model)}
    kept = rebuild(model, lambda node: [] if node.layer.name in ("norm", "drop") else [node.layer])
    assert old - {layer.name for layer in kept.layers} == {"norm", "drop"}
    doubled = rebuild(
        model, lambda node: [node.layer, layers.Rescaling(2.0)] if node.layer.name == "add" else [node.layer]
    )
    np.testing.assert_allclose(doubled(images()), 2 * model(images()), rtol=1e-6)


class Subclassed(tf.keras.Model):
    def call(self, inputs):
        return inputs


class Custom(layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, inputs):
        return inputs


def _with(layer):
    x = tf.keras.Input((4,))
    return tf.keras.Model(x, layer(x), name="m")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "vgg", "the model is a builtins.str; expected a model of tf.keras"),
        (Subclassed, "without a graph of layers; expected a functional model"),
        (lambda: tf.keras.Sequential([layers.Dense(2)]), r"start it with tf.keras.Input\(shape\)"),
        (lambda: _with(Subclassed(name="inner")), r"cannot be copied: inner \(a subclassed model\)"),
        (lambda: _with(Custom(3)), r"cannot be copied: custom\w* \(Custom: "),
    ],
)
def test_other_models_are_one_error(make, message):
    with pytest.raises(BnnError, match=message):
        flat_copy(make())
