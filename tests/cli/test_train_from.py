"""`bnnk train --from`: output, error lines, default run directory."""

import json

import pytest
from helpers import error_line, run_bnnk
from trainings import build_tiny_model

from bnn_keras import models
from bnn_keras.runs import Run
from bnn_keras.training import trainer

OPTIONS = ["--dataset", "fake", "--epochs", 1, "--batch-size", 8, "--set", "data.examples=8"]


@pytest.fixture(autouse=True)
def _tiny_network_in_its_own_folder(monkeypatch, tmp_path, eager):
    monkeypatch.chdir(tmp_path)
    for module in (trainer, models):
        monkeypatch.setattr(module, "build_model", build_tiny_model)


@pytest.fixture
def float_run():
    command = ["train", "lenet5", "--scheme", "float", *OPTIONS, "--set", "data.mean=[0.25]", "--run", "float"]
    assert run_bnnk(*command).exit_code == 0
    return Run("float")


@pytest.mark.usefixtures("float_run")
def test_float_first_then_binary():
    directory = "runs/xnor_net-lenet5_fake-xnor-1w1a-adam_torch-seed1-from-float"
    command = ["train", "lenet5", "--from", "float", *OPTIONS]
    result = run_bnnk(*command, "--quiet")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Note: no recipe for lenet5 with fake; based on ")
    assert lines[0].endswith("; data.mean = [0.25], as in the training that it starts from")
    assert lines[1:4] == [
        f"xnor_net/lenet5_fake → {directory}",
        "starting from float/weights.h5 (xnor_net/lenet5_fake, float 32/32): 14 of 14 weights are taken by name",
        "new, with initial values: none; dropped: none",
    ]
    assert directory in result.stdout
    run = Run(directory)
    assert run.experiment.data.mean == [0.25]
    assert (run.start["experiment"], run.start["scheme"]) == ("xnor_net/lenet5_fake", "float")
    assert run.environment["command"][0] == "bnnk"

    for again in (command, ["train", "lenet5", *OPTIONS, "--run", directory]):
        result = run_bnnk(*again, "--json")
        assert json.loads(result.stdout) == run.result, result.stderr


def test_other_source(float_run):
    assert run_bnnk("train", "lenet5", *OPTIONS, "--run", "other").exit_code == 0
    assert run_bnnk("train", "lenet5", *OPTIONS, "--from", "float", "--run", "run").exit_code == 0
    line = error_line("train", "lenet5", *OPTIONS, "--from", "other/weights_best.h5", "--run", "run")
    assert line.startswith("'run' was started from the weights ")
    assert line.endswith("'other/weights_best.h5'; leave --from out to resume it, or give another --run DIR")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", "cannot start from 'none/weights.h5': no run in 'none', and no exported file; give the folder"),
        ("model.pth", "cannot start from 'model.pth': expected a run directory, weights.h5 or weights_best.h5 of one"),
    ],
)
def test_source_that_is_no_run(tmp_path, source, message):
    (tmp_path / "model.pth").touch()
    assert error_line("train", "lenet5", "--from", source).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]
