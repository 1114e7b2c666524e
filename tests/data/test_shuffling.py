"""Orders of images in shards, in folders and in memory."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras.data import readers
from bnn_keras.data.image_folder import FolderReader
from bnn_keras.data.readers import TfdsReader
from bnn_keras.data.shuffling import buffered_order, sharded_order

LENGTHS = [50, 37, 1, 64, 49, 51, 50, 50]
SEED = tf.constant([1, 7], tf.int64)


def read(shard, start, number):
    return tf.data.Dataset.range(start, start + number).map(lambda position: (shard, position))


def indices_of(order, epoch_seed):
    tf.random.set_seed(1)
    return [int(index) for index, _ in order(epoch_seed).as_numpy_iterator()]


def epochs(lengths, at_once, buffer_size):
    order = sharded_order(lengths, read, at_once, buffer_size)
    return [np.argsort(indices_of(order, tf.constant([1, epoch], tf.int64))) for epoch in (0, 1)]


def shared_again(positions, batch):
    """Return how often examples of one batch share a batch in the other epoch, relative to chance."""
    first, second = (position // batch for position in positions)
    together = first[:, None] == first
    np.fill_diagonal(together, False)
    return (second[:, None] == second)[together].mean() / ((batch - 1) / (len(first) - 1))


@pytest.mark.parametrize("at_once", [1, 3, 8, 20])
def test_each_example_is_read_once_with_its_index(at_once):
    examples = list(sharded_order(LENGTHS, read, at_once, buffer_size=16)(SEED).as_numpy_iterator())
    firsts = np.cumsum([0, *LENGTHS[:-1]])
    assert sorted(index for index, _ in examples) == list(range(sum(LENGTHS)))
    assert all(index == firsts[shard] + position for index, (shard, position) in examples)


def test_order_is_function_of_seed():
    order = sharded_order(LENGTHS, read, 3, buffer_size=16)
    first = indices_of(order, SEED)
    assert indices_of(order, SEED) == first
    assert indices_of(order, tf.constant([1, 8], tf.int64)) != first
    assert indices_of(order, tf.constant([2, 7], tf.int64)) != first


def test_images_meet_others_in_each_epoch():
    """64 shards of 50, a buffer of 160: in one order, images share a batch again five times as often as by chance."""
    lengths = [50] * 64
    fixed = tf.data.Dataset.range(64).interleave(
        lambda shard: tf.data.Dataset.range(50 * shard, 50 * shard + 50), cycle_length=8
    )
    before = buffered_order(fixed, 160)
    in_fixed_order = [np.argsort(indices_of(before, tf.constant([1, epoch], tf.int64))) for epoch in (0, 1)]
    assert shared_again(in_fixed_order, 10) > 4
    assert shared_again(epochs(lengths, 16, 160), 10) < 1.6


# --- datasets ---


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A TFDS dataset of 60 grey PNG files of two sizes in 6 shards of 10; the label is the image's number."""
    folder = tmp_path_factory.mktemp("sharded")
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=60)}
    )
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    for shard in range(6):
        with tf.io.TFRecordWriter(str(folder / f"grey-train.tfrecord-{shard:05d}-of-00006")) as writer:
            for number in range(10 * shard, 10 * shard + 10):
                image = np.full((40 + number % 2, 40, 3), 4 * number, np.uint8)
                writer.write(features.serialize_example({"image": image, "label": number}))
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[10] * 6,
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="grey", filetype_suffix="tfrecord", template=template
        ),
    )
    tfds.folder_dataset.write_metadata(data_dir=str(folder), features=features, split_infos=[split])
    return tfds.builder_from_directory(str(folder))


@pytest.mark.parametrize("split", ["train", "train[:13]+train[25:]"])
def test_files_of_tfds_are_shuffled(sharded, monkeypatch, split):
    """The index of an image, by which it is augmented, is its position in the files."""
    monkeypatch.setattr(readers, "SHUFFLE_BUFFER", 4)
    reader = TfdsReader(sharded)
    order = reader.order(split)
    expected = sorted(int(label) for _, label in reader.read(split).as_numpy_iterator())
    epochs = [
        [(int(index), int(label)) for index, (_, label) in order(tf.constant([1, epoch], tf.int64)).as_numpy_iterator()]
        for epoch in (0, 1)
    ]
    assert epochs[0] != epochs[1]
    assert [sorted(epoch) for epoch in epochs] == [list(enumerate(expected))] * 2


def test_small_datasets_of_tfds_keep_their_order(sharded):
    """A dataset that fits into the buffer is shuffled fully, from the order in which it is read."""
    reader = TfdsReader(sharded)
    tf.random.set_seed(1)
    seed = tf.random.stateless_uniform([], SEED, minval=None, maxval=None, dtype=tf.int64)
    expected = reader.read("train").enumerate().shuffle(8_192, seed=seed, reshuffle_each_iteration=False)
    assert indices_of(reader.order("train"), SEED) == [int(index) for index, _ in expected.as_numpy_iterator()]


def test_folders_are_shuffled_fully_and_small_ones_keep_their_order(tmp_path):
    for name, numbers in (("a", range(20)), ("b", range(20, 40))):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in numbers:
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(b"%d" % number)
    reader = FolderReader.open(tmp_path)
    tf.random.set_seed(1)
    seed = tf.random.stateless_uniform([], SEED, minval=None, maxval=None, dtype=tf.int64)
    pairs = reader.read("train").enumerate().shuffle(8_192, seed=seed, reshuffle_each_iteration=False)
    found = reader.order("train")(SEED)
    assert list(found.as_numpy_iterator()) == list(pairs.as_numpy_iterator())
