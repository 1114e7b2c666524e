"""Two logical CPU devices, and two processes on loopback, compared with one device.

TensorFlow fixes its devices when it starts, so trainings on several devices run in processes of their own.
"""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, read_weights
from trainings import build_tiny_model, small_experiment

from bnn_keras import models, train
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.launching import free_addresses, launch
from bnn_keras.runs import Run
from bnn_keras.training import trainer
from bnn_keras.training.distribution import Replicas, build_replicas

HEAD = """
import functools, json, os, sys
import bnn_keras, tensorflow as tf
"""
TWO_DEVICES = """
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
TINY = """
import trainings
from bnn_keras import models
from bnn_keras.training import trainer
trainer.build_model = models.build_model = functools.partial(trainings.build_tiny_model, {})
"""
# Without batch norm, whose statistics differ between replicas, the weights of all strategies are equal.
WITHOUT_BATCH_NORM = TINY.format("batch_norm=False")
STOP_AFTER_FIRST_EPOCH = """
from bnn_keras.training import callbacks
save = callbacks.SaveRun.on_epoch_end
def save_and_exit(self, epoch, logs=None):
    save(self, epoch, logs)
    print("{}", flush=True)
    os._exit(0)
callbacks.SaveRun.on_epoch_end = save_and_exit
"""
SIGTERM_IN_THE_SECOND_PROCESS = """
import signal
from bnn_keras.training.callbacks import MeasureEpoch
def stop(self, batch, logs=None):
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1 and batch == 1:
        signal.raise_signal(signal.SIGTERM)
