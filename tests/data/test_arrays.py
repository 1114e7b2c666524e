"""Prepared arrays of images and labels."""

import numpy as np
import pytest

import bnn_keras
from bnn_keras.data import describe, evaluation_batches, open_data, record_of, training_batches
from bnn_keras.data.arrays import ArraysReader
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation

NUMBERS = np.random.default_rng(0)
FLOATS = NUMBERS.normal(0, 2, (12, 32, 32, 3)).astype(np.float32)
PIXELS = NUMBERS.integers(0, 256, (12, 28, 28, 1)).astype(np.uint8)
LABELS = np.arange(12) % 10


def write(folder, images, labels=LABELS, suffix=""):
    """Write arrays as the reference has them: without a suffix, NCHW."""
    for split in ("train", "test"):
        for name, values in (("data", images), ("labels", labels)):
            with (folder / f"{split}_{name}{suffix}").open("wb") as file:
                np.save(file, values)
    return folder


def opened(folder, network):
    location = DataLocation(str(folder))
    experiment = resolve(network, dataset=describe("arrays", location), overrides=["data.validation=0"]).experiment
    return open_data(experiment, location), experiment


@pytest.mark.parametrize("layout", ["channels first", "channels last", "npz"])
def test_floats_are_inputs_of_the_network(tmp_path, layout):
    images = np.moveaxis(FLOATS, 3, 1) if layout == "channels first" else FLOATS
    folder = tmp_path
    if layout == "npz":
        folder = tmp_path / "arrays.npz"
        np.savez(folder, train_data=images, train_labels=LABELS, test_data=images, test_labels=LABELS)
    else:
        write(tmp_path, images, LABELS.astype(float), "" if layout == "channels first" else ".npy")
    dataset, experiment = opened(folder, "nin")
    assert (dataset.info.input_shape, dataset.info.classes, dataset.encoded) == ((32, 32, 3), 10, False)
    ((inputs, labels),) = evaluation_batches(dataset, experiment)
    np.testing.assert_allclose(inputs.numpy(), FLOATS, rtol=1e-6)
    assert labels.numpy().tolist() == LABELS.tolist()
    stage = experiment.stages[0].model_copy(update={"batch_size": 12})
    ((inputs, labels),) = training_batches(dataset, experiment, stage, 0, 1)
    order = np.argsort(inputs.numpy()[:, 0, 0, 0])
    np.testing.assert_allclose(inputs.numpy()[order], FLOATS[np.argsort(FLOATS[:, 0, 0, 0])], rtol=1e-6)


@pytest.mark.parametrize("images", [PIXELS, PIXELS[..., 0], np.moveaxis(PIXELS, 3, 1)], ids=["NHWC", "NHW", "NCHW"])
def test_pixels_are_normalised(tmp_path, images):
    dataset, experiment = opened(write(tmp_path, images), "lenet5")
    ((inputs, _),) = evaluation_batches(dataset, experiment)
    np.testing.assert_allclose(inputs.numpy(), (PIXELS / 255 - 0.5) / 0.5, rtol=1e-5, atol=1e-6)


def test_record_identifies_values(tmp_path):
    dataset, _ = opened(write(tmp_path, PIXELS), "lenet5")
    before = record_of(dataset)
    assert before == record_of(opened(tmp_path, "lenet5")[0])
    changed, _ = opened(write(tmp_path, PIXELS[::-1]), "lenet5")
    assert record_of(changed)["digests"] != before["digests"]


def save(folder, name, values):
    with (folder / name).open("wb") as file:
        np.save(file, values, allow_pickle=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "test_data").unlink(), r"has no test_data; expected train_data, train_labels, test_data and"),
        (lambda d: (d / "train_data").write_bytes(b"data"), r"cannot read train_data in .*; expected train_data, "),
        (
            lambda d: save(d, "train_data", np.array([{}])),
            r"cannot read train_data in .*Object arrays cannot be loaded",
        ),
        (lambda d: save(d, "train_data", PIXELS.astype(int)), r"train_data in .* has the type int64; expected uint8"),
        (lambda d: save(d, "train_data", np.zeros((12, 784))), r"has the shape \(12, 784\); expected \(images, height"),
        (lambda d: save(d, "train_data", np.zeros((12, 3, 3, 3))), r"with 1 or 3 channels on one of the two axes only"),
        (
            lambda d: save(d, "train_data", np.full((12, 28, 28), np.nan)),
            r"has 9,408 infinite or NaN values; expected finite",
        ),
        (
            lambda d: save(d, "test_data", PIXELS[:, :20]),
            r"training images \(28, 28, 1\) of uint8 and test images \(20",
        ),
        (lambda d: save(d, "train_labels", LABELS[:5]), r"train_labels in .* has the shape \(5,\); expected \(12,\)"),
        (
            lambda d: save(d, "train_labels", LABELS + 0.5),
            r"other values than whole numbers from 0 on; expected classes",
        ),
        (lambda d: save(d, "train_labels", LABELS - 1), r"other values than whole numbers from 0 on; expected classes"),
        (lambda d: save(d, "test_labels", LABELS + 1), r"has test_labels up to 10, but train_labels up to 9; expected"),
    ],
)
def test_bad_arrays(tmp_path, change, message):
    change(write(tmp_path, PIXELS))
    with pytest.raises(BnnError, match=message):
        ArraysReader.open(tmp_path)


def test_folder_is_needed():
    with pytest.raises(BnnError, match=r"dataset 'arrays' needs arrays; set --data-dir to a folder or an .npz file"):
        describe("arrays")


@pytest.mark.slow
def test_arrays_are_trained_evaluated_predicted_and_exported(tmp_path):
    """Predictions of a file equal those of the run; floats are used as they are by both."""
    (tmp_path / "arrays").mkdir()
    floats = NUMBERS.normal(0, 1, (12, 28, 28, 1)).astype(np.float32)
    folder = str(write(tmp_path / "arrays", floats))
    run = tmp_path / "run"
    experiment = resolve(
        "lenet5",
        dataset=describe("arrays", DataLocation(folder)),
        epochs=1,
        batch_size=4,
        overrides=["data.validation=0", "data.augmentation.pad=0"],
    ).experiment
    bnn_keras.train(experiment, run, data_dir=folder)
    result = bnn_keras.evaluate(run, data_dir=folder)
    predicted = bnn_keras.predict(run, [floats])
    assert predicted.logits.shape == (12, 10)
    accuracy = 100 * np.mean(predicted.logits.argmax(-1) == LABELS)
    assert result["top1"] == pytest.approx(accuracy, abs=0.01)
    file = tmp_path / "file.safetensors"
    bnn_keras.export_run(run, "packed", file, data_dir=folder)
    np.testing.assert_array_equal(bnn_keras.predict(file, [floats]).logits, predicted.logits)
