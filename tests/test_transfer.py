"""Weights pass from one network to another by name."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import small_network

from bnn_keras import schemes
from bnn_keras.errors import BnnError
from bnn_keras.transfer import head, take_weights


def network(*layers):
    return tf.keras.Sequential([tf.keras.Input((4,)), *layers])


def dense(name, units=3, **options):
    return tf.keras.layers.Dense(units, name=name, kernel_initializer="normal", **options)


def values(model):
    return {weight.name: value for weight, value in zip(model.weights, model.get_weights(), strict=True)}


def test_weights_go_by_name_not_by_position():
    source = network(dense("a", 4), dense("b", 4), dense("old", 4))
    model = network(dense("b", 4), dense("a", 4), dense("new"))
    before = values(model)
    transfer = take_weights(model, source)
    assert transfer.fresh == ("new/kernel:0", "new/bias:0")
    assert transfer.dropped == ("old/kernel:0", "old/bias:0")
    for name, value in values(model).items():
        assert np.array_equal(value, before[name] if name in transfer.fresh else values(source)[name])


def test_latent_weights_are_taken():
    """Kernels behind a quantizer pass as they are trained, not as ±1."""
    source, model = (network(schemes.bireal().dense(3, name="binary")) for _ in range(2))
    assert take_weights(model, source).fresh == ()
    assert np.array_equal(model.get_weights()[0], source.get_weights()[0])
    assert len(np.unique(np.abs(model.get_weights()[0]))) > 3


def test_weight_of_another_shape():
    source, model = network(dense("a", 4), dense("b", 5)), network(dense("a", 4), dense("b", 6))
    before = values(model)
    with pytest.raises(
        BnnError, match=r"weight 'b/kernel:0' has shape \(4, 5\) in the network .*, but \(4, 6\) in the new"
    ):
        take_weights(model, source)
    assert all(np.array_equal(value, before[name]) for name, value in values(model).items())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("lenet5", {"ip2"}),
        ("nin", {"xnor.13"}),
        ("wrn_20_1", {"conv_last", "bn_last"}),
        ("binarynet", {"quant_dense_1", "batch_normalization_5"}),
        ("resnet20", {"linear"}),
    ],
)
def test_only_the_last_layer_depends_on_the_number_of_classes(name, layers):
    models = [small_network(name, schemes.xnor(), classes=classes) for classes in (10, 3)]
    shapes = [{weight.name: weight.shape for weight in model.weights} for model in models]
    changed = {weight for weight, shape in shapes[0].items() if shapes[1][weight] != shape}
    assert changed == set(head(models[0]))
    assert {weight.split("/")[0] for weight in changed} == layers