MeasureEpoch.on_train_batch_begin = stop
"""
KILL_ONE_ONCE = """
import pathlib, signal
from bnn_keras.training.callbacks import MeasureEpoch
killed = pathlib.Path(sys.argv.pop(1))
def kill(self, batch, logs=None):
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == {} and batch == 1 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
MeasureEpoch.on_train_batch_begin = kill
"""
BNNK = """
from bnn_keras.cli import main
main()
"""
TRAIN = """
import trainings
options = json.loads(sys.argv[1])
how = {name: options.pop(name) for name in ("strategy", "directory", "start_from") if name in options}
print(json.dumps(bnn_keras.train(trainings.small_experiment(**options), **how, plain=True)))
"""
# Two evaluation batches, one for each replica: oneDNN's convolution returns the wrong shape for an empty batch.
EXAMPLES = 142
SLURM = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURMD_NODENAME": "localhost",
}


def start(code, options, **environment):
    """Start a process that runs `code`, then trains."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT / "tests" / "support"), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code + TRAIN, json.dumps(options, default=str)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(*processes):
    """Return what each process prints in its last line: the result of its training."""
    outputs = [process.communicate(timeout=300) for process in processes]
    failed = [error[-9000:] for process, (_, error) in zip(processes, outputs, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def train_in_two_processes(code, options):
    """Train with TF_CONFIG in two processes; return the result of each."""
    return finish(*start_two_processes(code, options))


def start_two_processes(code, options):
    """Start two processes that train with TF_CONFIG."""
    cluster = {"worker": free_addresses(2)}
    configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    return [start(code, {**options, "strategy": "auto"}, TF_CONFIG=config) for config in configs]


def options_of(optimizer):
    """Options of a training whose last batch has two images."""
    return {
        "scheme": "binarynet",
        "optimizer": optimizer,
        "epochs": 2,
        "examples": EXAMPLES,
        "batch_size": 70,
        "overrides": ["stages.0.optimizer.learning_rate=0.001"],
    }


def largest_difference(directory, other):
    weights, others = (read_weights(folder / "weights.h5") for folder in (directory, other))
    assert weights.keys() == others.keys()
    return max(float(np.abs(weights[name].astype(float) - others[name]).max(initial=0)) for name in weights)


def train_on_one_device(optimizer, directory, **arguments):
    """Train a network without batch norm in this process; return the result."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (trainer, models):
            patch.setattr(module, "build_model", functools.partial(build_tiny_model, batch_norm=False))
        experiment = small_experiment(**options_of(optimizer))
        return train(experiment, directory, strategy="single", plain=True, **arguments)


def assert_same_training(result, directory, strategy, expected, single):
    """A training on two replicas gave the weights and metrics of one on a single device, up to rounding."""
    run = Run(directory)
    assert result == run.result
    assert largest_difference(single, directory) < 1e-5
    assert result["top1"] == expected["top1"]
    assert result["epochs"] == 2
    assert (run.environment["strategy"], run.environment["replicas"]) == (strategy, 2)
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert [row["loss"] for row in run.metrics] == pytest.approx([row["loss"] for row in Run(single).metrics], 1e-4)


@pytest.mark.parametrize(
    "optimizer", [pytest.param("sgd", marks=pytest.mark.nightly), pytest.param("bop", marks=pytest.mark.slow)]
)
def test_two_devices_equal_one_device(tmp_path, optimizer):
    directory = tmp_path / "mirrored"
    options = {**options_of(optimizer), "strategy": "mirrored", "directory": directory}
    process = start(TWO_DEVICES + WITHOUT_BATCH_NORM, options)
    expected = train_on_one_device(optimizer, tmp_path / "single")
    (result,) = finish(process)
    assert_same_training(result, directory, "mirrored", expected, tmp_path / "single")
    environment = Run(tmp_path / "single").environment
    assert (environment["strategy"], environment["replicas"]) == ("single", 1)


@pytest.mark.nightly
@pytest.mark.parametrize("optimizer", ["sgd", "bop"])
def test_two_processes_equal_one_device(tmp_path, optimizer):
    expected = train_on_one_device(optimizer, tmp_path / "single")
    directory = tmp_path / "processes"
    chief, other = train_in_two_processes(WITHOUT_BATCH_NORM, {**options_of(optimizer), "directory": directory})
    assert chief == other
    assert_same_training(chief, directory, "multiworker", expected, tmp_path / "single")


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path):
    """One of them receives a signal; both save, and go on from that step, as if nothing had happened."""
    network = TINY.format("batch_norm=True")
    whole, directory = tmp_path / "whole", tmp_path / "stopped"
    expected = train_in_two_processes(network, {**options_of("bop"), "directory": whole})
    options = {**options_of("bop"), "directory": directory}
    stopped = start_two_processes(network + SIGTERM_IN_THE_SECOND_PROCESS, options)
    errors = [process.communicate(timeout=300)[1] for process in stopped]
    assert [process.returncode for process in stopped] == [143, 143], errors[0][-5000:] + errors[1][-5000:]
    assert "stopped by SIGTERM after step 2 of 3 in epoch 1, saved" in errors[0]
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["epoch-00000-step-0000002"]
    results = train_in_two_processes(network, options)
    assert [result["top1"] for result in results] == [result["top1"] for result in expected]
    assert largest_difference(whole, directory) == 0
    rows = [[(row["loss"], row["val_loss"]) for row in Run(run).metrics] for run in (whole, directory)]
    assert rows[0] == rows[1]


@pytest.mark.nightly
@pytest.mark.parametrize("index", [0, 1])
def test_lost_process(tmp_path, monkeypatch, capfd, index):
    """One of two processes is killed; the other one ends with one line, and both resume."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    program = [
        sys.executable,
        "-c",
        HEAD + WITHOUT_BATCH_NORM + KILL_ONE_ONCE.format(index) + BNNK,
        tmp_path / "killed",
    ]
    options = ["--set", f"data.examples={EXAMPLES}", "--batch-size", 70, "--epochs", 2, "--save-every", "1steps"]
    command = [*program, "train", "lenet5", "--dataset", "fake", *options, "--run", tmp_path / "run"]
    lines = []
    assert launch([str(word) for word in command], 2, 1, lines.append) == 0, capfd.readouterr().err[-5000:]
    assert lines == [f"process {index} of 2 was lost (SIGKILL); starting all again (1 of 1)"]
    errors = capfd.readouterr().err
    assert errors.count("Error: another process of this training ended") == 1
    assert "resuming after step 1 in epoch 1 of 2" in errors
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics] == [1, 2]


