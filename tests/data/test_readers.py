"""Datasets outside the catalog (generated, a folder of images, any of TFDS), and ImageNet from its archives."""

import dataclasses
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from bnn_keras import catalog
from bnn_keras.data import (
    describe,
    evaluation_batches,
    open_data,
    open_dataset,
    open_test_data,
    preparing,
    readers,
    record_of,
    training_batches,
)
from bnn_keras.data.image_folder import FolderReader
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation


def epoch_of(dataset, experiment, batch_size):
    stage = experiment.stages[0].model_copy(update={"batch_size": batch_size, "drop_last": False})
    return list(training_batches(dataset, experiment, stage, 0, 1))


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


# --- generated ---


def test_fake_images_have_shape_and_classes_of_replaced_dataset():
    experiment = resolve("lenet5", dataset="fake").experiment
    dataset = open_data(experiment)
    assert (dataset.info.input_shape, dataset.info.classes, dataset.encoded) == ((28, 28, 1), 10, False)
    size = experiment.stages[0].batch_size
    assert [dataset.examples(split) for split in (dataset.info.train, dataset.info.test)] == [2 * size] * 2
    assert len(dataset.labels) == 10
    batches = epoch_of(dataset, experiment, size)
    assert [batch.shape for batch, _ in batches] == [(size, 28, 28, 1)] * 2
    assert len(np.unique(np.concatenate([labels for _, labels in batches]))) == 10


def test_fake_images_are_function_of_seed_split_and_index():
    def pixels(split, **options):
        dataset = open_data(resolve("nin", dataset="fake", overrides=["data.examples=3"], **options).experiment)
        return [(image.tobytes(), int(label)) for image, label in dataset.pairs(split).as_numpy_iterator()]

    assert pixels("train") == pixels("train")
    assert len({*pixels("train"), *pixels("test"), *pixels("train", seed=5)}) == 9


def test_fake_images_are_jpeg_files_if_replaced_ones_differ_in_size():
    experiment = resolve("resnet18", dataset="fake", overrides=["data.examples=3"]).experiment
    dataset = open_data(experiment)
    assert dataset.encoded
    files = [data for data, _ in dataset.pairs(dataset.info.train)]
    assert all(tf.io.is_jpeg(data) for data in files)
    assert {tuple(tf.io.decode_jpeg(data).shape) for data in files} == {(375, 500, 3)}
    ((batch, _),) = evaluation_batches(dataset, experiment)
    assert batch.shape == (3, 224, 224, 3)


def test_fake_images_repeat_after_distinct_ones(monkeypatch):
    monkeypatch.setattr(readers, "DISTINCT_FAKE_IMAGES", 4)
    dataset = open_data(resolve("nin", dataset="fake", overrides=["data.examples=10"]).experiment)
    images = [image.tobytes() for image, _ in dataset.pairs("train").as_numpy_iterator()]
    assert len(images) == 10
    assert len(set(images)) == 4
    assert images[:4] == images[4:8]


def test_fake_needs_an_experiment():
    with pytest.raises(
        BnnError, match=r"dataset 'fake' needs an experiment, which sets image shape and classes; set data.name=fake"
    ):
        open_dataset("fake")


# --- a folder of images ---


