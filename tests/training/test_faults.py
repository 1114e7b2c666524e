"""Faults of the machine while a network is trained: each is one line, and no finished step is lost."""

import itertools
import os
import shutil
import time

import pytest
import tensorflow as tf
from trainings import assert_same_training, small_experiment

from bnn_keras import checkpoints, resolve, train
from bnn_keras.data import describe, readers
from bnn_keras.errors import BnnError
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run
from bnn_keras.training.callbacks import MeasureEpoch

pytestmark = pytest.mark.usefixtures("tiny", "eager")


@pytest.fixture
def in_epoch(monkeypatch):
    """Return a function that lets something happen at the start of an epoch, counted from 0."""

    def let(action, epoch, hook="on_epoch_begin"):
        method, happened = getattr(MeasureEpoch, hook), []

        def act(self, index, logs=None):
            if index == epoch and not happened:
                happened.append(action)
                action()
            return method(self, index, logs)

        monkeypatch.setattr(MeasureEpoch, hook, act)

    return let


def test_folder_renamed_while_training(tmp_path, in_epoch):
    """All steps until then are saved in the renamed folder, also in the first epoch."""
    experiment = small_experiment(epochs=2)
    train(experiment, tmp_path / "whole")
    in_epoch(lambda: (tmp_path / "run").rename(tmp_path / "other"), 1, "on_train_batch_begin")
    with pytest.raises(
        BnnError,
        match=r"renamed to .*/other while it was trained; stopped after step 2 of 2 in epoch 1, saved; run the same "
        r"command again with --run .*/other to continue$",
    ):
        train(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(experiment, tmp_path / "other")
    assert_same_training(Run(tmp_path / "other"), tmp_path / "whole")


@pytest.mark.slow
def test_folder_removed_while_training(tmp_path, in_epoch):
    in_epoch(lambda: shutil.rmtree(tmp_path / "run"), 1)
    with pytest.raises(BnnError, match=r"run' was renamed or removed while the run was trained, and nothing more"):
        train(small_experiment(epochs=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("size", "reason"), [pytest.param(1000, "corrupted|truncated", marks=pytest.mark.slow), (0, "expected to contain")]
)
def test_data_file_truncated_while_training(tmp_path, few_digits, in_epoch, monkeypatch, size, reason):
    """Images that do not fit into memory are read again in each epoch."""
    monkeypatch.setattr(readers, "MAX_CACHED_BYTES", 0)
    monkeypatch.setattr(readers, "SHUFFLE_BUFFER", 0)
    shutil.copytree(few_digits, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*-train.*")
    in_epoch(lambda: os.truncate(file, size), 1)
    experiment = resolve("lenet5", dataset="mnist_5k", epochs=8, batch_size=100).experiment
    with pytest.raises(
        BnnError, match=rf"cannot read the images of dataset 'mnist_5k' \(.*({reason}).*; its files were"
    ):
        train(experiment, tmp_path / "run", data_dir=str(tmp_path / "data"))
    assert checkpoints.latest(Run(tmp_path / "run")).state.epoch


@pytest.mark.slow
def test_image_removed_while_training(tmp_path, in_epoch):
    image = tf.io.encode_png(tf.zeros((40, 40, 3), tf.uint8)).numpy()
    for file in ("train/cat/1.png", "train/cat/2.png", "test/cat/1.png"):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    in_epoch(path.parents[2].joinpath("train/cat/2.png").unlink, 1)
    row = describe("image_folder", DataLocation(str(tmp_path / "images")))
    experiment = resolve("lenet5", dataset=row, epochs=8, batch_size=2, overrides=["data.validation=0"]).experiment
    with pytest.raises(BnnError, match=r"cannot read the images of dataset 'image_folder' \(.*2.png; No such file"):
        train(experiment, tmp_path / "run", data_dir=str(tmp_path / "images"))


@pytest.mark.slow
def test_batch_that_does_not_fit_into_memory(tmp_path, in_epoch):
    """The training resumes from its last checkpoint when there is memory again."""
    experiment = small_experiment(epochs=2)
    train(experiment, tmp_path / "whole")

    def allocate():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nmore lines")

    in_epoch(allocate, 1)
    fix = "free memory or disk space, or set a smaller --batch-size"
    with pytest.raises(BnnError, match=rf"^out of memory or disk space \(OOM when allocating tensor\); {fix}$"):
        train(experiment, tmp_path / "run")
    train(experiment, tmp_path / "run")
    assert_same_training(Run(tmp_path / "run"), tmp_path / "whole")


@pytest.mark.slow
def test_clock_set_back_while_training(tmp_path, monkeypatch):
    """The clock that a user can set, here back an hour each time it is read, times no checkpoint and no epoch."""
    experiment = small_experiment(epochs=2)
    train(experiment, tmp_path / "whole")
    hours = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 2e9 - 3600 * next(hours))
    train(experiment, tmp_path / "run", save_every="0.001s")
    assert_same_training(Run(tmp_path / "run"), tmp_path / "whole")
    assert all(row["seconds"] > 0 for row in Run(tmp_path / "run").metrics)
