import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, read_weights, same_weights
from rich.console import Console

from bnn_keras import catalog, load_run, resolve, runs, train
from bnn_keras.build import build_model
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.quantizers import annealed_of
from bnn_keras.runs import Run
from bnn_keras.training import callbacks, checkpoints

QUICK = {"epochs": 2, "batch_size": 500}


def quick(**options):
    return resolve("lenet5", **{**QUICK, **options}).experiment


@pytest.fixture
def interrupt(monkeypatch):
    """Stops a training as Ctrl-C does, in the given epoch (from 0), before its checkpoint is written."""

    def arm(epoch):
        save = callbacks.SaveRun.on_epoch_end

        def stop(self, at, logs=None):
            if at == epoch:
                raise KeyboardInterrupt
            save(self, at, logs)

        monkeypatch.setattr(callbacks.SaveRun, "on_epoch_end", stop)

    return arm


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


def test_learning_rate_follows_its_schedule(tmp_path, data_dir):
    experiment = quick(epochs=3, overrides=["stages.0.optimizer.learning_rate.boundaries=[1, 2]"])
    train(experiment, tmp_path / "run", data_dir=data_dir)
    assert [row["learning_rate"] for row in Run(tmp_path / "run").metrics] == pytest.approx(
        [1e-2, 1e-3, 1e-4], rel=1e-5
    )


def test_same_seed_same_weights_other_seed_other_weights(tmp_path, data_dir):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(quick(seed=seed), tmp_path / name, data_dir=data_dir)
    assert same_weights(tmp_path / "a" / "weights.h5", tmp_path / "b" / "weights.h5")
    assert not same_weights(tmp_path / "a" / "weights.h5", tmp_path / "c" / "weights.h5")


def test_finished_run_is_not_trained_again(trained, data_dir):
    before = (trained / "weights.h5").stat().st_mtime_ns
    assert train(resolve("lenet5", epochs=2).experiment, trained, data_dir=data_dir) == Run(trained).result
    assert (trained / "weights.h5").stat().st_mtime_ns == before


def test_another_experiment_is_refused_with_the_keys(trained, data_dir):
    message = r"another experiment \(asked for / there\): stages.0.epochs: 3 / 2, seed: |stages.0.epochs: 3 / 2"
    with pytest.raises(BnnError, match=message):
        train(resolve("lenet5", epochs=3).experiment, trained, data_dir=data_dir)


FALLING_GAMMA = "stages.0.optimizer.gamma={schedule='geometric', initial=1e-3, final=1e-5}"


