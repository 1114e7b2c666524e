"""Networks with weights: weights pass from one to another by name; files that HDF5 cannot read are one error."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import load_run, models, schemes
from bnn_keras.errors import BnnError
from bnn_keras.models import take_weights


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


def test_damaged_weights_without_a_digest_are_one_error(trained, tmp_path, monkeypatch):
    """Weights of earlier versions have no digest, so HDF5 reads them, and raises errors of several kinds."""
    directory = shutil.copytree(trained, tmp_path / "run", ignore=lambda *_: ["checkpoints", "tensorboard"])
    content = (trained / "weights.h5").read_bytes()[512:]
    assert content.startswith(b"\x89HDF")
    _, model = load_run(trained)
    monkeypatch.setattr(models, "build_empty", lambda *_: model)
    messages = []
    for at in range(864, 1312, 96):
        (directory / "weights.h5").write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
        try:
            load_run(directory)
        except BnnError as error:  # any other error is a defect
            messages.append(str(error))
    pattern = r"cannot read '.*weights.h5' as the weights of lenet5 \(.*\); run `bnnk repair .*"
    assert all(re.fullmatch(pattern, message) for message in messages)
    assert "attribute" in "".join(messages)
