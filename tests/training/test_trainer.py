"""A training and its run directory: files, resuming, interrupts, damage, full disks, progress."""

import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT, contents, once, read_weights, same_weights
from rich.console import Console
from trainings import (
    assert_same_training,
    build_tiny_model,
    make_earlier_version,
    resume_copy,
    small_experiment,
    stepping,
    tiny_networks,
    train_with_copies,
)

from bnn_keras import checkpoints, evaluate, load_run, resolve, train
from bnn_keras.build import build_model
from bnn_keras.counts import binary_variables
from bnn_keras.data import describe, open_dataset, record_of
from bnn_keras.errors import BnnError
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run
from bnn_keras.training import callbacks, progress, trainer

pytestmark = pytest.mark.usefixtures("tiny")

FALLING_GAMMA = "stages.0.optimizer.gamma={schedule='geometric', initial=1e-3, final=1e-5}"


@pytest.fixture(scope="session")
def with_bar(tmp_path_factory):
    """The training of `stepping()` once more, with what it shows on a terminal in "shown.txt"."""

    def make(folder):
        with (folder / "shown.txt").open("w") as stream, pytest.MonkeyPatch.context() as patch, tiny_networks():
            patch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0)
            train(stepping(), folder / "run", console=Console(file=stream, force_terminal=True, width=150))

    return once(tmp_path_factory, "with_bar", make)


@pytest.fixture(scope="session")
def other_seed(tmp_path_factory):
    """The training of `stepping()` with another seed, with what it prints in "shown.txt"."""

    def make(folder):
        with (folder / "shown.txt").open("w") as stream, tiny_networks():
            train(stepping(seed=2), folder / "run", console=Console(file=stream))

    return once(tmp_path_factory, "other_seed", make)


# --- files of a run ---


def test_run_directory(trained):
    assert {path.name for path in trained.iterdir()} == {
        "experiment.toml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "tensorboard",
        "weights.h5",
        "weights_best.h5",
        "result.json",
        ".lock",
    }
    run = Run.read(trained)
    assert run.experiment == resolve("lenet5", epochs=2).experiment
    assert run.environment["seed"] == 1
    assert run.environment["dataset"]["labels"] == [str(digit) for digit in range(10)]
    assert {"tensorflow", "larq"} <= set(run.environment["packages"])
    assert list(trained.glob("tensorboard/*/events*"))


def test_metrics_and_result(trained):
    run = Run.read(trained)
    rows, result = run.metrics, run.result
    assert [(row["epoch"], row["step"], row["first"]) for row in rows] == [(1, 32, True), (2, 64, False)]
    for row in rows:
        assert 0 < row["flip_ratio"] < 1
        assert row["learning_rate"] == pytest.approx(0.01)
        assert row["images_per_second"] > 0
        assert row["seconds"] > 4000 / row["images_per_second"]
        assert row["loss"] > 0
    assert result["top1"] == rows[-1]["val_top1"] > 85
    assert result["top5"] == rows[-1]["val_top5"] > result["top1"]
    assert result["best_top1"] == max(row["val_top1"] for row in rows)
    assert result["images_per_second"] == pytest.approx(rows[1]["images_per_second"])
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert (result["epochs"], result["parameters"], result["binary_parameters"]) == (2, 431_220, 425_000)
    assert (result["experiment"], result["seed"]) == ("xnor_net/lenet5_mnist_5k", 1)


def test_two_checkpoints_are_kept(trained):
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["epoch-00001", "epoch-00002"]


def test_environment_has_no_secrets(trained):
    text = json.dumps(Run(trained).environment)
    assert not any(value in text for name, value in os.environ.items() if "TOKEN" in name or "KEY" in name if value)


def test_learning_rate_follows_its_schedule(stepped):
    rates = [row["learning_rate"] for row in Run(stepped / "whole").metrics]
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-4], rel=1e-5)


def test_same_seed_gives_same_weights(stepped, with_bar, other_seed):
    weights = stepped / "whole" / "weights.h5"
    assert same_weights(weights, with_bar / "run" / "weights.h5")
    assert not same_weights(weights, other_seed / "run" / "weights.h5")


