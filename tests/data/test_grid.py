import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.data import grid, open_data, open_dataset
from bnn_keras.data.grid import COLUMNS, EPOCHS, draw_grid, preprocessed_rows, unchanged_rows
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation


def test_rows_show_network_inputs(data_dir):
    experiment = resolve("lenet5").experiment
    dataset = open_data(experiment, DataLocation(data_dir))
    rows = preprocessed_rows(dataset, experiment)
    assert list(rows) == ["test", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS))]
    assert {len(row) for row in rows.values()} == {COLUMNS}
    unchanged = unchanged_rows(dataset)
    assert np.array_equal([image for image, _ in rows["test"]], [image for image, _ in unchanged["test"]])
    labels = [[label for _, label in rows[f"epoch {epoch + 1}"]] for epoch in range(EPOCHS)]
    assert labels == [[label for _, label in unchanged["train"]]] * EPOCHS
    assert not np.array_equal([image for image, _ in rows["epoch 1"]], [image for image, _ in rows["epoch 2"]])


@pytest.mark.parametrize("network", ["nin", "resnet18"])
def test_draw_grid(network, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "COLUMNS", 3)
    monkeypatch.setattr(grid, "EPOCHS", 2)
    experiment = resolve(network, dataset="fake", overrides=["data.examples=3"]).experiment
    draw_grid(open_data(experiment), tmp_path / "grid.png", experiment)
    height, width, _ = tf.io.decode_png((tmp_path / "grid.png").read_bytes()).shape
    assert abs(height - 150 * 1.2 * 1.3 * 3) <= 1  # 150 dpi, three rows of 1.2 · 1.3 inches
    assert abs(width - 150 * 1.3 * 3) <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("grid.xyz", r"cannot draw '.*grid.xyz'; expected a file named \*.png, or one of"),
        ("no/grid.png", "cannot write"),
    ],
)
def test_errors_of_draw_grid(data_dir, tmp_path, monkeypatch, file, message):
    monkeypatch.setattr(grid, "COLUMNS", 1)
    with pytest.raises(BnnError, match=message):
        draw_grid(open_dataset("mnist_5k", DataLocation(data_dir)), tmp_path / file)
    assert list(tmp_path.iterdir()) == []