@pytest.mark.parametrize(
    ("epoch", "options"),
    [
        (0, {}),
        (1, {}),
        (3, {}),
        (1, {"scheme": "irnet"}),
        (1, {"optimizer": "bop", "overrides": [FALLING_GAMMA]}),
        (1, {"scheme": "bireal", "bits": "1/32"}),
    ],
    ids=str,
)
def test_interrupted_and_resumed_equals_never_interrupted(tmp_path, data_dir, interrupt, monkeypatch, epoch, options):
    experiment = quick(epochs=4, **options)
    train(experiment, tmp_path / "whole", data_dir=data_dir)
    interrupt(epoch)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "cut", data_dir=data_dir)
    assert Run(tmp_path / "cut").result is None
    monkeypatch.undo()
    train(experiment, tmp_path / "cut", data_dir=data_dir)
    for name in ("weights.h5", "weights_best.h5"):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "cut" / name)
    rows = [Run(tmp_path / name).metrics for name in ("whole", "cut")]
    for key in ("epoch", "step", "loss", "val_loss", "val_top1", "flip_ratio"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


def test_dropout_goes_on_where_it_was(tmp_path, data_dir, interrupt, monkeypatch):
    few = dataclasses.replace(catalog.DATASETS["mnist_5k"], train="train[:64]", test="test[:16]")
    monkeypatch.setitem(catalog.DATASETS, "mnist_5k", few)
    experiment = resolve("nin", dataset="mnist_5k", epochs=2, batch_size=32).experiment
    train(experiment, tmp_path / "whole", data_dir=data_dir)
    with monkeypatch.context() as patch:
        save = callbacks.SaveRun.on_epoch_end
        patch.setattr(
            callbacks.SaveRun, "on_epoch_end", lambda *args: save(*args) if args[1] == 0 else pytest.fail("cut")
        )
        with pytest.raises(pytest.fail.Exception, match="cut"):
            train(experiment, tmp_path / "cut", data_dir=data_dir)
    train(experiment, tmp_path / "cut", data_dir=data_dir)
    assert same_weights(tmp_path / "whole" / "weights.h5", tmp_path / "cut" / "weights.h5")
    steps = [value for name, value in read_weights(tmp_path / "cut" / "weights.h5").items() if "step" in name]
    assert steps == [4, 4]


def test_what_anneals_follows_its_schedule_over_all_stages(tmp_path, data_dir):
    experiment = quick(scheme="irnet", epochs=1)
    experiment = experiment.model_copy(update={"stages": experiment.stages * 2})
    train(experiment, tmp_path / "run", data_dir=data_dir)
    rows = Run(tmp_path / "run").metrics
    assert [row["t"] for row in rows] == pytest.approx([0.1, 1.0])
    assert [row["k"] for row in rows] == pytest.approx([10.0, 1.0])
    checkpoint = checkpoints.latest(Run(tmp_path / "run"))
    model = build_model(experiment)
    checkpoint.restore(model, None)
    (annealed,) = annealed_of(model)
    assert annealed.values() == pytest.approx({"t": 1.0, "k": 1.0})


def test_bop_keeps_kernels_at_one(tmp_path, data_dir):
    train(quick(optimizer="bop", overrides=[FALLING_GAMMA]), tmp_path / "run", data_dir=data_dir)
    rows = Run(tmp_path / "run").metrics
    assert [row["gamma"] for row in rows] == pytest.approx([1e-3, 1e-4])
    assert all(0 < row["flip_ratio"] < 1 for row in rows)
    _, model = load_run(tmp_path / "run")
    binary = binary_variables(model)
    assert binary
    assert all(np.array_equal(np.abs(variable), np.ones(variable.shape)) for variable in binary)


def test_killed_in_the_middle_and_resumed(tmp_path, data_dir):
    """A real process, a real SIGKILL."""
    experiment = quick(epochs=6)
    train(experiment, tmp_path / "whole", data_dir=data_dir)
    directory = tmp_path / "killed"
    code = f"""
from bnn_keras import resolve, train
train(resolve("lenet5", epochs=6, batch_size=500).experiment, {str(directory)!r}, data_dir={data_dir!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(Run(directory).metrics) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert Run(directory).result is None
    train(experiment, directory, data_dir=data_dir)
    assert same_weights(tmp_path / "whole" / "weights.h5", directory / "weights.h5")


def test_ctrl_c_stops_between_steps_and_gives_the_signal_back(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(signal, "SIG_IGN", None)  # whoever runs the tests may ignore SIGINT
    before = signal.getsignal(signal.SIGINT)
    sent = []

    def swallow(self, epoch, logs=None):
        if not sent:
            sent.append(epoch)
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:  # as a destructor would
                pytest.fail("raised where the program happened to be")

    monkeypatch.setattr(callbacks.Measurements, "on_test_begin", lambda self, logs=None: swallow(self, 0))
    monkeypatch.setattr(callbacks.Measurements, "on_epoch_end", lambda self, epoch, logs=None: None)
    with pytest.raises(KeyboardInterrupt):
        train(quick(), tmp_path / "run", data_dir=data_dir)
    assert sent
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "run" / "weights.h5").exists()


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, data_dir, interrupt, monkeypatch):
    experiment = quick(epochs=4)
    train(experiment, tmp_path / "whole", data_dir=data_dir)
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "cut", data_dir=data_dir)
    monkeypatch.undo()
    (data,) = (tmp_path / "cut" / "checkpoints" / "epoch-00003").glob("*.data-*")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"damaged: epoch-00003 \(variables.*changed\); going on from epoch-00002"):
        train(experiment, tmp_path / "cut", data_dir=data_dir)
    assert same_weights(tmp_path / "whole" / "weights.h5", tmp_path / "cut" / "weights.h5")


def test_every_checkpoint_damaged(tmp_path, data_dir, interrupt, monkeypatch):
    interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        train(quick(), tmp_path / "run", data_dir=data_dir)
    monkeypatch.undo()
    (tmp_path / "run" / "checkpoints" / "epoch-00001" / "state.json").write_text("{")
    with pytest.raises(BnnError, match=r"every checkpoint of .* is damaged: epoch-00001 .*; start over with --fresh"):
        train(quick(), tmp_path / "run", data_dir=data_dir)
    train(quick(), tmp_path / "run", data_dir=data_dir, fresh=True)


def test_two_checkpoints_are_kept(trained):
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["epoch-00001", "epoch-00002"]


def test_fresh_starts_over_and_keeps_what_is_not_its_own(tmp_path, data_dir):
    train(quick(), tmp_path, data_dir=data_dir)
    (tmp_path / "notes.txt").write_text("mine")
    train(quick(epochs=1), tmp_path, data_dir=data_dir, fresh=True)
    assert len(Run(tmp_path).metrics) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_fresh_keeps_the_run_where_the_new_one_cannot_start(tmp_path, data_dir):
    train(quick(epochs=1), tmp_path / "run", data_dir=data_dir)
    with pytest.raises(BnnError, match="--manual-dir"):
        train(
            quick(dataset="mnist"), tmp_path / "run", data_dir=str(tmp_path / "none"), manual_dir="/nowhere", fresh=True
        )
    assert Run(tmp_path / "run").result


def test_nothing_is_left_where_a_training_cannot_start(tmp_path):
    with pytest.raises(BnnError, match="--manual-dir"):
        train(quick(dataset="mnist"), tmp_path / "runs" / "x", data_dir=str(tmp_path / "none"), manual_dir="/nowhere")
    assert not (tmp_path / "runs").exists()


def test_loss_that_is_not_finite_stops_the_training(tmp_path, data_dir):
    experiment = quick(overrides=["stages.0.optimizer.learning_rate=1e30"])
    with pytest.raises(
        BnnError, match=r"the loss is (nan|inf) in epoch 1; expected a finite number; lower the learning"
    ):
        train(experiment, tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run" / "weights.h5").exists()


def test_full_disk_keeps_the_last_checkpoint(tmp_path, data_dir):
    """A limit on the size of a file stands for a full disk."""
    directory = tmp_path / "run"
    code = f"""
import resource, sys
from bnn_keras import BnnError, resolve, train
from bnn_keras.training import callbacks
save = callbacks.SaveRun.on_epoch_end
def limited(self, epoch, logs=None):
    if epoch == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    save(self, epoch, logs)
callbacks.SaveRun.on_epoch_end = limited
try:
    train(resolve("lenet5", epochs=3, batch_size=500).experiment, {str(directory)!r}, data_dir={data_dir!r})
except BnnError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"cannot write '{directory}" in result.stdout, result.stderr
    assert "make room" in result.stdout
    assert not list(directory.rglob(".*.new*"))
    train(resolve("lenet5", epochs=3, batch_size=500).experiment, directory, data_dir=data_dir)
    assert [row["epoch"] for row in Run(directory).metrics] == [1, 2, 3]


def test_plain_progress_has_a_line_per_epoch(tmp_path, data_dir):
    with (tmp_path / "out").open("w") as stream:
        train(quick(), tmp_path / "run", data_dir=data_dir, console=Console(file=stream))
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == 2
    for part in ("epoch 2/2", "images/s", "loss", "top-1", "test", "left 0:00"):
        assert part in lines[1]


def test_bar_on_a_terminal(tmp_path, data_dir):
    with (tmp_path / "out").open("w") as stream:
        console = Console(file=stream, force_terminal=True, width=150)
        train(quick(epochs=3), tmp_path / "run", data_dir=data_dir, console=console)
    shown = (tmp_path / "out").read_text()
    for part in ("epoch 3/3", "images/s", "loss", "top-1", "test", "left 0:0"):
        assert part in shown


def test_environment_has_no_secrets(trained):
    text = json.dumps(Run(trained).environment)
    assert not any(value in text for name, value in os.environ.items() if "TOKEN" in name or "KEY" in name if value)


def test_names_of_files_are_those_documented():
    readme = (ROOT / "README.md").read_text()
    for name in (runs.EXPERIMENT, runs.ENVIRONMENT, runs.METRICS, runs.WEIGHTS, runs.BEST_WEIGHTS, runs.RESULT):
        assert name in readme
