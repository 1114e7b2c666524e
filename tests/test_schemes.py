"""One table of schemes × networks: what holds for each pair."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_model, build_optimizer
from bnn_keras.counts import binary_variables
from bnn_keras.experiment import Optimizer, resolve

PAIRS = [
    (network, scheme, bits)
    for network in catalog.NETWORKS
    for scheme, row in catalog.SCHEMES.items()
    for bits in row.bits
]


def build(network, scheme, bits):
    return build_model(resolve(network, scheme=scheme, bits=bits).experiment)


@pytest.mark.parametrize(("network", "scheme", "bits"), PAIRS)
def test_pair(network, scheme, bits, tmp_path):
    model = build(network, scheme, bits)
    binary = binary_variables(model)
    assert binary

    with larq.context.quantized_scope(True):
        for variable in binary:
            quantized = tf.convert_to_tensor(variable).numpy()
            for channel in quantized.reshape(-1, quantized.shape[-1]).T:
                values = np.unique(channel)
                assert len(values) <= 2
                assert np.allclose(np.abs(values), np.abs(values[0]))

    random = np.random.default_rng(5)
    images = random.normal(0, 1, (4, *model.input_shape[1:])).astype(np.float32)
    labels = np.arange(4) % model.output_shape[-1]
    before = model.get_weights()
    optimizer = build_optimizer(Optimizer(name="adam_torch", learning_rate=0.01))
    model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(images, labels)
    changed = {
        weight.name: not np.array_equal(old, new)
        for weight, old, new in zip(model.weights, before, model.get_weights(), strict=True)
    }
    assert all(changed.values()), [name for name, moved in changed.items() if not moved]

    model.save_weights(tmp_path / "weights.h5")
    copy = build(network, scheme, bits)
    copy.load_weights(tmp_path / "weights.h5")
    assert np.array_equal(model.predict(images, verbose=0), copy.predict(images, verbose=0))


def test_model_survives_serialization(tmp_path):
    model = build("lenet5", "xnor", "1/1")
    model.save(tmp_path / "model.keras")
    copy = tf.keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(6).normal(0, 1, (2, 28, 28, 1)).astype(np.float32)
    assert np.array_equal(model(images), copy(images))
