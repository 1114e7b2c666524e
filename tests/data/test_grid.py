import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.data import open_data, open_dataset
from bnn_keras.data.grid import COLUMNS, EPOCHS, as_they_are, draw_grid, seen
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation


def test_a_grid_has_what_the_network_sees(data_dir):
    experiment = resolve("lenet5").experiment
    images = open_data(experiment, DataLocation(data_dir))
    rows = seen(images, experiment)
    assert list(rows) == ["test", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS))]
    assert {len(row) for row in rows.values()} == {COLUMNS}
    plain = as_they_are(images)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(rows["test"], plain["test"], strict=True))
    labels = [[label for _, label in rows[f"epoch {epoch + 1}"]] for epoch in range(EPOCHS)]
    assert labels == [[label for _, label in plain["train"]]] * EPOCHS
    assert not np.array_equal([image for image, _ in rows["epoch 1"]], [image for image, _ in rows["epoch 2"]])


@pytest.mark.parametrize("network", ["nin", "resnet18"])
def test_a_grid_is_drawn(network, tmp_path):
    experiment = resolve(network, dataset="fake", overrides=["data.examples=8"]).experiment
    draw_grid(open_data(experiment), tmp_path / "grid.png", experiment)
    height, width, _ = tf.io.decode_png((tmp_path / "grid.png").read_bytes()).shape
    assert height > 800
    assert width > 1200
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("grid.xyz", r"cannot draw '.*grid.xyz'; expected a file named \*.png, or one of"),
        ("no/grid.png", "cannot write"),
    ],
)
def test_a_grid_that_cannot_be_written(data_dir, tmp_path, file, message):
    with pytest.raises(BnnError, match=message):
        draw_grid(open_dataset("mnist_5k", DataLocation(data_dir)), tmp_path / file)
    assert list(tmp_path.iterdir()) == []
