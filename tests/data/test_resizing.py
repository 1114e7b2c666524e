import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.data import resize_and_crop
from bnn_keras.data.resizing import crop_of_resized, lazy_image, resize_for_evaluation, resized_size
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve


def imagenet(**data):
    """Return ResNet-18's experiment on ImageNet with the given keys of `data`."""
    experiment = resolve("resnet18").experiment
    defaults = {"resize": None, "keep_aspect": True, "interpolation": "bilinear", "augmentation": None}
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={**defaults, **data})})


def photograph(height, width, channels=3, seed=0):
    """Return blurred noise, which JPEG compresses with small errors, like a photograph."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 8, width // 8, channels))
    return np.clip(tf.image.resize(noise, (height, width)), 0, 255).astype(np.uint8)


FILES = {
    "jpeg": lambda: tf.io.encode_jpeg(photograph(300, 410), quality=90),
    "grey jpeg": lambda: tf.io.encode_jpeg(photograph(300, 410, 1), quality=90),
    "png": lambda: tf.io.encode_png(photograph(300, 410)),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("box", [(0, 0, 300, 410), (37, 101, 93, 211), (299, 409, 1, 1)])
def test_box_of_file_equals_box_of_decoded_image(kind, box):
    data = FILES[kind]()
    top, left, height, width = box
    whole = tf.io.decode_image(data, channels=3).numpy()
    image = lazy_image(data, 3)
    assert image.size.numpy().tolist() == [300, 410]
    assert np.array_equal(image.crop(tf.constant(box)), whole[top : top + height, left : left + width])


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        ({}, (300, 400), (256, 341)),
        ({}, (90, 60), (384, 256)),
        ({"resize": 300}, (300, 400), (300, 400)),
        ({"resize": 240}, (500, 333), (360, 240)),
        ({"keep_aspect": False}, (300, 400), (256, 256)),
        ({"resize": 240, "keep_aspect": False}, (300, 400), (240, 240)),
    ],
)
def test_resized_size(data, size, expected):
    assert tuple(resized_size(tf.constant(size), imagenet(**data)).numpy()) == expected


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 410), (120, 96), (1000, 700)])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_crop_of_resized_equals_crop_after_resizing_whole_image(interpolation, size, keep_aspect):
    experiment = imagenet(interpolation=interpolation, keep_aspect=keep_aspect)
    image = photograph(*size)
    whole = tf.image.resize(image, resized_size(tf.constant(size), experiment), interpolation, antialias=True).numpy()
    for corner in ((0, 0), (13, 29), (32, 32)):
        crop = crop_of_resized(
            lazy_image(tf.constant(image), 3), experiment, lambda max_corner, at=corner: tf.constant(at)
        )
        expected = whole[corner[0] : corner[0] + 224, corner[1] : corner[1] + 224]
        np.testing.assert_allclose(crop.numpy(), np.clip(expected, 0, 255), atol=2e-2)


@pytest.mark.parametrize("portrait", [False, True])
def test_centre_is_cropped_after_resizing_shorter_side(portrait):
    """512 × 1024 is resized to 256 × 512, of which the centre of 224 × 224 is cropped."""
    columns = np.broadcast_to(np.arange(1024)[None, :, None] // 4, (512, 1024, 3)).astype(np.uint8)
    image = columns.transpose(1, 0, 2) if portrait else columns
    cropped = resize_and_crop(tf.constant(image), imagenet()).numpy()
    cropped = cropped.transpose(1, 0, 2) if portrait else cropped
    expected = (2 * (np.arange(224) + (512 - 224) // 2) + 0.5) / 4
    assert cropped.shape == (224, 224, 3)
    assert np.abs(cropped[100, :, 0] - expected).max() <= 1


def test_both_sides_are_resized_without_keep_aspect():
    """512 × 1024 is resized to 256 × 256: 4 columns become one."""
    columns = np.broadcast_to(np.arange(1024)[None, :, None] // 4, (512, 1024, 3)).astype(np.uint8)
    cropped = resize_and_crop(tf.constant(columns), imagenet(resize=256, keep_aspect=False)).numpy()
    assert np.abs(cropped[100, :, 0].astype(int) - (np.arange(224) + 16)).max() <= 1


@pytest.mark.parametrize("size", [(56, 14), (57, 15), (140, 28)])
def test_centre_is_resized_to_networks_size_if_dataset_has_one_size(size):
    """The rows below and above a centred square are cropped."""
    height, width = size
    image = np.zeros((height, width, 1), np.uint8)
    image[: height // 2] = 200
    image[: (height - width) // 2 - 1] = 90
    cropped = resize_and_crop(image, resolve("lenet5").experiment).numpy()
    assert cropped.shape == (28, 28, 1)
    assert cropped[2:12].min() == 200
    assert cropped[12:].min() == 0
    assert cropped[16:].max() == 0


def test_image_of_networks_size_is_unchanged():
    image = tf.constant(photograph(224, 224))
    assert resize_and_crop(image, imagenet()) is image


def test_resize_must_not_be_smaller_than_network():
    message = r"data.resize = 200 is smaller than the network's input of 224 × 224 pixels, .*; set it to 224 or more"
    with pytest.raises(BnnError, match=message):
        resize_and_crop(tf.constant(photograph(300, 400)), imagenet(resize=200))


TF1 = {"interpolation": "tf1_bicubic", "crop_first": True, "resize": 256}


@pytest.mark.parametrize("size", [(300, 410), (410, 301), (224, 224)])
def test_crop_first_and_tf1_bicubic_equal_the_reference(size):
    """The evaluation of rethinking-bnn-optimization, written from its formulas with TensorFlow's own resize."""
    data = tf.io.encode_jpeg(photograph(*size), quality=90)
    side = int(np.float32(0.875) * np.float32(min(size)))
    top, left = ((length - side + 1) // 2 for length in size)
    pixels = tf.io.decode_jpeg(data).numpy()[top : top + side, left : left + side]
    expected = tf.compat.v1.image.resize_bicubic(pixels[None], [224, 224])[0]
    found = resize_for_evaluation(lazy_image(data, 3), imagenet(**TF1))
    assert found.dtype == tf.float32
    assert np.array_equal(found, expected)


def test_tf1_bicubic_is_not_clipped():
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255
    resized = resize_for_evaluation(lazy_image(tf.constant(edge), 3), imagenet(**TF1)).numpy()
    assert resized.min() < 0
    assert resized.max() > 255


def test_tf1_bicubic_crop_of_resized_image_is_part_of_it():
    image = photograph(300, 410)
    expected = tf.compat.v1.image.resize_bicubic(image[None], [256, 350])[0, 5:229, 7:231]
    found = crop_of_resized(
        lazy_image(tf.constant(image), 3), imagenet(**TF1, augmentation=None), lambda _: tf.constant([5, 7])
    )
    assert np.array_equal(found, expected)