def test_finished_run_is_not_trained_again(trained, data_dir):
    before = (trained / "weights.h5").stat().st_mtime_ns
    assert train(resolve("lenet5", epochs=2).experiment, trained, data_dir=data_dir) == Run(trained).result
    assert (trained / "weights.h5").stat().st_mtime_ns == before


def test_run_of_another_experiment_is_refused(trained, data_dir):
    with pytest.raises(BnnError) as caught:
        train(resolve("lenet5", epochs=2, seed=2).experiment, trained, data_dir=data_dir)
    assert str(caught.value) == (
        f"{str(trained)!r} holds a run of another experiment (requested / existing): seed: 2 / 1; "
        "give another --run DIR"
    )


# --- validation images ---


@pytest.mark.usefixtures("eager")
def test_best_epoch_is_chosen_on_validation_images(tmp_path, monkeypatch):
    """The test images are measured once, after the last epoch; a resumed training measures the same."""
    measured = []

    def count_and_measure(self, model, dataset):
        measured.append((len(Run(tmp_path / "run").metrics), dataset.examples(dataset.info.test)))
        return accuracies(self, model, dataset)

    accuracies = trainer._Training._accuracies
    monkeypatch.setattr(trainer._Training, "_accuracies", count_and_measure)
    experiment = small_experiment(overrides=["data.validation=0.25"], examples=128, epochs=3)
    shown = io.StringIO()
    result = train(experiment, tmp_path / "run", console=Console(file=shown, width=200))
    assert measured == [(3, 128), (3, 128)]
    assert re.findall("(test|validation) [0-9.]+ %", shown.getvalue()) == ["validation"] * 3
    rows = Run(tmp_path / "run").metrics
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert result["best_chosen_on"] == "validation"
    assert result["validation_top1"] == rows[-1]["val_top1"]
    assert result["best_validation_top1"] == max(row["val_top1"] for row in rows)
    for best, key in ((False, "top1"), (True, "best_top1")):
        assert result[key] == pytest.approx(evaluate(tmp_path / "run", best=best)["top1"])
    (tmp_path / "run" / "result.json").unlink()
    assert train(experiment, tmp_path / "run") == result


@pytest.mark.usefixtures("eager")
def test_held_out_images_are_not_trained_on(tmp_path):
    held_out = small_experiment(overrides=["data.validation=0.5"], epochs=1)
    train(held_out, tmp_path / "run")
    assert Run(tmp_path / "run").metrics[0]["step"] == 1


# --- resuming ---


@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.slow), 1, 3])
def test_resumed_training_equals_uninterrupted_training(stepped, tmp_path, epoch):
    assert_same_training(resume_copy(stepping(), stepped, epoch, tmp_path / "run"), stepped / "whole")


def two_stages_of_irnet():
    experiment = small_experiment(scheme="irnet", epochs=2)
    return experiment.model_copy(update={"stages": experiment.stages * 2})


@pytest.mark.usefixtures("eager")
def test_resumed_annealing(tmp_path):
    """IR-Net's t and k follow their schedule over all stages, and are restored."""
    experiment = two_stages_of_irnet()
    train_with_copies(experiment, tmp_path)
    rows = Run(tmp_path / "whole").metrics
    assert [row["t"] for row in rows] == pytest.approx([0.1, 10**-0.5, 1.0, 10**0.5])
    assert [row["k"] for row in rows] == pytest.approx([10.0, 10**0.5, 1.0, 1.0])
    checkpoint = checkpoints.latest(Run(tmp_path / "whole"))
    model = build_tiny_model(experiment)
    checkpoint.restore(model, None)
    assert model.scheme.annealed.values() == pytest.approx({"t": 10**0.5, "k": 1.0})
    assert_same_training(resume_copy(experiment, tmp_path, 1, tmp_path / "run"), tmp_path / "whole")


