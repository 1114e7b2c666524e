import types

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.data import Images, evaluation_batches, fit, normalise, open_dataset, training_batches
from bnn_keras.data.pipelines import augment
from bnn_keras.experiment import resolve


@pytest.fixture(scope="module")
def images(data_dir):
    return open_dataset("mnist_5k", data_dir)


@pytest.fixture
def experiment():
    return resolve("lenet5", experiment="xnor_net/lenet5_mnist", dataset="mnist_5k").experiment


@pytest.fixture
def moving():
    experiment = resolve("lenet5").experiment
    assert experiment.data.augmentation.pad == 2
    return experiment


def labels_of(batches):
    return [labels.numpy().tolist() for _, labels in batches]


def test_normalise_equals_the_formula(experiment):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    expected = (pixels / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(normalise(experiment)(tf.constant(pixels)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_every_epoch_has_every_image_once(images, experiment):
    batches = list(training_batches(images, experiment, 128, 0, 2))
    assert [len(labels) for _, labels in batches] == ([128] * 31 + [32]) * 2
    for epoch in (batches[:32], batches[32:]):
        digests = {image.tobytes() for batch, _ in epoch for image in batch.numpy()}
        assert len(digests) == 4000


def test_order_is_a_function_of_seed_and_epoch(images, experiment):
    whole = labels_of(training_batches(images, experiment, 128, 0, 3))
    assert labels_of(training_batches(images, experiment, 128, 0, 3)) == whole
    assert labels_of(training_batches(images, experiment, 128, 1, 3)) == whole[32:]
    assert whole[:32] != whole[32:64]
    other = experiment.model_copy(update={"seed": 2})
    assert labels_of(training_batches(images, other, 128, 0, 1)) != whole[:32]


def test_order_does_not_depend_on_the_global_seed(images, experiment):
    orders = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append(labels_of(training_batches(images, experiment, 128, 0, 1)))
    assert orders[0] == orders[1]


def test_evaluation_has_every_test_image_once_in_one_order(images, experiment):
    first, second = (labels_of(evaluation_batches(images, experiment, 300)) for _ in range(2))
    assert first == second
    assert [len(labels) for labels in first] == [300, 300, 300, 100]
    assert np.bincount(np.concatenate(first)).tolist() == [100] * 10


def test_augmentation_moves_by_up_to_pad_pixels(moving):
    image = np.zeros((28, 28, 1), np.uint8)
    image[14, 14] = 255
    places = set()
    for index in range(300):
        moved = augment(tf.constant(image), moving, tf.constant([1, index], tf.int64)).numpy()
        assert moved.shape == image.shape
        ((row, column, _),) = np.argwhere(moved == 255)
        places.add((row - 14, column - 14))
    assert places == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


def test_augmentation_brings_in_black(moving):
    image = tf.fill((28, 28, 1), tf.constant(255, tf.uint8))
    moved = [augment(image, moving, tf.constant([1, index], tf.int64)).numpy() for index in range(20)]
    assert {int(part) for one in moved for part in np.unique(one)} == {0, 255}


def test_augmentation_is_a_function_of_seed_epoch_and_example(images, moving):
    def digests(experiment, first, last):
        return [batch.numpy().tobytes() for batch, _ in training_batches(images, experiment, 1000, first, last)]

    whole = digests(moving, 0, 2)
    assert digests(moving, 0, 2) == whole
    assert digests(moving, 1, 2) == whole[4:]
    assert not set(whole[:4]) & set(whole[4:])


def test_evaluation_is_not_augmented(images, moving, experiment):
    one, other = (np.concatenate([batch for batch, _ in evaluation_batches(images, e)]) for e in (moving, experiment))
    assert np.array_equal(one, other)


# --- images of any size, still encoded ---


class Encoded:
    """A stand-in for TFDS's builder of ImageNet: encoded images of several sizes, labelled with their number."""

    sizes = ((300, 400), (500, 260), (120, 90), (256, 256), (224, 224))

    def __init__(self):
        split = types.SimpleNamespace(num_examples=len(self.sizes))
        self.info = types.SimpleNamespace(splits={"train": split, "validation": split})

    def as_dataset(self, split, decoders, **kwargs):
        assert split in self.info.splits
        assert set(decoders) == {"image"}
        images = [np.full((*size, 3), 40 * number, np.uint8) for number, size in enumerate(self.sizes)]
        encoded = [tf.io.encode_png(image).numpy() for image in images]
        return tf.data.Dataset.from_tensor_slices((encoded, np.arange(len(images))))


@pytest.fixture
def imagenet():
    return Images(catalog.DATASETS["imagenet2012"], Encoded())


def test_images_of_any_size_come_in_the_networks(imagenet):
    experiment = resolve("resnet18").experiment
    ((images, labels),) = evaluation_batches(imagenet, experiment)
    assert images.shape == (5, 224, 224, 3)
    assert labels.numpy().tolist() == [0, 1, 2, 3, 4]
    grey = 40 * np.arange(5) / 255
    expected = (grey[:, None] - experiment.data.mean) / experiment.data.std
    np.testing.assert_allclose(images.numpy()[:, 100, 100], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(images.numpy(), (1, 2)).max() == 0


def test_each_epoch_of_encoded_images_has_each_once(imagenet):
    batches = list(training_batches(imagenet, resolve("alexnet").experiment, 2, 0, 2))
    assert {tuple(images.shape[1:]) for images, _ in batches} == {(227, 227, 3)}
    first, second = (np.concatenate([labels for _, labels in epoch]) for epoch in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_is_cut_out_of_the_shorter_side(turned):
    """512 × 1024 becomes 256 × 512, of which the middle 224 × 224 are left."""
    columns = np.broadcast_to(np.arange(1024)[None, :, None] // 4, (512, 1024, 3)).astype(np.uint8)
    image = columns.transpose(1, 0, 2) if turned else columns
    fitted = fit(tf.constant(image), resolve("resnet18").experiment).numpy()
    fitted = fitted.transpose(1, 0, 2) if turned else fitted
    expected = (2 * (np.arange(224) + (512 - 224) // 2) + 0.5) / 4
    assert fitted.shape == (224, 224, 3)
    assert np.abs(fitted[100, :, 0] - expected).max() <= 1


def test_images_of_a_set_with_one_size_are_resized_as_a_whole(experiment):
    image = np.zeros((56, 14, 1), np.uint8)
    image[:28] = 200
    fitted = fit(tf.constant(image), experiment).numpy()
    assert fitted.shape == (28, 28, 1)
    assert fitted[:13].min() == 200
    assert fitted[15:].max() == 0
