"""Tests of `bnnk datasets`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import error_line, run_bnnk

from bnn_keras import catalog
from bnn_keras.data import grid


@pytest.fixture
def folder(tmp_path):
    """A folder of one training and one test image for each of two classes."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photographs" / split / name).mkdir(parents=True)
            data = tf.io.encode_jpeg(np.full((240, 300, 3), len(name + split) * 20, np.uint8)).numpy()
            (tmp_path / "photographs" / split / name / "1.jpg").write_bytes(data)
    return tmp_path / "photographs"


def prepare_mnist_5k(data_dir):
    result = run_bnnk("datasets", "prepare", "mnist_5k", "--data-dir", data_dir)
    assert result.exit_code == 0, result.output
    folder = Path(data_dir) / "mnist_5k" / "1.0.0"
    assert result.stdout == f"mnist_5k 1.0.0: 4,000 training images and 1,000 test images in {folder}\n"


def test_prepare_prepared_dataset(data_dir):
    prepare_mnist_5k(data_dir)


@pytest.mark.slow
def test_prepare_new_dataset(tmp_path):
    prepare_mnist_5k(tmp_path)
    assert (tmp_path / "mnist_5k" / "1.0.0" / "dataset_info.json").is_file()


def test_whiten(data_dir, tmp_path):
    folder = tmp_path / "whitened"
    result = run_bnnk("datasets", "whiten", "mnist_5k", "--data-dir", data_dir, "-o", folder)
    assert (result.exit_code, result.stdout) == (0, f"mnist_5k → {folder}\n")
    assert np.load(folder / "train_data").shape == (4000, 1, 28, 28)
    error = error_line("datasets", "whiten", "mnist_5k", "--data-dir", data_dir, "-o", folder)
    assert error.endswith("exists; choose a new folder, or remove it")


def test_list(data_dir, tmp_path):
    rows = {
        row["name"]: row for row in json.loads(run_bnnk("datasets", "list", "--data-dir", data_dir, "--json").stdout)
    }
    assert set(rows) == set(catalog.DATASETS)
    assert rows["mnist_5k"]["prepared"]
    assert rows["mnist_5k"]["folder"].startswith(data_dir)
    assert not rows["imagenet2012"]["prepared"]
    table = run_bnnk("datasets", "list", "--data-dir", data_dir).stdout
    assert rows["mnist_5k"]["folder"] in table
    assert rows["imagenet2012"]["folder"] not in table
    last = table.splitlines()[-1]
    assert all(name in last for name in ("TFDS", "`image_folder`", "`arrays`", "`fake`"))


def test_show(data_dir, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "COLUMNS", 2)
    monkeypatch.setattr(grid, "EPOCHS", 1)
    digits, animals = "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "2 classes: cat, dog"
    for name, classes, *more in (
        ("mnist_5k", digits, "--data-dir", data_dir),
        ("mnist_5k", digits, "--data-dir", data_dir, "--experiment", "xnor_net/lenet5_mnist_5k"),
        ("image_folder", animals, "--data-dir", folder, "--experiment", "xnor_net/alexnet_imagenet2012"),
    ):
        file = tmp_path / f"{len(more)}-{name}.png"
        result = run_bnnk("datasets", "show", name, "-o", file, *more)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{name} → {file}\n{classes}\n"
        assert tf.io.decode_png(file.read_bytes()).shape[0] > 200


def test_show_with_a_damaged_image(folder, tmp_path):
    (folder / "train/cat/1.jpg").write_text("no image")
    line = error_line("datasets", "show", "image_folder", "--data-dir", folder, "-o", tmp_path / "grid.png")
    assert "cannot decode an image of dataset 'image_folder' (" in line
    assert "`bnnk datasets check DIR`" in line


@pytest.mark.slow
def test_digits_and_plots_without_a_writable_home(trained, tmp_path):
    """`train` and `export` open datasets in the same way."""
    environment = {**os.environ, "HOME": "/dev/null/home"}
    for variable in ("TFDS_DATA_DIR", "MPLCONFIGDIR"):
        environment.pop(variable, None)
    command = [Path(sys.executable).with_name("bnnk"), "evaluate", trained, "--confusion", tmp_path / "confusion.png"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("top-1")
    warning, *others = result.stderr.splitlines()
    assert warning.startswith("Warning: '/dev/null/home/tensorflow_datasets' cannot be written; dataset 'mnist_5k' is")
    assert all(line.startswith(("Downloading and preparing", "Dataset mnist_5k downloaded")) for line in others)


def test_check_lists_all_damaged_images(folder):
    result = run_bnnk("datasets", "check", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{folder}: 0 of 4 images cannot be decoded\n"
    for name in ("train/cat/1.jpg", "test/dog/1.jpg"):
        (folder / name).write_text("no image")
    result = run_bnnk("datasets", "check", folder)
    assert result.exit_code == 1
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [
        f"{folder}/test/dog/1.jpg",
        f"{folder}/train/cat/1.jpg",
    ]
    assert result.stdout == f"{folder}: 2 of 4 images cannot be decoded\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "mnst"), "unknown dataset 'mnst'; did you mean 'mnist'?"),
        (("prepare", "imagenet2012"), "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (from https"),
        (("prepare", "image_folder"), "has no folder 'train'; expected images DIR/train"),
        (("show", "mnist_5k", "-o", "grid.xyz"), "cannot draw 'grid.xyz'; expected a file named *.png"),
        (("show", "fake", "-o", "grid.png"), "dataset 'fake' needs an experiment, which sets image shape and classes"),
        (("show", "mnist_5k", "-o", "grid.png", "--experiment", "xnor_net/lenet"), "xnor_net/lenet"),
    ],
)
def test_errors(data_dir, arguments, message, monkeypatch):
    monkeypatch.setattr(grid, "COLUMNS", 1)
    line = error_line("datasets", *arguments, "--data-dir", data_dir)
    assert message in line


def test_mean_is_that_of_the_training_images(data_dir, tmp_path):
    file = tmp_path / "mean.npy"
    result = run_bnnk("datasets", "mean", "mnist_5k", "-o", file, "--data-dir", data_dir)
    assert result.exit_code == 0
    assert result.stdout.strip().endswith("28 × 28 × 1, RGB")
    array = np.load(file)
    assert array.mean() / 255 == pytest.approx(0.1307, abs=0.003)
