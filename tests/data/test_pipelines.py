import dataclasses
import hashlib

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.data import (
    Dataset,
    evaluation_batches,
    evaluation_steps,
    normalise,
    open_dataset,
    steps_per_epoch,
    training_batches,
)
from bnn_keras.data.pipelines import augmented_batches, denormalise
from bnn_keras.data.shuffling import buffered_order
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.experiment.schema import AugmentationConfig
from bnn_keras.location import DataLocation

# Of the first batch of `bnnk train lenet5`, since the accuracies in the documents were measured.
DIGEST = "03a9cb3fe08a1a460baf7262be8bfe6b00c8b19c019ff9d584c9b240dcf185a2"


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Images given as arrays or as bytes of files, labelled with their index."""

    images: np.ndarray
    encoded: bool = False
    version = "1.0.0"
    folder = None

    @property
    def labels(self):
        return [str(index) for index in range(len(self.images))]

    @property
    def splits(self):
        return {"train": len(self.images), "test": len(self.images), "validation": len(self.images)}

    def count(self, split):
        return self.splits[split]

    def read(self, split):
        return tf.data.Dataset.from_tensor_slices((self.images, np.arange(len(self.images))))

    def order(self, split):
        return buffered_order(self.read(split), self.count(split))


@pytest.fixture(scope="module")
def digits(data_dir):
    return open_dataset("mnist_5k", DataLocation(data_dir))


@pytest.fixture(scope="module")
def dataset():
    """40 random images of MNIST's size."""
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1)).astype(np.uint8)
    return Dataset(catalog.DATASETS["mnist_5k"], InMemory(images))


@pytest.fixture
def experiment():
    """LeNet-5 without augmentation."""
    return resolve("lenet5", experiment="xnor_net/lenet5_mnist", dataset="mnist_5k").experiment


@pytest.fixture
def augmented():
    """LeNet-5, whose images are shifted by up to two pixels."""
    experiment = resolve("lenet5").experiment
    assert experiment.data.augmentation.pad == 2
    return experiment


def stage_of(experiment, batch_size=8, **keys):
    return experiment.stages[0].model_copy(update={"batch_size": batch_size, **keys})


def epochs_of(dataset, experiment, batch_size, first, last, **keys):
    return training_batches(dataset, experiment, stage_of(experiment, batch_size), first, last, **keys)


def labels_of(batches):
    return [labels.numpy().tolist() for _, labels in batches]


def images_of(batches):
    return [[image.tobytes() for image in batch.numpy()] for batch, _ in batches]


def flat(batches):
    return [example for batch in batches for example in batch]


def test_normalise_equals_formula(experiment):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    expected = (pixels / 255 - 0.1307) / 0.3081
    normalised = normalise(experiment)(tf.constant(pixels))
    np.testing.assert_allclose(normalised.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(denormalise(experiment)(normalised), pixels, atol=1e-3)


def test_bgr_reverses_the_channels():
    experiment = resolve("resnet20", overrides=["data.channels=bgr", "data.mean=[0.1,0.2,0.3]"]).experiment
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = (pixels[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / experiment.data.std
    inputs = normalise(experiment)(pixels)
    np.testing.assert_allclose(inputs, expected, atol=1e-5)
    np.testing.assert_allclose(denormalise(experiment)(inputs), pixels, atol=1e-3)


def test_without_shuffle_every_epoch_has_the_order_of_the_dataset(dataset, experiment):
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"shuffle": False})})
    labels = labels_of(epochs_of(dataset, experiment, 8, 0, 2))
    assert [label for batch in labels for label in batch] == 2 * list(range(40))


def test_epoch_contains_each_image_once(digits, experiment):
    batches = list(epochs_of(digits, experiment, 128, 0, 2))
    assert [len(labels) for _, labels in batches] == ([128] * 31 + [32]) * 2
    for epoch in (batches[:32], batches[32:]):
        digests = {image.tobytes() for batch, _ in epoch for image in batch.numpy()}
        assert len(digests) == 4000


def test_order_is_function_of_seed_and_epoch(dataset, experiment):
    batches = labels_of(epochs_of(dataset, experiment, 8, 0, 3))
    assert labels_of(epochs_of(dataset, experiment, 8, 0, 3)) == batches
    assert labels_of(epochs_of(dataset, experiment, 8, 1, 3)) == batches[5:]
    assert batches[:5] != batches[5:10]
    for epoch in range(3):
        assert sorted(flat(batches[5 * epoch : 5 * epoch + 5])) == list(range(40))
    other = experiment.model_copy(update={"seed": 2})
    assert labels_of(epochs_of(dataset, other, 8, 0, 1)) != batches[:5]


def test_order_is_independent_of_global_seed(dataset, experiment):
    orders = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append(labels_of(epochs_of(dataset, experiment, 8, 0, 1)))
    assert orders[0] == orders[1]