def test_resumed_bop(tmp_path):
    """Bop's state and the schedule of gamma resume, and its kernels stay ±1."""
    experiment = small_experiment(optimizer="bop", overrides=[FALLING_GAMMA])
    train_with_copies(experiment, tmp_path)
    rows = Run(tmp_path / "whole").metrics
    assert [row["gamma"] for row in rows] == pytest.approx([1e-3, 10**-3.5, 1e-4, 10**-4.5])
    assert all(0 < row["flip_ratio"] < 1 for row in rows)
    _, model = load_run(tmp_path / "whole")
    binary = binary_variables(model)
    assert binary
    assert all(np.array_equal(np.abs(variable), np.ones(variable.shape)) for variable in binary)
    assert_same_training(resume_copy(experiment, tmp_path, 1, tmp_path / "run"), tmp_path / "whole")


@pytest.mark.slow
def test_resumed_training_with_real_activations(tmp_path):
    experiment = small_experiment(scheme="bireal", bits="1/32", epochs=2)
    train_with_copies(experiment, tmp_path)
    assert_same_training(resume_copy(experiment, tmp_path, 1, tmp_path / "run"), tmp_path / "whole")


@pytest.mark.usefixtures("eager")
def test_resumed_dropout(tmp_path):
    """The number of steps, which decides what is dropped, is restored."""
    experiment = small_experiment(epochs=2)
    with tiny_networks(dropout=0.5):
        train_with_copies(experiment, tmp_path)
        assert_same_training(resume_copy(experiment, tmp_path, 1, tmp_path / "run"), tmp_path / "whole")
    steps = [value for name, value in read_weights(tmp_path / "run" / "weights.h5").items() if "step" in name]
    assert steps == [4]


@pytest.mark.nightly
def test_resumed_dropout_of_nin(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "build_model", build_model)
    experiment = small_experiment("nin", examples=16, batch_size=8, epochs=2)
    train_with_copies(experiment, tmp_path)
    assert_same_training(resume_copy(experiment, tmp_path, 1, tmp_path / "run"), tmp_path / "whole")
    steps = [value for name, value in read_weights(tmp_path / "run" / "weights.h5").items() if "step" in name]
    assert steps == [4, 4]


