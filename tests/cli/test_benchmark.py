"""`bnnk benchmark`: output, files, errors and exit codes."""

import csv
import importlib
import json

import pytest
import tensorflow as tf
from helpers import error_line, run_bnnk

from bnn_keras import benchmark
from bnn_keras.benchmark import measuring
from bnn_keras.export import worker

QUICK = ("--threads", "1", "--rounds", "2", "--seconds", "0", "--batch-size", "2")


class WorkerInThisProcess:
    """Call functions in this process: starting one that imports TensorFlow takes seconds."""

    def call(self, function, *arguments):
        module, name = function.split(":")
        return getattr(importlib.import_module(module), name)(*arguments)

    def close(self):
        pass


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure in this process."""
    monkeypatch.setattr(worker, "Worker", WorkerInThisProcess)
    monkeypatch.setattr(measuring, "_prepare", lambda threads: None)
    # TensorFlow is running already, and its number of threads can no longer be set.
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 1)


def test_help_names_every_engine_and_option():
    text = run_bnnk("benchmark", "--help").stdout
    for part in (*benchmark.ENGINES, "RUN_OR_FILE", "--batch-size", "--threads", "--rounds", "--plot", "--output"):
        assert part in text


def check_table_and_files(trained, tmp_path, engine):
    table, picture = tmp_path / "o.csv", tmp_path / "p.png"
    result = run_bnnk("benchmark", trained, "--engine", engine, *QUICK, "-o", table, "--plot", picture)
    assert result.exit_code == 0, result.output
    head, _, line = result.stdout.splitlines()
    assert head.split()[:3] == ["source", "engine", "threads"]
    assert "images/s, batch 2" in head
    assert line.split()[1:3] == [engine, "1"]
    assert "latency with 1 thread" in result.stderr
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert row["engine"] == engine
    assert float(row["latency_median_ms"]) > 0
    assert picture.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_benchmark_prints_a_table_and_writes_files(trained, tmp_path):
    check_table_and_files(trained, tmp_path, "keras")


@pytest.mark.nightly
def test_benchmark_in_separate_processes(trained, tmp_path):
    check_table_and_files(trained, tmp_path, "tflite_float")


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_model_of_the_package_is_measured_like_a_run():
    name = "lenet5_mnist_5k_bireal"
    (row,) = json.loads(run_bnnk("benchmark", "--model", name, "--engine", "keras", *QUICK, "--json").stdout)
    assert (row["source"], row["weights"], row["engine"]) == (name, "packed", "keras")
    assert row["bytes"] == 1_725_600


@pytest.mark.usefixtures("in_this_process")
def test_json_output_of_a_network():
    result = run_bnnk("benchmark", "lenet5", "--engine", "keras", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["source"], row["weights"], row["engine"]) == ("lenet5", "random", "keras")
    assert row["images_per_second"].keys() == {"2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet6"], "no run or file 'lenet6', and unknown network or model 'lenet6'; did you mean 'lenet5'?"),
        (["lenet5", "--engine", "tflite_flot"], "unknown engine 'tflite_flot'; did you mean 'tflite_float'?"),
        (["lenet5", "-o", "table.xls"], "cannot write 'table.xls': unknown table format 'xls'"),
        (["lenet5", "--plot", "picture.txt"], "cannot write 'picture.txt': unknown picture format 'txt'"),
    ],
)
def test_invalid_argument_is_one_error_line(arguments, message):
    assert error_line("benchmark", *arguments).startswith(message)


def test_usage_errors_exit_with_2():
    assert "got nothing; expected RUN_OR_FILE… or --model NAME_OR_FILE" in error_line("benchmark", code=2)
    assert "--threads" in error_line("benchmark", "lenet5", "--threads", "0", code=2)