def test_evaluation_yields_each_test_image_once_in_fixed_order(digits, experiment):
    first, second = (labels_of(evaluation_batches(digits, experiment, 300)) for _ in range(2))
    assert first == second
    assert [len(labels) for labels in first] == [300, 300, 300, 100]
    assert np.bincount(np.concatenate(first)).tolist() == [100] * 10


def test_augmentation_is_function_of_seed_epoch_and_index(dataset, augmented):
    batches = images_of(epochs_of(dataset, augmented, 10, 0, 2))
    assert images_of(epochs_of(dataset, augmented, 10, 1, 2)) == batches[4:]
    assert len(set(flat(batches[:4])) & set(flat(batches[4:]))) < 10  # of 40 images, with 25 shifts each
    other = augmented.model_copy(update={"seed": 2})
    assert set(flat(images_of(epochs_of(dataset, other, 10, 0, 1)))) != set(flat(batches[:4]))


def test_first_batch_is_that_of_documented_accuracies(digits, augmented):
    (pixels, labels), *_ = training_batches(digits, augmented, augmented.stages[0], 0, 1).take(1)
    pixels = np.round(denormalise(augmented)(pixels)).astype(np.uint8)
    assert hashlib.sha256(pixels.tobytes() + labels.numpy().astype(np.uint8).tobytes()).hexdigest() == DIGEST


def test_evaluation_is_not_augmented(dataset, augmented, experiment):
    assert images_of(evaluation_batches(dataset, augmented)) == images_of(evaluation_batches(dataset, experiment))


# --- the last batch ---