@pytest.mark.slow
def test_training_resumes_after_sigkill(stepped, tmp_path):
    """A process of its own is killed in the third or fourth epoch: its steps are slow enough to be caught there."""
    directory = tmp_path / "killed"
    code = f"""
import time
from bnn_keras import train
from bnn_keras.experiment import load_experiment
from bnn_keras.training import callbacks
from trainings import tiny_networks
callbacks.MeasureEpoch.on_train_batch_end = lambda *args: time.sleep(0.5)
experiment = load_experiment({str(stepped / "whole" / "experiment.toml")!r})
with tiny_networks():
    train(experiment, {str(directory)!r}, save_every="1steps")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while len(Run(directory).metrics) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert Run(directory).result is None
    train(stepping(), directory)
    assert_same_training(Run(directory), stepped / "whole")


# --- XLA and profiles ---


@pytest.mark.parametrize(("steps", "expected"), [(1, [0]), (12, range(2, 12)), (40, range(10, 20))])
def test_profile_has_ten_steps_of_the_first_epoch(tmp_path, monkeypatch, steps, expected):
    profiled, running = [], []
    monkeypatch.setattr(tf.profiler.experimental, "start", running.append)
    monkeypatch.setattr(tf.profiler.experimental, "stop", running.clear)
    callback = callbacks.ProfileSteps(tmp_path / "profile")
    callback.set_params({"steps": steps})
    for batch in [*range(steps)] * 2:
        callback.on_train_batch_begin(batch)
        profiled += [batch] * len(running)
        callback.on_train_batch_end(batch)
    assert profiled == [*expected]
    assert not running


@pytest.mark.slow
def test_training_with_xla_and_a_profile(tmp_path):
    train(small_experiment(epochs=1), tmp_path / "run", jit=True, profile=tmp_path / "profile")
    assert Run(tmp_path / "run").environment["jit"] is True
    assert [path.suffix for path in (tmp_path / "profile").rglob("*") if path.is_file()] == [".pb"]


# --- damaged checkpoints ---


def test_damaged_checkpoint_is_skipped(stepped, tmp_path):
    shutil.copytree(stepped / "killed-3", tmp_path / "killed-3")
    (data,) = (tmp_path / "killed-3" / "checkpoints" / "epoch-00003").glob("*.data-*")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(damaged)
    message = r"damaged checkpoint: epoch-00003 \(variables.*changed\); epoch-00002 is used instead"
    with pytest.warns(UserWarning, match=message):
        resumed = resume_copy(stepping(), tmp_path, 3, tmp_path / "run")
    assert_same_training(resumed, stepped / "whole")


def test_every_checkpoint_damaged(stepped, tmp_path):
    directory = shutil.copytree(stepped / "killed-1", tmp_path / "run")
    (directory / "checkpoints" / "epoch-00001" / "state.json").write_text("{")
    with pytest.raises(BnnError, match=r"every checkpoint of .* is damaged: epoch-00001 .*; restore one from"):
        train(stepping(), directory)
    train(stepping(), directory, fresh=True)
    assert_same_training(Run(directory), stepped / "whole")


# --- starting over ---


@pytest.mark.usefixtures("eager")
def test_fresh_starts_over_and_keeps_other_files(stepped, tmp_path):
    directory = shutil.copytree(stepped / "whole", tmp_path / "run")
    (directory / "notes.txt").write_text("mine")
    train(stepping(epochs=1), directory, fresh=True)
    assert len(Run(directory).metrics) == 1
    assert (directory / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_finished_run_in_a_folder_that_cannot_be_written(stepped, tmp_path, monkeypatch):
    """Nothing is opened for writing, not even the lock file."""
    directory = shutil.copytree(stepped / "whole", tmp_path / "run")
    (directory / ".lock").unlink()
    monkeypatch.setattr(Run, "owned", lambda run: pytest.fail("locked"))
    before = contents(directory)
    assert train(stepping(), directory) == Run(directory).result
    assert contents(directory) == before


@pytest.mark.usefixtures("eager")
def test_fresh_keeps_the_run_before_if_the_first_epoch_fails(stepped, tmp_path):
    """A run without trained weights, such as that of the failed training, is not kept."""
    directory = shutil.copytree(stepped / "whole", tmp_path / "run")
    (tmp_path / "run.old-1").mkdir()
    diverging = small_experiment(overrides=["stages.0.optimizer.learning_rate=1e35"])
    with pytest.raises(BnnError, match=r"the loss is .*; the run before is kept in '.*/run.old-2'$"):
        train(diverging, directory, fresh=True)
    assert Run(tmp_path / "run.old-2").result == Run(stepped / "whole").result
    assert same_weights(tmp_path / "run.old-2" / "weights.h5", stepped / "whole" / "weights.h5")
    train(small_experiment(epochs=1), directory, fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]


def test_no_message_advises_fresh():
    """Only the one about another number of epochs does, which also names the other ways (test_changing.py)."""
    with_option = {ROOT / "cli" / "runs.py", ROOT / "cli" / "options.py"}
    files = {*(ROOT / "bnn_keras").rglob("*.py"), *(ROOT / "cli").rglob("*.py")} - with_option
    assert [path.name for path in files if "--fresh" in path.read_text()] == ["trainer.py"]


def test_fresh_keeps_the_run_if_the_new_training_cannot_start(stepped, tmp_path):
    directory = shutil.copytree(stepped / "whole", tmp_path / "run")
    with pytest.raises(BnnError, match="--manual-dir"):
        train(stepping(dataset="mnist"), directory, data_dir=str(tmp_path / "none"), manual_dir="/nowhere", fresh=True)
    assert Run(directory).result == Run(stepped / "whole").result


def test_training_that_cannot_start_leaves_no_files(tmp_path):
    directory = tmp_path / "runs" / "x"
    with pytest.raises(BnnError, match="--manual-dir"):
        train(stepping(dataset="mnist"), directory, data_dir=str(tmp_path / "none"), manual_dir="/nowhere")
    assert not (tmp_path / "runs").exists()


# --- errors while training ---


@pytest.mark.usefixtures("eager")
def test_loss_that_is_not_finite_stops_the_training(tmp_path):
    experiment = small_experiment(overrides=["stages.0.optimizer.learning_rate=1e30"])
    with pytest.raises(
        BnnError,
        match=r"the loss is (nan|inf) in epoch 1; expected a finite number; the .* is the first that is not finite, in "
        r"step \d of 2 in epoch 1; lower the learning rate$",
    ):
        train(experiment, tmp_path / "run")
    assert not (tmp_path / "run" / "weights.h5").exists()


def test_experiment_must_be_an_experiment(tmp_path):
    with pytest.raises(BnnError, match=r"got 'lenet5' \(str\); expected an Experiment, such as bnn_keras.resolve"):
        train("lenet5", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def photographs(tmp_path, eager):
    """A folder of three images, and a function that trains a tiny network on it for an epoch."""
    image = tf.io.encode_png(np.zeros((40, 40, 3), np.uint8)).numpy()
    for file in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png"):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True)
        path.write_bytes(image)

    def train_on_photographs(*overrides):
        overrides = ("data.validation=0", *overrides)
        row = describe("image_folder", DataLocation(str(tmp_path / "images")))
        experiment = resolve("lenet5", dataset=row, epochs=1, batch_size=2, overrides=overrides).experiment
        return train(experiment, tmp_path / "run", data_dir=str(tmp_path / "images"))

    return tmp_path / "images", train_on_photographs


def test_damaged_training_image_is_one_clear_error(photographs):
    """The training that did not begin is repeated with the repaired image."""
    folder, train_on_photographs = photographs
    (folder / "train/dog/1.png").write_text("no image")
    with pytest.raises(BnnError, match=r"cannot decode an image of dataset 'image_folder' \(.*datasets check DIR`"):
        train_on_photographs()
    shutil.copy(folder / "train/cat/1.png", folder / "train/dog/1.png")
    train_on_photographs()
    recorded = Run(folder.parent / "run").environment["dataset"]
    assert recorded == record_of(open_dataset("image_folder", DataLocation(str(folder))))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            lambda folder: (folder / "train/dog").rename(folder / "train/wolf"),
            r"class wolf instead of dog; other image",
        ),
        (
            lambda folder: shutil.copy(folder / "train/dog/1.png", folder / "train/dog/2.png"),
            r"name or size\) in train",
        ),
        (lambda folder: (folder / "test/cat/1.png").rename(folder / "test/cat/2.png"), r"name or size\) in test;"),
    ],
)
def test_resume_with_other_images_is_one_clear_error(photographs, change, difference):
    folder, train_on_photographs = photographs
    run = Run(folder.parent / "run")
    train_on_photographs()
    recorded = run.environment["dataset"]
    assert (recorded["labels"], recorded["train_examples"], recorded["test_examples"]) == (["cat", "dog"], 2, 1)
    assert {split: len(digest) for split, digest in recorded["digests"].items()} == {"train": 64, "test": 64}
    (run / "result.json").unlink()
    change(folder)
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.name != ".lock"}
    with pytest.raises(BnnError, match=rf"run' was trained on other images of .*{difference}.*give another --run DIR"):
        train_on_photographs()
    after = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.name != ".lock"}
    assert {path for path in before if before[path] != after[path] and path.is_file()} == set()
    assert set(before) == set(after)


def test_damaged_images_are_left_out_and_recorded(photographs):
    folder, train_on_photographs = photographs
    shutil.copy(folder / "train/dog/1.png", folder / "train/dog/2.png")
    (folder / "train/dog/1.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"train/dog/1.png' is left out: it cannot be decoded"):
        train_on_photographs("data.max_damaged=1")
    recorded = Run(folder.parent / "run").environment["dataset"]
    assert (recorded["train_examples"], recorded["damaged"]) == (2, ["train/dog/1.png"])


def test_too_many_damaged_images_are_an_error_before_anything_is_written(photographs):
    folder, train_on_photographs = photographs
    for name in ("train/dog/1.png", "train/cat/1.png"):
        (folder / name).write_text("no image")
    with pytest.raises(BnnError, match=r"2 images of 'train' in .*data.max_damaged is 1"):
        train_on_photographs("data.max_damaged=1")
    assert not (folder.parent / "run").exists()


def test_records_of_earlier_versions_are_not_compared(photographs):
    folder, train_on_photographs = photographs
    run = Run(folder.parent / "run")
    train_on_photographs()
    (run / "result.json").unlink()
    shutil.copy(folder / "train/dog/1.png", folder / "train/dog/2.png")
    environment = run.environment
    del environment["dataset"]["digests"]
    make_earlier_version(run.directory)
    (run / "environment.json").write_text(json.dumps(environment))
    assert train_on_photographs()["epochs"] == 1


@pytest.mark.usefixtures("eager")
def test_divergence_in_the_last_step_keeps_the_last_checkpoint(tmp_path):
    """With one step per epoch, the training loss is finite: it is measured before the step."""
    rates = "stages.0.optimizer.learning_rate={schedule='multi_step', initial=1e-3, boundaries=[1], factor=1e35}"
    experiment = small_experiment(examples=32, epochs=2, overrides=[rates])
    with pytest.raises(BnnError, match=r"the val_loss is (nan|inf) in epoch 2; expected .*; lower the .* `bnnk"):
        train(experiment, tmp_path / "run")
    assert checkpoints.latest(Run(tmp_path / "run")).state.epoch == len(Run(tmp_path / "run").metrics) == 1
    assert all(np.isfinite(value).all() for value in read_weights(tmp_path / "run" / "weights.h5").values())


def test_weight_that_is_not_finite_stops_the_training():
    measure = callbacks.MeasureEpoch(examples=32)
    measure.set_model(build_tiny_model(stepping()))
    measure.on_epoch_begin(0)
    measure.model.weights[0].assign_add(tf.fill(measure.model.weights[0].shape, np.inf))
    with pytest.raises(BnnError, match="the weight first/kernel:0 is inf in epoch 1; expected a finite number"):
        measure.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})


@contextlib.contextmanager
def limited_file_size(size):
    """Make writes beyond a number of bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("eager")
