"""Small trainings for tests: `from trainings import ...` (pytest puts this folder on the path)."""

import contextlib
import functools
import json
import shutil

import pytest
import tensorflow as tf
from helpers import same_weights

from bnn_keras import checkpoints, models, resolve, runs, train
from bnn_keras.build import build_scheme
from bnn_keras.runs import Run
from bnn_keras.training import trainer


def small_experiment(network="lenet5", *, examples=64, batch_size=32, epochs=4, overrides=(), **options):
    """Return an experiment on a few made-up images: two steps per epoch unless the arguments say otherwise."""
    overrides = [f"data.examples={examples}", *overrides]
    options = {"dataset": "fake", "batch_size": batch_size, "epochs": epochs, **options}
    return resolve(network, overrides=overrides, **options).experiment


def stepping(**options):
    """Two steps per epoch on made-up images, with a learning rate that falls after the first and the second epoch."""
    overrides = ["stages.0.optimizer.learning_rate.boundaries=[1, 2]"]
    return small_experiment(examples=36, overrides=overrides, **options)


def build_tiny_model(experiment, stage=None, *, batch_norm=True, dropout=0.0, filters=16):
    """Build a network with one binary layer in the place of `build_model`, for tests that need any network."""
    tf.keras.utils.set_random_seed(experiment.seed)
    images = tf.keras.layers.Input(experiment.input_shape)
    x = tf.keras.layers.Conv2D(8, 5, 4, name="first")(images)
    if batch_norm:
        x = tf.keras.layers.BatchNormalization(name="batch_norm")(x)
    scheme = build_scheme(experiment, stage)
    x = scheme.conv2d(filters, 3, padding="same", dropout=dropout, name="binary")(x)
    if batch_norm:
        x = tf.keras.layers.BatchNormalization(name="second_batch_norm")(x)
    x = tf.keras.layers.Flatten(name="flatten")(x)
    logits = tf.keras.layers.Dense(experiment.data.row.classes, dtype="float32", name="logits")(x)
    model = tf.keras.Model(images, logits, name="tiny")
    model.scheme = scheme
    return model


@contextlib.contextmanager
def tiny_networks(**options):
    """Build the tiny network for every experiment, with options of `build_tiny_model`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (trainer, models):
            patch.setattr(module, "build_model", functools.partial(build_tiny_model, **options))
        yield


@contextlib.contextmanager
def eagerly():
    """Train without graphs, which take longer to trace than a few steps take. For tests of what is around the steps."""
    compile_ = tf.keras.Model.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tf.keras.Model, "compile", lambda *args, **options: compile_(*args, **{**options, "run_eagerly": True})
        )
        yield


def assert_same_training(resumed, whole):
    """Two runs have the same weights and metrics, bit for bit."""
    for name in ("weights.h5", "weights_best.h5"):
        assert same_weights(whole / name, resumed / name)
    for key in ("epoch", "step", "loss", "val_loss", "val_top1", "flip_ratio"):
        assert [row[key] for row in Run(whole).metrics] == [row[key] for row in resumed.metrics]


def train_with_copies(experiment, folder, **options):
    """Train into folder/"whole", and keep copies of the run as a SIGKILL would leave it.

    folder/"killed-<n>" is the run in epoch n, counted from 0: metrics and weights are written, the checkpoint is not.
    """
    save = checkpoints.save

    def copy_and_save(run, state, *args, **options):
        shutil.copytree(run.directory, folder / f"killed-{state.epoch - 1}")
        save(run, state, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", copy_and_save)
        return train(experiment, folder / "whole", plain=True, **options)


def make_earlier_version(directory):
    """Remove from a run what earlier versions did not write: digests of weights, and copies in checkpoints."""
    for name in ("weights.h5", "weights_best.h5"):
        (directory / name).write_bytes((directory / name).read_bytes()[512:])
    for folder in (directory / "checkpoints").iterdir():
        state = json.loads((folder / "state.json").read_text())
        del state["digest"]
        for name in set(runs.COPIED) & set(state["files"]):
            (folder / name).unlink()
            del state["files"][name]
        (folder / "state.json").write_text(json.dumps({**state, "experiment": "0" * 64}))


def resume_copy(experiment, folder, epoch, directory, **options):
    """Resume the copy of a run that was killed in an epoch, in another directory; return the run."""
    shutil.copytree(folder / f"killed-{epoch}", directory)
    assert len(Run(directory).metrics) == epoch + 1
    assert Run(directory).result is None
    train(experiment, directory, plain=True, **options)
    return Run(directory)
