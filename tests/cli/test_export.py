"""`bnnk export`, and `evaluate` and `predict` with exported files."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import error_line, export_trained, run_bnnk

from bnn_keras import catalog


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory, data_dir):
    return export_trained(tmp_path_factory, trained, data_dir) / "model.safetensors"


@pytest.fixture
def images(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8))
    return tmp_path / "images.npy"


def test_help_has_every_format():
    result = run_bnnk("export", "--help")
    assert result.exit_code == 0
    for name in (*catalog.FORMATS, "--verify-on", "--allow-float", "--floats", "--batch-size", "--softmax"):
        assert name in result.stdout


def test_export_reports_what_it_wrote(trained, data_dir, tmp_path):
    file = tmp_path / "model.safetensors"
    arguments = ("export", trained, "--to", "packed", "-o", file, "--data-dir", data_dir)
    result = run_bnnk(*arguments)
    assert result.exit_code == 0, result.output
    lines = dict(re.split("  +", line.strip()) for line in result.stdout.splitlines() if "binary layers" in line)
    assert lines == {"stored in one bit": "2 of 2 binary layers", "computed in one bit": "0 of 2 binary layers"}
    assert "100.00 % on 1,000 images of mnist_5k test" in result.stdout
    assert f"{file.stat().st_size:,} bytes" in result.stdout
    sidecar = json.loads(run_bnnk(*arguments, "--json").stdout)
    assert sidecar == json.loads((tmp_path / "model.safetensors.json").read_text())


def test_errors(trained, tmp_path):
    assert "did you mean 'openvino'" in error_line("export", trained, "--to", "openvin", "-o", tmp_path / "m.xml")
    assert "no run in" in error_line("export", tmp_path, "--to", "packed", "-o", tmp_path / "m.safetensors")
    assert "name it 'm.xml'" in error_line("export", trained, "--to", "openvino", "-o", tmp_path / "m.bin")


def test_evaluate_and_predict_with_a_file(packed, trained, data_dir, images, tmp_path):
    arguments = ("--data-dir", data_dir, "--json")
    file, run = (
        json.loads(run_bnnk("evaluate", *source, *arguments).stdout) for source in (("--model", packed), (trained,))
    )
    assert file["top1"] == run["top1"]
    file, run = (
        json.loads(run_bnnk("predict", *source, images, "--json").stdout)
        for source in (("--model", packed), (trained,))
    )
    assert file == run
    result = run_bnnk("predict", "--model", packed, images, "--logits", tmp_path / "logits.npy", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "logits.npy").shape == (5, 10)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate"], "got 'nothing'; expected RUN or --model NAME_OR_FILE in the place of RUN"),
        (["evaluate", "run", "--model", "file"], "got 'run'; expected nothing beside --model NAME_OR_FILE"),
        (["predict", "run"], "got 'run'; expected RUN INPUT… or --model NAME_OR_FILE in the place of RUN"),
        (["predict", "--model", "file"], "got 'nothing'; expected INPUT… beside --model NAME_OR_FILE"),
    ],
)
def test_wrong_usage_exits_2(words, expected):
    result = run_bnnk(*words)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.split())


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["run", "packed"])
def test_threads_limits_tensorflow(packed, trained, data_dir, images, kind):
    """Run in a process of its own, because TensorFlow accepts a number of threads only before its first operation."""
    source = ["--model", str(packed)] if kind == "packed" else [str(trained)]
    command = ["bnnk", "predict", *source, str(images), "--threads", "1", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = {command!r}; from bnn_keras.cli import main; main()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)) == 5


def test_best_needs_a_run(packed):
    assert "has one set of weights; leave --best out" in error_line("evaluate", "--model", packed, "--best")
