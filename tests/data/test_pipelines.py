import hashlib
import types

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.data import (
    Dataset,
    evaluation_batches,
    normalise,
    open_data,
    open_dataset,
    steps_per_epoch,
    training_batches,
)
from bnn_keras.data.pipelines import denormalise
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.experiment.schema import AugmentationConfig
from bnn_keras.location import DataLocation

DIGEST = "e440037f995b50b2ae1a27f9997bdecc847a6db4570bcaba33556c44da360c01"


@pytest.fixture(scope="module")
def images(data_dir):
    return open_dataset("mnist_5k", DataLocation(data_dir))


@pytest.fixture
def experiment():
    return resolve("lenet5", experiment="xnor_net/lenet5_mnist", dataset="mnist_5k").experiment


@pytest.fixture
def moving():
    experiment = resolve("lenet5").experiment
    assert experiment.data.augmentation.pad == 2
    return experiment


def stage_of(experiment, batch_size=128, **keys):
    return experiment.stages[0].model_copy(update={"batch_size": batch_size, **keys})


def epochs_of(images, experiment, batch_size, first, last, **keys):
    return training_batches(images, experiment, stage_of(experiment, batch_size), first, last, **keys)


def labels_of(batches):
    return [labels.numpy().tolist() for _, labels in batches]


