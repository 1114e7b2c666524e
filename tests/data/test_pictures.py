import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.data import fit
from bnn_keras.data.pictures import enlarged, part_of_resized, picture_of
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve


@pytest.fixture
def imagenet():
    """resnet18's recipe for ImageNet with other keys of `data`."""

    def made(**data):
        experiment = resolve("resnet18").experiment
        plain = {"resize": None, "keep_aspect": True, "interpolation": "bilinear", "augmentation": None}
        return experiment.model_copy(update={"data": experiment.data.model_copy(update={**plain, **data})})

    return made


def photograph(height, width, channels=3, seed=0):
    """Blurred noise: like a photograph, a JPEG has it nearly as it is."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 8, width // 8, channels))
    return np.clip(tf.image.resize(noise, (height, width)), 0, 255).astype(np.uint8)


FILES = {
    "jpeg": lambda: tf.io.encode_jpeg(photograph(300, 410), quality=90),
    "grey jpeg": lambda: tf.io.encode_jpeg(photograph(300, 410, 1), quality=90),
    "png": lambda: tf.io.encode_png(photograph(300, 410)),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("box", [(0, 0, 300, 410), (37, 101, 93, 211), (299, 409, 1, 1)])
def test_a_box_of_a_file_is_that_of_the_whole_image(kind, box):
    data = FILES[kind]()
    top, left, height, width = box
    whole = tf.io.decode_image(data, channels=3).numpy()
    picture = picture_of(data, 3)
    assert picture.sides.numpy().tolist() == [300, 410]
    assert np.array_equal(picture.cut(tf.constant(box)), whole[top : top + height, left : left + width])


@pytest.mark.parametrize(
    ("data", "sides", "expected"),
    [
        ({}, (300, 400), (256, 341)),
        ({}, (90, 60), (384, 256)),
        ({"resize": 300}, (300, 400), (300, 400)),
        ({"resize": 240}, (500, 333), (360, 240)),
        ({"keep_aspect": False}, (300, 400), (256, 256)),
        ({"resize": 240, "keep_aspect": False}, (300, 400), (240, 240)),
    ],
)
def test_sides_after_resizing(imagenet, data, sides, expected):
    assert tuple(enlarged(tf.constant(sides), imagenet(**data)).numpy()) == expected


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(300, 410), (120, 96), (1000, 700)])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_a_part_is_that_of_the_whole_resized_image(imagenet, interpolation, sides, keep_aspect):
    """The reference resizes everything and cuts then."""
    experiment = imagenet(interpolation=interpolation, keep_aspect=keep_aspect)
    image = photograph(*sides)
    whole = tf.image.resize(image, enlarged(tf.constant(sides), experiment), interpolation, antialias=True).numpy()
    for corner in ((0, 0), (13, 29), (32, 32)):
        part = part_of_resized(picture_of(tf.constant(image), 3), experiment, lambda room, at=corner: tf.constant(at))
        expected = whole[corner[0] : corner[0] + 224, corner[1] : corner[1] + 224]
        np.testing.assert_allclose(part.numpy(), np.clip(expected, 0, 255), atol=2e-2)


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_is_cut_out_of_the_shorter_side(imagenet, turned):
    """512 × 1024 becomes 256 × 512, of which the middle 224 × 224 are left."""
    columns = np.broadcast_to(np.arange(1024)[None, :, None] // 4, (512, 1024, 3)).astype(np.uint8)
    image = columns.transpose(1, 0, 2) if turned else columns
    fitted = fit(tf.constant(image), imagenet()).numpy()
    fitted = fitted.transpose(1, 0, 2) if turned else fitted
    expected = (2 * (np.arange(224) + (512 - 224) // 2) + 0.5) / 4
    assert fitted.shape == (224, 224, 3)
    assert np.abs(fitted[100, :, 0] - expected).max() <= 1


def test_without_keep_aspect_both_sides_are_squeezed(imagenet):
    """512 × 1024 becomes 256 × 256: 4 columns are one."""
    columns = np.broadcast_to(np.arange(1024)[None, :, None] // 4, (512, 1024, 3)).astype(np.uint8)
    fitted = fit(tf.constant(columns), imagenet(resize=256, keep_aspect=False)).numpy()
    assert np.abs(fitted[100, :, 0].astype(int) - (np.arange(224) + 16)).max() <= 1


def test_images_of_a_set_with_one_size_are_resized_as_a_whole():
    image = np.zeros((56, 14, 1), np.uint8)
    image[:28] = 200
    fitted = fit(tf.constant(image), resolve("lenet5").experiment).numpy()
    assert fitted.shape == (28, 28, 1)
    assert fitted[:13].min() == 200
    assert fitted[15:].max() == 0


def test_an_image_of_the_networks_size_stays_as_it_is(imagenet):
    image = tf.constant(photograph(224, 224))
    assert fit(image, imagenet()) is image


def test_resize_below_the_networks_size_is_refused(imagenet):
    message = r"data.resize = 200 is less than the network's 224 × 224 pixels, .*; expected 224 or more"
    with pytest.raises(BnnError, match=message):
        fit(tf.constant(photograph(300, 400)), imagenet(resize=200))
