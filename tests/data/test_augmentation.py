import colorsys

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.data import augmentation
from bnn_keras.data.augmentation import (
    area_box,
    augment,
    check_augmentation,
    colour_factors,
    cropped,
    drawn_areas,
    lit,
    random_corner,
    recoloured,
)
from bnn_keras.data.pictures import picture_of
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.experiment.schema import AugmentationConfig


@pytest.fixture
def augmenting():
    """A network's experiment with this augmentation alone."""

    def made(network="lenet5", **keys):
        experiment = resolve(network).experiment
        data = {
            "augmentation": AugmentationConfig(**keys),
            "resize": None,
            "keep_aspect": True,
            "interpolation": "bilinear",
        }
        return experiment.model_copy(update={"data": experiment.data.model_copy(update=data)})

    return made


def place(index, epoch=0):
    return tf.constant([epoch, index], tf.int64)


def photograph(height=32, width=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def outcomes(image, experiment, number):
    return [augment(tf.constant(image), experiment, place(index)).numpy() for index in range(number)]


# --- moves and mirrors ---


def test_pad_moves_by_up_to_so_many_pixels(augmenting):
    image = np.zeros((28, 28, 1), np.uint8)
    image[14, 14] = 255
    places = set()
    for moved in outcomes(image, augmenting(pad=2), 300):
        assert moved.shape == image.shape
        ((row, column, _),) = np.argwhere(moved == 255)
        places.add((row - 14, column - 14))
    assert places == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


@pytest.mark.parametrize(("padding", "found"), [("zero", {0, 255}), ("reflect", {255})])
def test_padding_is_black_or_reflected(augmenting, padding, found):
    image = np.full((28, 28, 1), 255, np.uint8)
    moved = outcomes(image, augmenting(pad=2, padding=padding), 20)
    assert {int(part) for one in moved for part in np.unique(one)} == found


@pytest.mark.parametrize(("padding", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_moved_images_are_cut_out_of_the_padded_one(augmenting, padding, mode):
    image = photograph(28, 28, 1)
    padded = np.pad(image, [(3, 3), (3, 3), (0, 0)], mode=mode)
    windows = {padded[y : y + 28, x : x + 28].tobytes() for y in range(7) for x in range(7)}
    assert {moved.tobytes() for moved in outcomes(image, augmenting(pad=3, padding=padding), 50)} <= windows


def test_flip_mirrors_every_other_image(augmenting):
    image = photograph(28, 28, 1)
    mirrored = [np.array_equal(one, image[:, ::-1]) for one in outcomes(image, augmenting(flip=True), 400)]
    same = [np.array_equal(one, image) for one in outcomes(image, augmenting(flip=True), 400)]
    assert np.array_equal(mirrored, np.logical_not(same))
    assert abs(np.mean(mirrored) - 0.5) < 0.08  # three deviations of 400 throws


def test_an_example_is_mirrored_anew_in_each_epoch(augmenting):
    """Over 64 examples each pair of epochs agrees on about half: 16 is four deviations."""
    image, experiment = photograph(28, 28, 1), augmenting(flip=True)
    throws = np.array(
        [
            [np.array_equal(augment(tf.constant(image), experiment, place(index, epoch)), image) for index in range(64)]
            for epoch in range(4)
        ]
    )
    for one in range(4):
        for other in range(one):
            assert abs(np.sum(throws[one] == throws[other]) - 32) < 16


# --- colours ---


def grey_of(image):
    return image @ np.array([0.2989, 0.587, 0.114])


def blend(image, other, factor):
    return np.clip(factor * image + (1 - factor) * other, 0, 255)


def turned_hue(image, factor):
    """torchvision's adjust_hue, pixel by pixel with Python's own colour wheel."""

    def turn(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return [255 * part for part in colorsys.hsv_to_rgb((hue + factor) % 1, saturation, value)]

    return np.apply_along_axis(turn, -1, image)


REFERENCE = {
    "brightness": lambda image, factor: blend(image, 0, factor),
    "contrast": lambda image, factor: blend(image, grey_of(image).mean(), factor),
    "saturation": lambda image, factor: blend(image, grey_of(image)[..., None], factor),
    "hue": turned_hue,
}


@pytest.mark.parametrize(
    ("name", "factor"),
    [(name, factor) for name in REFERENCE for factor in ((0.4, 1.7) if name != "hue" else (-0.3, 0.2))],
)
def test_each_colour_change_equals_the_formula(name, factor):
    image = photograph().astype(np.float32)
    changed = recoloured(tf.constant(image), [name], tf.constant([factor]), tf.constant([0])).numpy()
    np.testing.assert_allclose(changed, REFERENCE[name](image, factor), atol=2e-2)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_colour_changes_follow_one_another_in_the_order_drawn(order):
    image = photograph(16, 16).astype(np.float32)
    names, factors = list(REFERENCE), [1.3, 0.6, 1.8, 0.1]
    expected = image
    for turn in order:
        expected = REFERENCE[names[turn]](expected, factors[turn])
    changed = recoloured(tf.constant(image), names, tf.constant(factors), tf.constant(order)).numpy()
    np.testing.assert_allclose(changed, expected, atol=5e-2)


def test_grey_images_have_contrast_and_no_colours():
    image = photograph(16, 16, 1).astype(np.float32)
    changed = recoloured(tf.constant(image), list(REFERENCE), tf.constant([1.0, 0.5, 2.0, 0.3]), tf.range(4)).numpy()
    np.testing.assert_allclose(changed, blend(image, image.mean(), 0.5), atol=1e-2)


def test_factors_are_within_torchvisions_bounds():
    amounts = {"brightness": 0.4, "contrast": 1.5, "hue": 0.1}
    drawn = np.array([colour_factors(amounts, place(index)) for index in range(200)])
    low, high = np.array([0.6, 0.0, -0.1]), np.array([1.4, 2.5, 0.1])
    assert np.all((drawn >= low) & (drawn <= high))
    assert np.all(np.ptp(drawn, 0) > 0.9 * (high - low))


def test_all_orders_of_colour_changes_come_up(augmenting, monkeypatch):
    seen = set()
    monkeypatch.setattr(
        augmentation, "recoloured", lambda image, names, factors, order: seen.add(tuple(order.numpy())) or image
    )
    outcomes(photograph(28, 28, 1), augmenting(brightness=0.4, contrast=0.4, saturation=0.4), 60)
    assert len(seen) == 6


def test_lighting_equals_the_formula(augmenting):
    image = photograph().astype(np.float32)
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    alphas = np.array([0.1, -0.2, 0.05])
    expected = image / 255 + vectors @ (alphas * values)
    np.testing.assert_allclose(lit(tf.constant(image), tf.constant(alphas, tf.float32)) / 255, expected, atol=1e-6)

    experiment = augmenting("resnet18", lighting=0.1)
    shifts = np.array([(one - image)[0, 0] / 255 for one in outcomes(image, experiment, 400)])
    along = shifts @ np.linalg.inv(vectors).T / values
    np.testing.assert_allclose(along.std(0), 0.1, rtol=0.15)


# --- crops of images of any size ---


def test_random_corners_are_all_equally_likely():
    drawn = np.array([random_corner(tf.constant([2, 0]), place(index)).numpy() for index in range(600)])
    assert set(drawn[:, 1]) == {0}
    assert np.abs(np.bincount(drawn[:, 0]) - 200).max() < 45


def torchvision_box(sides, areas, aspects, bounds):
    """Size of RandomResizedCrop.get_params, given its draws, and its corner where none of them fits."""
    height, width = sides
    for area, aspect in zip(areas, aspects, strict=True):
        target = area * height * width
        w, h = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return (h, w), None
    ratio = width / height
    if ratio < min(bounds):
        w, h = width, round(width / min(bounds))
    elif ratio > max(bounds):
        h, w = height, round(height * max(bounds))
    else:
        w, h = width, height
    return (h, w), ((height - h) // 2, (width - w) // 2)


@pytest.mark.parametrize("sides", [(375, 500), (500, 333), (40, 900), (900, 40), (20, 20)])
def test_boxes_are_torchvisions(sides):
    settings = AugmentationConfig(area=[0.3, 1.0])
    fallbacks = 0
    for index in range(60):
        areas, aspects = (np.array(drawn, np.float64) for drawn in drawn_areas(settings, place(index)))
        box = area_box(
            tf.constant(sides),
            tf.constant(areas, tf.float32),
            tf.constant(aspects, tf.float32),
            settings.aspect,
            place(1),
        ).numpy()
        size, corner = torchvision_box(sides, areas, aspects, settings.aspect)
        assert tuple(box[2:]) == size
        assert np.all(box[:2] >= 0)
        assert np.all(box[:2] + box[2:] <= sides)
        if corner:
            fallbacks += 1
            assert tuple(box[:2]) == corner
    assert fallbacks == 60 or max(sides) < 900


def test_drawn_areas_and_aspects_are_within_bounds():
    settings = AugmentationConfig(area=[0.25, 0.5], aspect=[0.5, 4.0])
    areas, aspects = np.concatenate([drawn_areas(settings, place(index)) for index in range(100)], 1)
    assert (areas.min() >= 0.25) & (areas.max() <= 0.5)
    assert (aspects.min() >= 0.5) & (aspects.max() <= 4.0)
    assert abs(np.mean(np.log(aspects) < np.log(2**0.5)) - 0.5) < 0.05  # uniform in the logarithm


def test_random_area_is_the_box_resized(augmenting, monkeypatch):
    experiment = augmenting("resnet18", crop="random_area")
    image = photograph(300, 400)
    monkeypatch.setattr(augmentation, "area_box", lambda *args: tf.constant([11, 23, 150, 250]))
    expected = tf.image.resize(image[11:161, 23:273], (224, 224), antialias=True)
    found = cropped(picture_of(tf.constant(image), 3), experiment, place(0))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_random_crop_is_a_window_of_the_resized_image(augmenting, monkeypatch):
    experiment = augmenting("resnet18", crop="random")
    image = photograph(300, 400)
    monkeypatch.setattr(augmentation, "random_corner", lambda room, place: room - [1, 2])
    whole = tf.image.resize(image, (256, 341), antialias=True).numpy()
    found = cropped(picture_of(tf.constant(image), 3), experiment, place(0))
    np.testing.assert_allclose(found, whole[31 : 31 + 224, 115 : 115 + 224], atol=2e-2)


EVERYTHING = {
    "crop": "random_area",
    "pad": 4,
    "padding": "reflect",
    "flip": True,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "lighting": 0.1,
}


def test_the_same_place_gives_the_same_image_and_another_one_another(augmenting):
    experiment = augmenting("resnet18", **EVERYTHING)
    image = tf.constant(photograph(300, 400))

    def outcome(place):
        return augment(cropped(picture_of(image, 3), experiment, place), experiment, place).numpy().tobytes()

    assert outcome(place(3, 1)) == outcome(place(3, 1))
    assert len({outcome(place(index, epoch)) for index in range(3) for epoch in range(3)}) == 9


# --- what does not fit ---


@pytest.mark.parametrize(
    ("network", "keys", "message"),
    [
        (
            "lenet5",
            {"lighting": 0.1},
            r"data.augmentation.lighting needs images with 3 channels, those of 'mnist_5k' have 1",
        ),
        ("lenet5", {"pad": 28, "padding": "reflect"}, r"pad = 28 reflects more than images of 28 × 28 .* less than 28"),
    ],
)
def test_what_images_do_not_allow_is_refused(augmenting, network, keys, message):
    with pytest.raises(BnnError, match=message):
        check_augmentation(augmenting(network, **keys))


def test_hue_of_four_channels_is_refused(augmenting):
    experiment = augmenting("resnet18", hue=0.1)
    data = experiment.data.model_copy(update={"name": "other", "shape": [64, 64, 4], "classes": 10})
    with pytest.raises(BnnError, match=r"data.augmentation.hue needs images with 3 channels, those of 'other' have 4"):
        check_augmentation(experiment.model_copy(update={"data": data}))
