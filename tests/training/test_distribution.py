"""Two logical CPU devices, and two processes on loopback, each in interpreters of their own."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import read_weights

from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.runs import Run
from bnn_keras.training.distribution import Replicas, build_replicas

HEAD = """
import json, sys
import bnn_keras, tensorflow as tf
from bnn_keras import resolve, train
"""
TWO_DEVICES = """
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
# A network without batch norm, whose statistics differ from replica to replica.
PLAIN_NETWORK = """
from bnn_keras.build import build_scheme
from bnn_keras.training import trainer
def build_model(experiment, stage=None):
    tf.keras.utils.set_random_seed(experiment.seed)
    images = tf.keras.layers.Input(experiment.input_shape)
    scheme = build_scheme(experiment, stage)
    x = tf.keras.layers.Conv2D(8, 5, 4)(images)
    x = scheme.conv2d(16, 3, padding="same")(x)
    x = tf.keras.layers.Flatten()(x)
    return tf.keras.Model(images, tf.keras.layers.Dense(10)(x))
trainer.build_model = build_model
"""
TRAIN = """
options = json.loads(sys.argv[1])
strategy, directory = options.pop("strategy"), options.pop("directory")
experiment = resolve(options.pop("network"), dataset="fake", batch_size=100, **options).experiment
result = train(experiment, directory, strategy=strategy, plain=True)
print(json.dumps(result))
"""
EXAMPLES = "data.examples=402"  # the last batch has two


def start(code, options, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code + TRAIN, json.dumps(options, default=str)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )


def finish(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    failed = [error[-9000:] for process, (_, error) in zip(processes, outputs, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def two_processes(code, options):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    return finish(*(start(code, {**options, "strategy": "auto"}, TF_CONFIG=config) for config in configs))


@pytest.fixture
def largest_difference():
    def difference(one, other):
        one, other = (read_weights(directory / "weights.h5") for directory in (one, other))
        assert one.keys() == other.keys()
        return max(float(np.abs(one[name].astype(float) - other[name]).max(initial=0)) for name in one)

    return difference


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "bop"])
def test_two_devices_and_two_processes_train_what_one_device_trains(tmp_path, optimizer, largest_difference):
    options = {
        "network": "lenet5",
        "scheme": "binarynet",
        "optimizer": optimizer,
        "epochs": 2,
        "overrides": [EXAMPLES, "stages.0.optimizer.learning_rate=0.001"],
    }
    single, mirrored, processes = (tmp_path / name for name in ("single", "mirrored", "processes"))
    (alone,) = finish(start(PLAIN_NETWORK, {**options, "strategy": "single", "directory": single}))
    (both,) = finish(start(TWO_DEVICES + PLAIN_NETWORK, {**options, "strategy": "mirrored", "directory": mirrored}))
    chief, other = two_processes(PLAIN_NETWORK, {**options, "directory": processes})
    assert largest_difference(single, mirrored) < 1e-5
    assert largest_difference(single, processes) < 1e-5
    assert chief == other == Run(processes).result
    for result in (both, chief):
        assert result["top1"] == alone["top1"]
        assert result["epochs"] == 2
    for directory, strategy in ((single, "single"), (mirrored, "mirrored"), (processes, "multiworker")):
        run = Run(directory)
        found = run.environment
        assert (found["strategy"], found["replicas"]) == (strategy, 1 if strategy == "single" else 2)
        assert [row["epoch"] for row in run.metrics] == [1, 2]
        assert [row["loss"] for row in run.metrics] == pytest.approx([row["loss"] for row in Run(single).metrics], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"network": "lenet5", "scheme": "irnet"},
        {"network": "lenet5", "optimizer": "bop", "overrides": ["stages.0.optimizer.threshold=1e-6"]},
        {"network": "nin"},  # which has dropout
    ],
    ids=["irnet", "bop", "dropout"],
)
def test_resumes_on_two_devices_and_in_two_processes(tmp_path, options):
    """One epoch of two in each; the second way goes on with the other's checkpoint."""
    cut = """
from bnn_keras.training import callbacks
whole = callbacks.SaveRun.on_epoch_end
def end(self, epoch, logs=None):
    whole(self, epoch, logs)
    if epoch == 0:
        print(json.dumps({}), flush=True)
        import os
        os._exit(0)
callbacks.SaveRun.on_epoch_end = end
"""
    overrides = [EXAMPLES, *options.get("overrides", [])]
    shown = {**options, "overrides": overrides, "epochs": 2, "directory": tmp_path / "run"}
    finish(start(TWO_DEVICES + cut, {**shown, "strategy": "mirrored"}))
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics] == [1]
    results = two_processes("", shown)
    assert results[0] == results[1] == Run(tmp_path / "run").result
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics] == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_processes_of_slurm(tmp_path):
    options = {"network": "lenet5", "epochs": 1, "overrides": [EXAMPLES], "directory": tmp_path / "run"}
    slurm = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURMD_NODENAME": "localhost",
    }
    workers = [
        start("", {**options, "strategy": "multiworker"}, SLURM_PROCID=str(index), SLURM_LOCALID=str(index), **slurm)
        for index in range(2)
    ]
    chief, other = finish(*workers)
    assert chief == other
    assert Run(tmp_path / "run").environment["replicas"] == 2


class Three(Replicas):
    count = 3


@pytest.mark.parametrize(("size", "valid"), [(128, "126 or 129"), (2, "3")])
def test_batch_that_does_not_divide(size, valid):
    experiment = resolve("lenet5", batch_size=size).experiment
    with pytest.raises(BnnError) as caught:
        Three(None, "mirrored").check(experiment)
    assert str(caught.value) == (
        f"batch size {size} does not divide among 3 replicas (mirrored); the next that does is {valid}: "
        "set it with --batch-size"
    )


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("miror", None, "unknown strategy 'miror'; did you mean 'mirrored'"),
        ("multiworker", None, "needs TF_CONFIG, which names every process"),
        ("auto", "{", "cannot read TF_CONFIG"),
        ("multiworker", '["a"]', "cannot read TF_CONFIG"),
        ("tpu", None, "no TPU to be had"),
    ],
)
def test_strategy_that_cannot_be(monkeypatch, name, config, message):
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(BnnError, match=message):
        build_replicas(name)


@pytest.mark.parametrize("config", [None, "{}", '{"cluster": {"worker": ["localhost:1"]}}'])
def test_one_device_is_single(monkeypatch, config):
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    replicas = build_replicas()
    assert (replicas.name, replicas.count, replicas.chief, replicas.static) == ("single", 1, True, False)
