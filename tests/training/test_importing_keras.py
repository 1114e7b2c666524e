"""Weights of rethinking-bnn-optimization's networks: .h5 files and checkpoints of TensorFlow of its trainer."""

import json

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import BnnError, checkpoints, export_run, import_checkpoint, load_run, resolve
from bnn_keras.build import build_model
from bnn_keras.interop import read_checkpoint
from bnn_keras.runs import Run

# Small networks with all layers.
CHOICES = {
    "binarynet": {"dataset": "fake", "overrides": ["network.filters=4", "network.dense_units=8", "data.examples=8"]},
    "binary_alexnet": {"dataset": "fake", "overrides": ["data.examples=8"]},
    "xnornet": {"dataset": "fake", "overrides": ["data.examples=8"]},
    "birealnet18": {"dataset": "fake", "overrides": ["network.variant=rethinking", "data.examples=8"]},
}
NETWORKS = [pytest.param(name, marks=() if name == "binarynet" else pytest.mark.nightly) for name in CHOICES]


def trained_like(network):
    """Return a Keras model with the layers of a network and random weights; sequential where the reference's is."""
    model = build_model(resolve(network, **CHOICES[network]).experiment)
    reference = tf.keras.models.clone_model(model)
    if not any(isinstance(layer.input, list) for layer in model.layers):
        reference = tf.keras.Sequential([tf.keras.Input(model.input_shape[1:]), *reference.layers[1:]])
    random = np.random.default_rng(0)
    reference.set_weights([random.standard_normal(value.shape, np.float32) for value in reference.get_weights()])
    reference.compile(tf.keras.optimizers.legacy.Adam(), "mse")
    reference.optimizer._create_all_weights(reference.trainable_variables)  # a checkpoint of TensorFlow has its slots
    return reference


def assert_weights(run, reference):
    _, model = load_run(run, constrain=False)
    for ours, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("network", NETWORKS)
def test_import_and_export(tmp_path, network):
    """Both files of the trainer: `model` after each epoch, with stats.json, and `NAME_weights.h5` at the end."""
    reference = trained_like(network)
    reference.save_weights(tmp_path / "model")
    (tmp_path / "stats.json").write_text(json.dumps({"epoch": 3}))
    reference.save_weights(tmp_path / f"{network}_weights.h5")
    import_checkpoint(tmp_path / "model", tmp_path / "tensorflow", network, **CHOICES[network])
    assert_weights(tmp_path / "tensorflow", reference)
    assert checkpoints.latest(Run(tmp_path / "tensorflow")).state.epoch == 3
    import_checkpoint(tmp_path / f"{network}_weights.h5", tmp_path / "keras", network, **CHOICES[network])
    assert_weights(tmp_path / "keras", reference)
    assert checkpoints.latest(Run(tmp_path / "keras")).state.epoch == 0

    export_run(tmp_path / "keras", "reference", tmp_path / "again.h5")
    given, written = (read_checkpoint(tmp_path / name) for name in (f"{network}_weights.h5", "again.h5"))
    assert given.keys() == written.keys()
    assert all(given[name].tobytes() == value.tobytes() for name, value in written.items())
    again = trained_like(network)
    again.set_weights([np.zeros_like(value) for value in again.get_weights()])
    again.load_weights(tmp_path / "again.h5")
    for ours, theirs in zip(again.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_another_network(tmp_path):
    reference = trained_like("binarynet")
    reference.save_weights(tmp_path / "model")
    with pytest.raises(BnnError, match=r"not the tensors of binarynet: quant_conv2d/kernel has shape \(3, 3, 3, 4\)"):
        import_checkpoint(tmp_path / "model", tmp_path / "run", "binarynet", dataset="fake")
    with pytest.raises(BnnError, match=r"tensors of binary_alexnet: .*layer_with_weights-16/kernel is unknown"):
        import_checkpoint(tmp_path / "model.index", tmp_path / "run", "binary_alexnet", dataset="fake")


def test_name_of_another_file(tmp_path):
    reference = trained_like("binarynet")
    reference.save_weights(tmp_path / "x.h5")
    import_checkpoint(tmp_path / "x.h5", tmp_path / "run", "binarynet", **CHOICES["binarynet"])
    with pytest.raises(BnnError, match=r"not the name of a file of Keras's weights; name it 'x\.h5'"):
        export_run(tmp_path / "run", "reference", tmp_path / "x.pth")