def test_normalise_equals_the_formula(experiment):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    expected = (pixels / 255 - 0.1307) / 0.3081
    normalised = normalise(experiment)(tf.constant(pixels))
    np.testing.assert_allclose(normalised.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(denormalise(experiment)(normalised), pixels, atol=1e-3)


def test_every_epoch_has_every_image_once(images, experiment):
    batches = list(epochs_of(images, experiment, 128, 0, 2))
    assert [len(labels) for _, labels in batches] == ([128] * 31 + [32]) * 2
    for epoch in (batches[:32], batches[32:]):
        digests = {image.tobytes() for batch, _ in epoch for image in batch.numpy()}
        assert len(digests) == 4000


def test_order_is_a_function_of_seed_and_epoch(images, experiment):
    whole = labels_of(epochs_of(images, experiment, 128, 0, 3))
    assert labels_of(epochs_of(images, experiment, 128, 0, 3)) == whole
    assert labels_of(epochs_of(images, experiment, 128, 1, 3)) == whole[32:]
    assert whole[:32] != whole[32:64]
    other = experiment.model_copy(update={"seed": 2})
    assert labels_of(epochs_of(images, other, 128, 0, 1)) != whole[:32]


def test_order_does_not_depend_on_the_global_seed(images, experiment):
    orders = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append(labels_of(epochs_of(images, experiment, 128, 0, 1)))
    assert orders[0] == orders[1]


def test_evaluation_has_every_test_image_once_in_one_order(images, experiment):
    first, second = (labels_of(evaluation_batches(images, experiment, 300)) for _ in range(2))
    assert first == second
    assert [len(labels) for labels in first] == [300, 300, 300, 100]
    assert np.bincount(np.concatenate(first)).tolist() == [100] * 10


def test_augmentation_is_a_function_of_seed_epoch_and_example(images, moving):
    def digests(experiment, first, last):
        return [batch.numpy().tobytes() for batch, _ in epochs_of(images, experiment, 1000, first, last)]

    whole = digests(moving, 0, 2)
    assert digests(moving, 0, 2) == whole
    assert digests(moving, 1, 2) == whole[4:]
    assert not set(whole[:4]) & set(whole[4:])


def test_order_and_moves_are_those_of_the_accuracies_in_the_documents(images, moving):
    """A digest of what `bnnk train lenet5` sees first, since that was measured."""
    (pixels, labels), *_ = training_batches(images, moving, moving.stages[0], 0, 1)
    pixels = np.round(denormalise(moving)(pixels)).astype(np.uint8)
    assert hashlib.sha256(pixels.tobytes() + labels.numpy().astype(np.uint8).tobytes()).hexdigest() == DIGEST


def test_evaluation_is_not_augmented(images, moving, experiment):
    one, other = (np.concatenate([batch for batch, _ in evaluation_batches(images, e)]) for e in (moving, experiment))
    assert np.array_equal(one, other)


# --- which images of an epoch are trained on ---


@pytest.mark.parametrize(
    ("batch_size", "keys", "replicas", "static", "steps", "last"),
    [
        (128, {}, 1, False, 32, 32),
        (128, {"drop_last": True}, 1, False, 31, 128),
        (128, {}, 1, True, 31, 128),
        (128, {}, 2, False, 32, 32),
        (129, {}, 3, False, 31, 129),  # 4000 = 31 · 129 + 1, which three cannot share
        (132, {}, 2, False, 31, 40),
        (500, {"drop_last": True}, 2, False, 8, 500),
    ],
)
def test_the_smaller_last_batch(images, experiment, batch_size, keys, replicas, static, steps, last):
    stage = stage_of(experiment, batch_size, **keys)
    assert steps_per_epoch(images, stage, replicas, static) == steps
    context = tf.distribute.InputContext(1, 0, replicas)
    batches = labels_of(training_batches(images, experiment, stage, 0, 1, context, static))
    assert len(batches) == steps * replicas
    assert {len(batch) for batch in batches[:-replicas]} == {batch_size // replicas}
    assert [len(batch) for batch in batches[-replicas:]] == [last // replicas] * replicas


def test_static_batches_have_a_known_size(images, experiment):
    stage = stage_of(experiment, 128)
    for static, size in ((True, 128), (False, None)):
        shapes = training_batches(images, experiment, stage, 0, 1, static=static).element_spec
        assert [spec.shape[0] for spec in shapes] == [size, size]


def test_a_batch_that_replicas_cannot_share(images, experiment):
    with pytest.raises(BnnError, match=r"a batch of 100 images does not divide among 3 replicas; set --batch-size to"):
        steps_per_epoch(images, stage_of(experiment, 100), replicas=3)


def test_a_batch_larger_than_the_data_set(images, experiment):
    assert steps_per_epoch(images, stage_of(experiment, 5000)) == 1
    message = r"4000 training images of 'mnist_5k' do not make one batch of 5000; set --batch-size to at most 4000"
    with pytest.raises(BnnError, match=message):
        steps_per_epoch(images, stage_of(experiment, 5000, drop_last=True))


# --- several input pipelines ---


def images_of(batches):
    return [[image.tobytes() for image in batch.numpy()] for batch, _ in batches]


@pytest.mark.parametrize(("pipelines", "replicas"), [(2, 2), (3, 3), (2, 4), (1, 4)])
def test_a_step_sees_the_same_images_whatever_the_number_of_pipelines(images, moving, pipelines, replicas):
    stage = stage_of(moving, 600)
    alone = images_of(training_batches(images, moving, stage, 0, 2))
    here = replicas // pipelines
    parts = [
        images_of(training_batches(images, moving, stage, 0, 2, tf.distribute.InputContext(pipelines, one, replicas)))
        for one in range(pipelines)
    ]
    # 4000 = 6 · 600 + 400: the last 400 are shared by two and four, and left out by three.
    steps = 7 if 400 % replicas == 0 else 6
    alone = [*alone[:steps], *alone[7 : 7 + steps]]
    for step, expected in enumerate(alone):
        shares = [part[here * step + replica] for part in parts for replica in range(here)]
        assert {len(share) for share in shares} == {len(expected) // replicas}
        assert sorted(image for share in shares for image in share) == sorted(expected)
    assert [len(part) for part in parts] == [2 * steps * here] * pipelines


@pytest.mark.parametrize("pipelines", [2, 3])
def test_all_pipelines_together_evaluate_every_image_once(images, experiment, pipelines):
    parts = [
        images_of(evaluation_batches(images, experiment, 64, tf.distribute.InputContext(pipelines, one, pipelines)))
        for one in range(pipelines)
    ]
    found = [image for part in parts for batch in part for image in batch]
    assert sorted(found) == sorted(
        image for batch in images_of(evaluation_batches(images, experiment)) for image in batch
    )


# --- images of any size, still encoded ---


class Encoded:
    """Encoded images of several sizes, labelled with their number."""

    version, labels, encoded, folder = "1.0.0", [str(number) for number in range(1000)], True, None
    sizes = ((300, 400), (500, 260), (120, 90), (256, 256), (224, 224))
    splits = types.MappingProxyType({"train": 5, "validation": 5})

    def count(self, split):
        return self.splits[split]

    def read(self, split):
        images = [np.full((*size, 3), 40 * number, np.uint8) for number, size in enumerate(self.sizes)]
        encoded = [tf.io.encode_png(image).numpy() for image in images]
        return tf.data.Dataset.from_tensor_slices((encoded, np.arange(len(images))))


@pytest.fixture
def imagenet():
    return Dataset(catalog.DATASETS["imagenet2012"], Encoded())


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
    batches = list(epochs_of(imagenet, resolve("alexnet").experiment, 2, 0, 2))
    assert {tuple(images.shape[1:]) for images, _ in batches} == {(227, 227, 3)}
    first, second = (np.concatenate([labels for _, labels in epoch]) for epoch in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]


def test_pipelines_share_images_before_they_decode_them(imagenet, monkeypatch):
    """An image that cannot be decoded stops the one pipeline that has it."""
    experiment = resolve("resnet18").experiment
    whole = Encoded().read

    def damaged(self, split):
        return whole(split).map(lambda data, label: (tf.where(label == 3, b"no image", data), label))

    monkeypatch.setattr(Encoded, "read", damaged)
    outcomes = []
    for one in range(2):
        try:
            batches = epochs_of(imagenet, experiment, 4, 0, 1, context=tf.distribute.InputContext(2, one, 2))
            outcomes.append(labels_of(batches))
        except tf.errors.InvalidArgumentError:
            outcomes.append(None)
    (decoded,) = [one for one in outcomes if one]
    assert len(decoded[0]) == 2
    assert 3 not in decoded[0]


@pytest.mark.parametrize("crop", [None, "random", "random_area"])
def test_encoded_training_images_depend_on_seed_epoch_and_example_alone(crop):
    """Not on the order they come in, which the batch size shows."""
    experiment = resolve("resnet18").experiment
    keys = AugmentationConfig(crop=crop, flip=True, brightness=0.4, saturation=0.4, lighting=0.1)
    data = {"name": "fake", "like": "imagenet2012", "examples": 6, "augmentation": keys}
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update=data)})
    images = open_data(experiment)

    def seen(batch_size, first, last):
        return sorted(
            one for batch in images_of(epochs_of(images, experiment, batch_size, first, last)) for one in batch
        )

    whole = seen(6, 0, 2)
    assert len(set(whole)) == 12
    assert sorted(seen(2, 0, 1) + seen(3, 1, 2)) == whole