@pytest.mark.parametrize(
    ("batch_size", "keys", "replicas", "static", "steps", "last"),
    [
        (12, {}, 1, False, 4, 4),
        (12, {"drop_last": True}, 1, False, 3, 12),
        (12, {}, 1, True, 3, 12),
        (12, {}, 2, False, 4, 4),
        (3, {}, 3, False, 13, 3),  # 40 = 13 · 3 + 1, and three replicas cannot share one image
        (32, {}, 2, False, 2, 8),
        (20, {"drop_last": True}, 2, False, 2, 20),
    ],
)
def test_last_batch(dataset, experiment, batch_size, keys, replicas, static, steps, last):
    stage = stage_of(experiment, batch_size, **keys)
    assert steps_per_epoch(dataset, stage, replicas, static) == steps
    context = tf.distribute.InputContext(1, 0, replicas)
    batches = labels_of(training_batches(dataset, experiment, stage, 0, 1, context, static))
    assert len(batches) == steps * replicas
    assert {len(batch) for batch in batches[:-replicas]} == {batch_size // replicas}
    assert [len(batch) for batch in batches[-replicas:]] == [last // replicas] * replicas


def test_static_batches_have_known_size(dataset, experiment):
    stage = stage_of(experiment, 8)
    for static, size in ((True, 8), (False, None)):
        shapes = training_batches(dataset, experiment, stage, 0, 1, static=static).element_spec
        assert [spec.shape[0] for spec in shapes] == [size, size]


def test_batch_must_be_divisible_among_replicas(dataset, experiment):
    message = r"a batch of 100 images cannot be divided among 3 replicas; set --batch-size to a multiple of 3"
    with pytest.raises(BnnError, match=message):
        steps_per_epoch(dataset, stage_of(experiment, 100), replicas=3)


def test_batch_larger_than_dataset(dataset, experiment):
    assert steps_per_epoch(dataset, stage_of(experiment, 50)) == 1
    message = r"'mnist_5k' has 40 training images, fewer than one batch of 50; set --batch-size to at most 40"
    with pytest.raises(BnnError, match=message):
        steps_per_epoch(dataset, stage_of(experiment, 50, drop_last=True))


# --- several input pipelines ---


@pytest.mark.parametrize(("pipelines", "replicas"), [(2, 2), (3, 3), (2, 4), (1, 4)])
def test_step_sees_same_images_for_any_number_of_pipelines(dataset, augmented, pipelines, replicas):
    stage = stage_of(augmented, 12)
    single = images_of(training_batches(dataset, augmented, stage, 0, 2))
    local_replicas = replicas // pipelines
    contexts = [tf.distribute.InputContext(pipelines, index, replicas) for index in range(pipelines)]
    shards = [images_of(training_batches(dataset, augmented, stage, 0, 2, context)) for context in contexts]
    # 40 = 3 · 12 + 4: the last 4 images are shared by two and four replicas, and dropped for three.
    steps = 4 if 4 % replicas == 0 else 3
    single = [*single[:steps], *single[4 : 4 + steps]]
    assert [len(shard) for shard in shards] == [2 * steps * local_replicas] * pipelines
    for step, expected in enumerate(single):
        batches = [shard[local_replicas * step + replica] for shard in shards for replica in range(local_replicas)]
        assert {len(batch) for batch in batches} == {len(expected) // replicas}
        assert sorted(flat(batches)) == sorted(expected)
    later = images_of(training_batches(dataset, augmented, stage, 0, 2, contexts[-1], first_step=2))
    assert later == shards[-1][2 * local_replicas :]


def test_images_of_the_steps_that_are_left_out_are_not_decoded(encoded):
    experiment = with_augmentation(resolve("resnet18").experiment)
    first, *others = labels_of(epochs_of(encoded, experiment, 1, 0, 2))
    files = encoded.reader.images.copy()
    files[first[0]] = b"no image"
    damaged = dataclasses.replace(encoded, reader=InMemory(files, encoded=True))
    batches = epochs_of(damaged, experiment, 1, 0, 2, first_step=1)
    assert labels_of(batches.take(len(files) - 1)) == others[: len(files) - 1]


@pytest.mark.parametrize("pipelines", [2, 3])
def test_pipelines_together_evaluate_each_image_once(dataset, experiment, pipelines):
    shards = [
        images_of(evaluation_batches(dataset, experiment, 6, tf.distribute.InputContext(pipelines, index, pipelines)))
        for index in range(pipelines)
    ]
    assert max(map(len, shards)) == evaluation_steps(dataset, pipelines, pipelines, 6)
    images = [image for shard in shards for image in flat(shard)]
    (expected,) = images_of(evaluation_batches(dataset, experiment))
    assert sorted(images) == sorted(expected)


# --- encoded images of any size ---

SIZES = ((300, 400), (500, 260), (120, 90), (256, 256), (224, 224))


@pytest.fixture(scope="module")
def encoded():
    """Five PNG files of several sizes, each of one grey value."""
    images = [np.full((*size, 3), 40 * index, np.uint8) for index, size in enumerate(SIZES)]
    files = np.array([tf.io.encode_png(image).numpy() for image in images], object)
    return Dataset(catalog.DATASETS["imagenet2012"], InMemory(files, encoded=True))


def with_augmentation(experiment, **keys):
    augmentation = AugmentationConfig(**keys) if keys else None
    return experiment.model_copy(
        update={"data": experiment.data.model_copy(update={"augmentation": augmentation, "resize": None})}
    )


def test_evaluation_resizes_encoded_images(encoded):
    experiment = resolve("resnet18").experiment
    ((images, labels),) = evaluation_batches(encoded, experiment)
    assert images.shape == (5, 224, 224, 3)
    assert labels.numpy().tolist() == [0, 1, 2, 3, 4]
    grey = 40 * np.arange(5) / 255
    expected = (grey[:, None] - experiment.data.mean) / experiment.data.std
    np.testing.assert_allclose(images.numpy()[:, 100, 100], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(images.numpy(), (1, 2)).max() == 0


def test_epoch_contains_each_encoded_image_once(encoded):
    batches = list(epochs_of(encoded, resolve("alexnet").experiment, 2, 0, 2))
    assert {tuple(images.shape[1:]) for images, _ in batches} == {(227, 227, 3)}
    first, second = (np.concatenate([labels for _, labels in epoch]) for epoch in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]


def test_pipeline_decodes_only_its_shard(encoded):
    """A damaged image stops the one pipeline whose shard contains it."""
    experiment = with_augmentation(resolve("resnet18").experiment)
    files = encoded.reader.images.copy()
    files[3] = b"no image"
    damaged = dataclasses.replace(encoded, reader=InMemory(files, encoded=True))
    outcomes = []
    for index in range(2):
        batches = epochs_of(damaged, experiment, 4, 0, 1, context=tf.distribute.InputContext(2, index, 2))
        try:
            outcomes.append(labels_of(batches))
        except tf.errors.InvalidArgumentError:
            outcomes.append(None)
    (decoded,) = [labels for labels in outcomes if labels]
    assert len(decoded[0]) == 2
    assert 3 not in decoded[0]


@pytest.mark.parametrize(
    "keys",
    [
        {"flip": True, "brightness": 0.4},
        {"crop": "random", "flip": True},
        {"crop": "random_area", "flip": True, "brightness": 0.4, "saturation": 0.4, "lighting": 0.1},
    ],
    ids=["centre", "random", "random_area"],
)
def test_augmentation_of_encoded_images_is_function_of_seed_epoch_and_index(keys):
    """Shuffled training batches contain the same images as the dataset's own order."""
    experiment = with_augmentation(resolve("resnet18").experiment, **keys)
    noise = np.random.default_rng(0).integers(0, 256, (4, 90, 120, 3)).astype(np.uint8)
    files = np.array([tf.io.encode_jpeg(image).numpy() for image in noise], object)
    dataset = Dataset(catalog.DATASETS["imagenet2012"], InMemory(files, encoded=True))
    trained = flat(images_of(epochs_of(dataset, experiment, 2, 0, 2)))
    indexed_pairs = dataset.pairs(dataset.info.train).enumerate()
    unshuffled = [
        normalise(experiment)(images)[0].numpy().tobytes()
        for epoch in range(2)
        for images, _ in augmented_batches(dataset, experiment, tf.constant(epoch, tf.int64), indexed_pairs, 1)
    ]
    assert len(set(unshuffled)) == 8
    assert sorted(trained) == sorted(unshuffled)
