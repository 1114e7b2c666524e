"""Global contrast normalization and ZCA whitening, against the formulas."""

import numpy as np
import pytest

from bnn_keras.data import describe, evaluation_batches, open_data, open_dataset
from bnn_keras.data.whitening import Whitening, normalize_contrast, whiten
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation

IMAGES = np.random.default_rng(0).integers(0, 256, (90, 4, 5, 3)).astype(np.uint8)


def expected(train, images):
    """Whiten images as pylearn2 does: its loops over images and over principal components, written out."""

    def contrast(image):
        centred = image.ravel().astype(float) - image.mean()
        return 55 * centred / np.sqrt((centred**2).sum())

    normalized = np.array([contrast(image) for image in train])
    mean = normalized.mean(0)
    _, singular, components = np.linalg.svd(normalized - mean, full_matrices=True)
    variances = np.zeros(len(mean))
    variances[: len(singular)] = singular**2 / len(train)
    whitened = [
        sum(
            ((contrast(image) - mean) @ component) / np.sqrt(variance + 0.1) * component
            for component, variance in zip(components, variances, strict=True)
        )
        for image in images
    ]
    return np.array(whitened).reshape(images.shape)


def test_whitening_equals_formula():
    whitening = Whitening.fit([IMAGES[:30], IMAGES[30:80]])
    np.testing.assert_allclose(whitening(IMAGES), expected(IMAGES[:80], IMAGES), rtol=1e-5, atol=1e-6)
    exact = (normalize_contrast(IMAGES).reshape(90, -1) - whitening.mean) @ whitening.matrix
    np.testing.assert_allclose(exact.reshape(IMAGES.shape), expected(IMAGES[:80], IMAGES), rtol=0, atol=1e-6)


def test_order_of_values_makes_no_difference():
    first = np.moveaxis(IMAGES, 3, 1)
    whitened = np.moveaxis(Whitening.fit([first])(first), 1, 3)
    np.testing.assert_allclose(whitened, Whitening.fit([IMAGES])(IMAGES), rtol=1e-5, atol=1e-5)


def test_image_of_one_colour_becomes_zero():
    assert not normalize_contrast(np.full((1, 4, 4, 1), 9, np.uint8)).any()


def test_other_image_size():
    with pytest.raises(BnnError, match=r"an image of shape \(2, 2, 3\) has 12 values; expected 60, as the images that"):
        Whitening.fit([IMAGES])(IMAGES[:, :2, :2])


def test_whitened_dataset_is_read_as_arrays(tmp_path):
    experiment = resolve("lenet5", dataset="fake", overrides=["data.examples=30"]).experiment
    dataset = open_data(experiment)
    whiten(dataset, tmp_path / "arrays")
    location = DataLocation(str(tmp_path / "arrays"))
    experiment = resolve("lenet5", dataset=describe("arrays", location)).experiment
    ((inputs, labels),) = evaluation_batches(open_dataset("arrays", location), experiment)
    images, numbers = (np.array(values) for values in zip(*dataset.pairs("test").as_numpy_iterator(), strict=True))
    whitening = Whitening.load(tmp_path / "arrays" / "whitening.npz")
    np.testing.assert_allclose(inputs.numpy(), whitening(images), rtol=1e-5, atol=1e-6)
    assert labels.numpy().tolist() == numbers.tolist()
    with pytest.raises(BnnError, match=r"arrays' exists; choose a new folder, or remove it"):
        whiten(dataset, tmp_path / "arrays")


def test_large_images(tmp_path):
    dataset = open_data(resolve("resnet18", dataset="fake", overrides=["data.examples=3"]).experiment)
    with pytest.raises(BnnError, match=r"are too large to be whitened, or differ in size; expected images of one size"):
        whiten(dataset, tmp_path / "arrays")


def test_no_whitening(tmp_path):
    (tmp_path / "whitening.npz").write_bytes(b"arrays")
    with pytest.raises(BnnError, match=r"cannot read '.*whitening.npz' \(.*\); expected whitening.npz in a folder of"):
        Whitening.load(tmp_path / "whitening.npz")
