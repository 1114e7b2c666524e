"""Models of the package in commands: `list`, `show`, and --model."""

import json

import numpy as np
import pytest
from helpers import error_line, run_bnnk

from bnn_keras import catalog
from bnn_keras.experiment import parse
from bnn_keras.pretrained import cards
from bnn_keras.sources import Source

NAME, CARD = next((name, card) for name, card in cards().items() if card.dataset == "mnist_5k")


@pytest.fixture
def images(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8))
    return tmp_path / "images.npy"


def test_list():
    rows = json.loads(run_bnnk("list", "models", "--json").stdout)
    assert [row["name"] for row in rows] == list(cards())
    (row,) = (row for row in rows if row["name"] == NAME)
    assert row["top1"] == CARD.accuracy.top1
    assert row["images"] == {"origin": CARD.images.origin, "licence": CARD.images.licence}
    head, _, *lines = run_bnnk("list", "models").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith(NAME))
    assert head.split() == ["name", "network", "scheme", "bits", "dataset", "top-1", "test", "images", "bytes"]
    assert line.split() == [
        *(NAME, CARD.network, CARD.scheme, CARD.bits, CARD.dataset),
        *(f"{CARD.accuracy.top1:.2f}", "%", f"{CARD.accuracy.images:,}", f"{CARD.bytes:,}"),
    ]


def test_show_is_the_card_and_the_experiment():
    text = run_bnnk("show", NAME, "--set", "seed=7").stdout
    assert f"# correct = {CARD.accuracy.correct}\n" in text
    shown = parse(text, Source.at(NAME).experiment.name)
    assert (shown.seed, shown.chosen) == (7, Source.at(NAME).experiment.chosen)


def test_predict_and_evaluate(images, data_dir):
    (row, *_) = json.loads(run_bnnk("predict", "--model", NAME, images, "--json").stdout)
    assert len(row["classes"]) == catalog.find("dataset", CARD.dataset).classes
    measured = json.loads(run_bnnk("evaluate", "--model", NAME, "--data-dir", data_dir, "--json").stdout)
    assert (measured["run"], measured["weights"], measured["top1"]) == (NAME, "packed", CARD.accuracy.top1)


def test_export_of_a_packed_file_is_the_same_file(images, tmp_path):
    file = tmp_path / "again.safetensors"
    result = run_bnnk("export", "--model", NAME, "--to", "packed", "-o", file, "--verify-on", images, "--json")
    assert result.exit_code == 0, result.output
    assert file.read_bytes() == CARD.file.read_bytes()
    sidecar = json.loads(result.stdout)
    assert (sidecar["weights"], sidecar["agreement"]) == ("packed", 100)
    assert sidecar["bytes_minimum"] == pytest.approx(CARD.bytes, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("to", "suffix"), [("tflite", ".tflite"), ("c", ".c")])
def test_export_to_devices(to, suffix, images, tmp_path):
    file = tmp_path / f"model{suffix}"
    result = run_bnnk("export", "--model", NAME, "--to", to, "-o", file, "--verify-on", images, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["computed_layers"] == json.loads(result.stdout)["binary_layers"] == 2


def test_errors(tmp_path):
    file = tmp_path / "x"
    assert f"did you mean '{NAME}'" in error_line("export", "--model", f"{NAME}s", "--to", "packed", "-o", file)
    assert f"did you mean '{NAME}'" in error_line("benchmark", "--model", f"{NAME}s")
    assert f"did you mean '{NAME}'" in error_line("train", "lenet5", "--from", f"{NAME}s")
    assert "holds latent weights, which" in error_line("export", "--model", NAME, "--to", "reference", "-o", file)
    assert "has one set of weights" in error_line("export", "--model", NAME, "--best", "--to", "packed", "-o", file)
    assert "has one set of weights" in error_line("evaluate", NAME, "--best")
