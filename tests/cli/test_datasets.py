"""The commands `bnnk datasets …`."""

import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import error_line, run_bnnk

from bnn_keras import catalog


@pytest.fixture
def folder(tmp_path):
    """One image of each of two classes."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photographs" / split / name).mkdir(parents=True)
            data = tf.io.encode_jpeg(np.full((240, 300, 3), len(name + split) * 20, np.uint8)).numpy()
            (tmp_path / "photographs" / split / name / "1.jpg").write_bytes(data)
    return tmp_path / "photographs"


def test_prepare(tmp_path):
    for _ in range(2):
        result = run_bnnk("datasets", "prepare", "mnist_5k", "--data-dir", tmp_path)
        assert result.exit_code == 0
        assert result.stdout == (
            f"mnist_5k 1.0.0: 4,000 images to train on, 1,000 to test, in {tmp_path / 'mnist_5k' / '1.0.0'}\n"
        )


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
    assert all(name in last for name in ("TFDS", "`image_folder`", "`fake`"))


def test_show(data_dir, folder, tmp_path):
    for name, *more in (
        ("mnist_5k", "--data-dir", data_dir),
        ("mnist_5k", "--data-dir", data_dir, "--experiment", "xnor_net/lenet5_mnist_5k"),
        ("image_folder", "--data-dir", folder, "--experiment", "xnor_net/alexnet_imagenet2012"),
    ):
        file = tmp_path / f"{len(more)}-{name}.png"
        result = run_bnnk("datasets", "show", name, "-o", file, *more)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{name} → {file}\n"
        assert tf.io.decode_png(file.read_bytes()).shape[0] > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "mnst"), "unknown dataset 'mnst'; did you mean 'mnist'?"),
        (("prepare", "imagenet2012"), "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (from https"),
        (("prepare", "image_folder"), "has no folder 'train'; expected DIR/train"),
        (("show", "mnist_5k", "-o", "grid.xyz"), "cannot draw 'grid.xyz'; expected a file named *.png"),
        (("show", "fake", "-o", "grid.png"), "dataset 'fake' takes shape and classes from another one"),
        (("show", "mnist_5k", "-o", "grid.png", "--experiment", "xnor_net/lenet"), "xnor_net/lenet"),
    ],
)
def test_errors(data_dir, arguments, message):
    line = error_line("datasets", *arguments, "--data-dir", data_dir)
    assert message in line