def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    directory, experiment = tmp_path / "killed-1", stepping(epochs=2)
    with tiny_networks(filters=512):
        train_with_copies(experiment, tmp_path)
        with limited_file_size(300_000), pytest.raises(BnnError) as caught:
            train(experiment, directory)
    assert str(caught.value).startswith(f"cannot write '{directory}/weights")
    assert "(File too large); free disk space" in str(caught.value)
    assert not list(directory.rglob(".*.new*"))
    assert checkpoints.latest(Run(directory)).state.epoch == 1
    with tiny_networks(filters=512):
        train(experiment, directory)
    assert_same_training(Run(directory), tmp_path / "whole")


def test_full_disk_while_a_checkpoint_is_written(tmp_path):
    model = build_model(stepping())
    optimizer = tf.keras.optimizers.legacy.SGD()
    run = Run(tmp_path)
    checkpoints.save(run, checkpoints.State(epoch=1), model, optimizer, {})
    with limited_file_size(300_000), pytest.raises(BnnError, match=r"cannot write '.*checkpoints' \(.*; free disk"):
        checkpoints.save(run, checkpoints.State(epoch=2), model, optimizer, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-00001"]
    assert checkpoints.latest(run).state.epoch == 1


# --- progress ---


def test_plain_progress_has_a_line_per_epoch(other_seed):
    lines = (other_seed / "shown.txt").read_text().splitlines()
    assert len(lines) == 4
    for part in ("epoch 4/4", "images/s", "loss", "top-1", "test", "left 0:00"):
        assert part in lines[3]
    assert "left" not in lines[0]


def test_bar_on_a_terminal(with_bar):
    shown = (with_bar / "shown.txt").read_text()
    for part in ("epoch 4/4", "images/s", "loss", "top-1", "test", "left 0:0"):
        assert part in shown