@pytest.fixture
def folder(tmp_path):
    """Two classes, four and two images each, of several sizes, JPEG and PNG."""
    for split, number in (("train", 4), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(number):
                file, encode = (("jpg", tf.io.encode_jpeg), ("PNG", tf.io.encode_png))[index % 2]
                image = np.full((240 + 40 * index, 300, 3), 100 * label + 10 * index, np.uint8)
                (tmp_path / split / name / f"{index}.{file}").write_bytes(encode(image).numpy())
    return tmp_path


def test_describe_folder(folder):
    row = describe("image_folder", DataLocation(str(folder)))
    assert (row.input_shape, row.classes) == ((None, None, 3), 2)
    assert (row.train, row.test, row.train_examples, row.test_examples) == ("train", "val", 8, 4)


def test_folder_is_read_in_the_order_of_tfds(folder):
    """Runs of earlier versions, which read folders with TFDS, continue with the same batches."""
    reader, reference = FolderReader.open(folder), tfds.ImageFolder(str(folder))
    for split in ("train", "val"):
        pairs = [(image.numpy(), int(label)) for image, label in reader.read(split)]
        decoders = {"image": tfds.decode.SkipDecoding()}
        examples = reference.as_dataset(split, shuffle_files=False, decoders=decoders)
        assert pairs == [(example["image"].numpy(), int(example["label"])) for example in examples]


def test_hidden_files_and_folders_are_skipped(folder):
    for hidden in ("train/.ipynb_checkpoints", "train/cat/.thumbnails"):
        (folder / hidden).mkdir()
    for hidden in ("train/.ipynb_checkpoints/1.jpg", "train/cat/._0.jpg", "train/.DS_Store", "val/dog/.1.PNG"):
        (folder / hidden).write_text("hidden")
    reader = FolderReader.open(folder)
    assert (reader.labels, reader.splits) == (["cat", "dog"], {"train": 8, "val": 4})
    assert list(reader.damaged()) == []


OTHER_FORMATS = {
    "RGB.webp": ({"lossless": True}, (64, 128, 192)),
    "RGB.tif": ({}, (64, 128, 192)),
    "RGB.tiff": ({"compression": "tiff_lzw"}, (64, 128, 192)),
    "L.TIFF": ({}, 77),
    "RGB.bmp": ({}, (64, 128, 192)),
    "L.bmp": ({}, 77),
    "RGBA.bmp": ({}, (64, 128, 192, 255)),
    "RGB.gif": ({}, (64, 128, 192)),
    "RGBA.webp": ({"lossless": True, "exact": True}, (64, 128, 192, 0)),
    "CMYK.tif": ({}, (0, 0, 0, 55)),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_read(folder, name):
    options, colour = OTHER_FORMATS[name]
    image = Image.new(name.split(".")[0], (300, 240), colour)
    image.save(folder / "train" / "cat" / name, **options)
    reader = FolderReader.open(folder)
    assert list(reader.damaged()) == []
    assert reader.count("train") == 9
    images = [tf.io.decode_image(data, channels=3, expand_animations=False).numpy() for data, _ in reader.read("train")]
    expected = np.asarray(image.convert("RGB"))
    assert any(np.array_equal(image, expected) for image in images)


def test_images_that_pillow_cannot_decode_are_one_clear_error(folder):
    Image.new("I;16", (9, 9)).save(folder / "train" / "cat" / "16.tif")
    (folder / "train" / "dog" / "broken.webp").write_bytes(b"RIFF")
    (folder / "train" / "dog" / "page.tif").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    reader = FolderReader.open(folder)
    damaged = {file.name: reason for file, reason in reader.damaged()}
    assert list(damaged) == ["16.tif", "broken.webp", "page.tif"]
    assert damaged["16.tif"] == "its pixels are of mode I;16; expected 8 bits per channel"
    message = r"cannot decode an image of dataset 'image_folder' \(cannot read image '.*/[^/]+/[^/]+'[^{}\[\]]*\); "
    with pytest.raises(BnnError, match=message), readers.decoding("image_folder"):
        list(reader.read("train"))


def test_folders_that_are_not_read_are_named(folder):
    for name in ("training", "extra", ".hidden"):
        (folder / name).mkdir()
    message = (
        r"'.*' has the folders extra, training, which are not read; splits are named train, test, validation, val$"
    )
    with pytest.warns(UserWarning, match=message):
        FolderReader.open(folder)


def test_damaged_images_are_named(folder):
    (folder / "train" / "dog" / "1.PNG").write_bytes(b"no image")
    whole = (folder / "val" / "cat" / "0.jpg").read_bytes()
    (folder / "val" / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    damaged = dict(FolderReader.open(folder).damaged())
    assert list(damaged) == [folder / "train" / "dog" / "1.PNG", folder / "val" / "cat" / "0.jpg"]
    assert all(damaged.values())


@pytest.fixture
def damaged_folder(folder):
    """Two damaged training images and one damaged test image."""
    for name in ("train/cat/0.jpg", "train/dog/1.PNG", "val/dog/0.jpg"):
        (folder / name).write_text("no image")
    return folder


def tolerating(number, folder):
    row = describe("image_folder", DataLocation(str(folder)))
    return resolve("resnet18", dataset=row, overrides=[f"data.max_damaged={number}"]).experiment


def test_damaged_images_are_left_out(damaged_folder):
    experiment = tolerating(2, damaged_folder)
    dataset = open_data(experiment, DataLocation(str(damaged_folder)))
    with pytest.warns(
        UserWarning, match=r"'.*/train/(cat/0.jpg|dog/1.PNG)' is left out: it cannot be decoded"
    ) as train:
        assert dataset.examples("train") == 6
    with pytest.warns(UserWarning, match=r"'.*/val/dog/0.jpg' is left out: it cannot be decoded") as test:
        assert dataset.examples("val") == 3
    assert (len(train), len(test)) == (2, 1)
    assert np.bincount(np.concatenate([labels for _, labels in epoch_of(dataset, experiment, 3)])).tolist() == [3, 3]
    ((_, labels),) = evaluation_batches(dataset, experiment)
    assert sorted(labels.numpy().tolist()) == [0, 0, 1]
    record = record_of(dataset)
    assert (record["train_examples"], record["test_examples"]) == (6, 3)
    assert record["damaged"] == ["train/cat/0.jpg", "train/dog/1.PNG", "val/dog/0.jpg"]
    for name in record["damaged"]:
        (damaged_folder / name).unlink()
    assert record["digests"] == record_of(open_dataset("image_folder", DataLocation(str(damaged_folder))))["digests"]


def test_evaluation_decodes_the_test_images_only(damaged_folder):
    experiment = tolerating(1, damaged_folder)
    dataset = open_test_data(experiment, "image_folder", DataLocation(str(damaged_folder)))
    with pytest.warns(UserWarning, match=r"val/dog/0.jpg' is left out"):
        ((_, labels),) = evaluation_batches(dataset, experiment)
    assert len(labels) == 3


def test_too_many_damaged_images(damaged_folder):
    dataset = open_data(tolerating(1, damaged_folder), DataLocation(str(damaged_folder)))
    message = (
        r"2 images of 'train' in '.*' are damaged, such as '.*/train/cat/0.jpg' \(.+\); data.max_damaged is 1; list"
    )
    with pytest.raises(BnnError, match=message):
        dataset.examples("train")


def test_only_image_folders_have_a_limit_of_damaged_images(folder):
    with pytest.raises(BnnError, match=r"max_damaged.*only dataset 'image_folder' has this key; leave it out"):
        resolve("lenet5", overrides=["data.max_damaged=1"])
    file = folder / "experiment.toml"
    file.write_text(tolerating(1, folder).to_toml(named=False))
    assert resolve("resnet18", experiment=str(file), dataset="cifar10").experiment.data.max_damaged is None


def test_folder_trains_and_evaluates(folder):
    row = describe("image_folder", DataLocation(str(folder)))
    experiment = resolve("resnet18", dataset=row).experiment
    dataset = open_data(experiment, DataLocation(str(folder)))
    assert dataset.labels == ["cat", "dog"]
    assert dataset.version == "1.0.0"
    labels = np.concatenate([labels for _, labels in epoch_of(dataset, experiment, 3)])
    assert np.bincount(labels).tolist() == [4, 4]
    ((batch, labels),) = evaluation_batches(dataset, experiment)
    assert batch.shape == (4, 224, 224, 3)
    shade = np.round(255 * (batch.numpy() * experiment.data.std + experiment.data.mean)).mean((1, 2, 3))
    assert sorted(zip(labels.numpy().tolist(), np.round(shade), strict=True)) == [(0, 0), (0, 10), (1, 100), (1, 110)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            None,
            r"dataset 'image_folder' needs a folder of images; set --data-dir DIR; expected images DIR/train/",
        ),
        ("train", r"'.*' has no folder 'train'; expected images DIR/train/<class>/\*.jpg"),
        ("train/*", r"'.*' has no images in 'train'; expected"),
        ("train/*/*", r"'.*' has no images in the class folder\(s\) train/cat, train/dog; expected files named \*.jpg"),
        ("val/dog/*", r"'.*' has no images in the class folder\(s\) val/dog; expected files named \*.jpg"),
        (
            "train/dog",
            r"has the class folders dog in a test split, but not in 'train'; add them to 'train'",
        ),
        ("val", r"'image_folder' has images in the splits train; expected train and test or validation or val"),
    ],
)
def test_errors_of_folders(folder, change, message):
    for path in folder.glob(change) if change else ():
        path.rename(folder.with_name(f"{folder.name}-{path.parent.name}-{path.name}"))
    with pytest.raises(BnnError, match=message):
        open_dataset("image_folder", DataLocation(str(folder) if change else None))


def test_folder_with_other_classes_than_experiment(folder):
    experiment = resolve("resnet18", dataset=catalog.DatasetRow.other("image_folder", (None, None, 3), 5)).experiment
    message = r"dataset 'image_folder' has images any × any × 3 in 2 classes; the experiment expects any × any × 3 in 5"
    with pytest.raises(BnnError, match=message):
        open_data(experiment, DataLocation(str(folder)))


# --- other datasets of TFDS ---


class TinySquares(tfds.core.GeneratorBasedBuilder):
    """60 images of one grey value each, in one split, with feature names other than "image" and "label"."""

    VERSION = tfds.core.Version("2.1.0")
    code_path = None  # TFDS looks for it in an installed package

    def _info(self):
        features = {
            "photo": tfds.features.Image(shape=(8, 8, 3)),
            "kind": tfds.features.ClassLabel(names=["dark", "light"]),
            "note": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("photo", "kind")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(60):
            yield index, {"photo": np.full((8, 8, 3), 4 * index, np.uint8), "kind": index // 30, "note": "a square"}


class TinyContest(TinySquares):
    """Labels of the split "test" are secret."""

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test", "validation")}

    def _generate_examples(self, split):
        for index, example in super()._generate_examples():
            yield index, {**example, "kind": -1 if split == "test" else example["kind"]}


class TinyNumbers(tfds.core.GeneratorBasedBuilder):
    """A dataset without images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "label": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {}

    def _generate_examples(self):
        return iter(())


def test_describe_does_not_prepare(tmp_path):
    row = describe("tiny_squares", DataLocation(str(tmp_path)))
    expected = catalog.DatasetRow("tiny_squares", "", (8, 8, 3), 2, "train", "test", 0, 0, validation=0.1)
    assert row == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("max_cached_bytes", [2**31, 0])
def test_other_dataset_trains_and_evaluates(tmp_path, max_cached_bytes, monkeypatch):
    """Images are held in memory or decoded as they are read. The only split is divided for training and testing."""
    monkeypatch.setattr(readers, "MAX_CACHED_BYTES", max_cached_bytes)
    experiment = resolve("nin", dataset=describe("tiny_squares", DataLocation(str(tmp_path)))).experiment
    assert experiment.input_shape == (8, 8, 3)
    dataset = open_data(experiment, DataLocation(str(tmp_path)))
    assert (dataset.encoded, dataset.version, dataset.labels) == (max_cached_bytes == 0, "2.1.0", ["dark", "light"])
    assert (dataset.examples(dataset.info.train), dataset.examples(dataset.info.test)) == (54, 6)
    assert describe("tiny_squares", DataLocation(str(tmp_path))) == dataclasses.replace(
        dataset.info, train_examples=54, test_examples=6
    )
    batches = [*epoch_of(dataset, experiment, 20), *evaluation_batches(dataset, experiment)]
    assert [len(labels) for _, labels in batches] == [20, 20, 14, 6]
    shades = [
        round(255 * float(image[4, 4, 0] * experiment.data.std[0] + experiment.data.mean[0]))
        for batch, _ in batches
        for image in batch
    ]
    assert sorted(shades) == [4 * index for index in range(60)]
    assert np.concatenate([labels for _, labels in batches]).tolist() == [int(shade >= 120) for shade in shades]


def test_test_split_without_labels_is_not_used(tmp_path):
    assert open_dataset("tiny_contest", DataLocation(str(tmp_path))).info.test == "validation"
    assert describe("tiny_contest", DataLocation(str(tmp_path))).test == "validation"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", r"unknown dataset 'cifar11'; did you mean 'cifar10'\? known: mnist_5k, .*, fake, and every image"),
        ("tiny_square", r"unknown dataset 'tiny_square'; did you mean 'tiny_squares'\?"),
        (
            "tiny_numbers",
            r"dataset 'tiny_numbers' has the features image, label; expected 8-bit images with one class",
        ),
        ("imdb_reviews", r"dataset 'imdb_reviews' has .*; choose a dataset for image classification"),
        (
            "cifar10/grey",
            r"TFDS cannot open dataset 'cifar10/grey' \(.*grey not found.*\); expected NAME or NAME/CONFIG",
        ),
    ],
)
def test_errors_of_names(tmp_path, name, message):
    with pytest.raises(BnnError, match=message):
        describe(name, DataLocation(str(tmp_path)))


def test_other_dataset_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_reachable", lambda url: False)
    with pytest.raises(
        BnnError, match=r"dataset 'stl10' is not prepared in .* cannot be downloaded .*--manual-dir DIR"
    ):
        open_dataset("stl10", DataLocation(str(tmp_path)))


def test_dataset_that_must_be_downloaded_manually(tmp_path):
    message = r"dataset 'resisc45' is not prepared in .*its files must be downloaded manually.*--manual-dir DIR"
    with pytest.raises(BnnError, match=message):
        open_dataset("resisc45", DataLocation(str(tmp_path)))


# --- ImageNet, from archives in ImageNet's format ---

SYNSETS = ("n01440764", "n01443537", "n02105855")
PNG = "n02105855_2933.JPEG"  # the only PNG file of ImageNet


def jpeg(height, width, channels=3, seed=0):
    return tf.io.encode_jpeg(noise(height, width, channels, seed)).numpy()


def archive(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def archives(tmp_path):
    """Three classes of ImageNet with two training images each, one of them grey, one a PNG; six test images."""
    manual = tmp_path / "manual"
    manual.mkdir()
    images = {
        "n01440764": {"n01440764_10026.JPEG": jpeg(250, 300), "n01440764_10027.JPEG": jpeg(500, 333, seed=1)},
        "n01443537": {"n01443537_2.JPEG": jpeg(375, 500, 1, 2), "n01443537_3.JPEG": jpeg(64, 480, seed=3)},
        "n02105855": {PNG: tf.io.encode_png(noise(300, 400, seed=4)).numpy(), "n02105855_1.JPEG": jpeg(90, 80)},
    }
    for synset, files in images.items():
        archive(tmp_path / f"{synset}.tar", files)
    inner = {f"{synset}.tar": (tmp_path / f"{synset}.tar").read_bytes() for synset in SYNSETS}
    archive(manual / "ILSVRC2012_img_train.tar", inner)
    archive(
        manual / "ILSVRC2012_img_val.tar",
        {f"ILSVRC2012_val_{index:08d}.JPEG": jpeg(300 + 20 * index, 400, seed=index) for index in range(1, 7)},
    )
    return manual


@pytest.mark.filterwarnings("ignore:in '.*', ILSVRC2012:UserWarning")
def test_imagenet_from_archives(tmp_path, archives):
    experiment = resolve("resnet18").experiment
    assert experiment.data.name == "imagenet2012"
    dataset = open_data(experiment, DataLocation(str(tmp_path / "data"), str(archives)))
    assert [dataset.examples(split) for split in (dataset.info.train, dataset.info.test)] == [6, 6]
    assert len(dataset.labels) == 1000
    assert dataset.labels[0] == "n01440764"
    batches = epoch_of(dataset, experiment, 4)
    assert [batch.shape for batch, _ in batches] == [(4, 224, 224, 3), (2, 224, 224, 3)]
    names = [dataset.labels[label] for _, labels in batches for label in labels]
    assert sorted(names) == sorted(2 * SYNSETS)
    ((batch, labels),) = evaluation_batches(dataset, experiment)
    assert batch.shape == (6, 224, 224, 3)
    assert np.isfinite(batch).all()
    # TFDS stores the labels of the validation images in alphabetic order of their names.
    known = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()[:6]
    assert sorted(dataset.labels[label] for label in labels) == sorted(known)
    # A prepared dataset needs no archives.
    assert open_dataset("imagenet2012", DataLocation(str(tmp_path / "data"))).examples("train") == 6


def test_imagenet_without_archives(tmp_path):
    with pytest.raises(BnnError) as error:
        open_dataset("imagenet2012", DataLocation(str(tmp_path / "data")))
    message = str(error.value)
    assert (
        "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (from https://image-net.org/download-images" in message
    )
    assert message.endswith("into a folder and set --manual-dir DIR")
    assert not (tmp_path / "data").exists()


def test_imagenet_without_validation_archive(tmp_path, archives):
    (archives / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(
        BnnError, match=r"\(ILSVRC2012_img_val.tar missing in '.*manual'\); put ILSVRC2012_img_train.tar"
    ):
        open_dataset("imagenet2012", DataLocation(str(tmp_path / "data"), str(archives)))
    assert not (tmp_path / "data").exists()