@pytest.mark.nightly
def test_two_processes_start_from_another_run(tmp_path):
    """With Bop: the latent weights of the first run become signs in both processes."""
    train_on_one_device("sgd", tmp_path / "first")
    start = {"start_from": tmp_path / "first"}
    expected = train_on_one_device("bop", tmp_path / "single", **start)
    directory = tmp_path / "processes"
    options = {**options_of("bop"), "directory": directory, **start}
    (result, other) = train_in_two_processes(WITHOUT_BATCH_NORM, options)
    assert result == other
    assert_same_training(result, directory, "multiworker", expected, tmp_path / "single")
    assert Run(directory).start == Run(tmp_path / "single").start


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"scheme": "irnet"}, marks=pytest.mark.slow),
        pytest.param(
            {"optimizer": "bop", "overrides": ["stages.0.optimizer.threshold=1e-6"]}, marks=pytest.mark.nightly
        ),
    ],
    ids=["annealing and dropout", "bop"],
)
def test_two_processes_resume_a_training_of_two_devices(tmp_path, options):
    """Two devices train the first epoch of two, two processes resume from their checkpoint."""
    options = {**options, "examples": EXAMPLES, "batch_size": 70, "epochs": 2, "directory": tmp_path / "run"}
    network = TINY.format("dropout=0.5")
    finish(start(TWO_DEVICES + network + STOP_AFTER_FIRST_EPOCH, {**options, "strategy": "mirrored"}))
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics] == [1]
    results = train_in_two_processes(network, options)
    assert results[0] == results[1] == Run(tmp_path / "run").result
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics] == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.nightly
def test_processes_of_slurm(tmp_path):
    options = {"epochs": 1, "examples": 42, "batch_size": 20, "strategy": "multiworker", "directory": tmp_path / "run"}
    code = TINY.format("batch_norm=True")
    tasks = [start(code, options, SLURM_PROCID=str(index), SLURM_LOCALID=str(index), **SLURM) for index in range(2)]
    chief, other = finish(*tasks)
    assert chief == other
    assert Run(tmp_path / "run").environment["replicas"] == 2


class ThreeReplicas(Replicas):
    count = 3


@pytest.mark.parametrize(("size", "valid"), [(128, "126 or 129"), (2, "3")])
def test_batch_size_must_be_divisible_by_the_replicas(size, valid):
    experiment = resolve("lenet5", batch_size=size).experiment
    with pytest.raises(BnnError) as caught:
        ThreeReplicas(None, "mirrored").check_batch_sizes(experiment)
    assert str(caught.value) == (
        f"batch size {size} is not divisible by 3 replicas (mirrored); set --batch-size to {valid}"
    )


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("miror", None, "unknown strategy 'miror'; did you mean 'mirrored'"),
        ("multiworker", None, "needs TF_CONFIG, which lists every process"),
        ("auto", "{", "cannot read TF_CONFIG"),
        ("multiworker", '["a"]', "cannot read TF_CONFIG"),
        ("tpu", None, "no TPU is available"),
    ],
)
def test_strategy_that_is_not_available(monkeypatch, name, config, message):
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(BnnError, match=message):
        build_replicas(name)


@pytest.mark.parametrize("config", [None, "{}", '{"cluster": {"worker": ["localhost:1"]}}'])
def test_single_is_chosen_for_one_device(monkeypatch, config):
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    replicas = build_replicas()
    assert (replicas.name, replicas.count, replicas.chief, replicas.static_shapes) == ("single", 1, True, False)
