import colorsys
import itertools

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras.data import augmentation
from bnn_keras.data.augmentation import (
    Moves,
    add_lighting,
    change_colours,
    check_augmentation,
    colour_amounts,
    crop_for_training,
    distorted_box,
    jitter_colours,
    random_area_box,
    random_corner,
    sample_areas_and_aspects,
    sample_colour_factors,
)
from bnn_keras.data.resizing import lazy_image, resize_for_evaluation
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.experiment.schema import AugmentationConfig


def with_augmentation(network="lenet5", **keys):
    """Return a network's experiment with only the given augmentation."""
    experiment = resolve(network).experiment
    data = {
        "augmentation": AugmentationConfig(**keys),
        "resize": None,
        "keep_aspect": True,
        "interpolation": "bilinear",
    }
    return experiment.model_copy(update={"data": experiment.data.model_copy(update=data)})


def seed_of(index, epoch=0):
    return tf.constant([epoch, index], tf.int64)


def noise(height=32, width=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def augmented(image, experiment, number, epoch=0):
    """Return a copy of the image for each index, as an epoch augments them."""
    keys = experiment.data.augmentation
    moves = Moves.of_epoch(keys, number, seed_of(0, epoch))
    images = moves.apply(tf.range(number), tf.constant(np.stack([image] * number)))
    if keys.lighting or colour_amounts(keys):
        images = [change_colours(image, keys, seed_of(index, epoch)) for index, image in enumerate(images)]
    return [np.array(image) for image in images]


# --- padding and flips ---


def test_pad_shifts_by_all_offsets_up_to_pad():
    image = np.zeros((28, 28, 1), np.uint8)
    image[14, 14] = 255
    offsets = set()
    for shifted in augmented(image, with_augmentation(pad=2), 300):
        assert shifted.shape == image.shape
        ((row, column, _),) = np.argwhere(shifted == 255)
        offsets.add((row - 14, column - 14))
    assert offsets == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


@pytest.mark.parametrize(("padding", "values"), [("zero", {0, 255}), ("reflect", {255})])
def test_padding_is_black_or_reflected(padding, values):
    image = np.full((28, 28, 1), 255, np.uint8)
    shifted = augmented(image, with_augmentation(pad=2, padding=padding), 20)
    assert set(np.unique(shifted).tolist()) == values


@pytest.mark.parametrize(("padding", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_shifted_image_is_crop_of_padded_image(padding, mode):
    image = noise(28, 28, 1)
    padded = np.pad(image, [(3, 3), (3, 3), (0, 0)], mode=mode)
    windows = {padded[y : y + 28, x : x + 28].tobytes() for y in range(7) for x in range(7)}
    assert {shifted.tobytes() for shifted in augmented(image, with_augmentation(pad=3, padding=padding), 50)} <= windows


def test_flip_mirrors_half_of_the_images():
    image = noise(28, 28, 1)
    results = augmented(image, with_augmentation(flip=True), 400)
    mirrored = [np.array_equal(result, image[:, ::-1]) for result in results]
    same = [np.array_equal(result, image) for result in results]
    assert np.array_equal(mirrored, np.logical_not(same))
    assert abs(np.mean(mirrored) - 0.5) < 0.08  # three standard deviations


def test_flips_of_epochs_are_independent():
    """Each pair of epochs agrees on half of 64 images; 16 is four standard deviations."""
    image, experiment = noise(28, 28, 1), with_augmentation(flip=True)
    epochs = [augmented(image, experiment, 64, epoch) for epoch in range(4)]
    unchanged = np.array([[np.array_equal(result, image) for result in results] for results in epochs])
    for first, second in itertools.combinations(unchanged, 2):
        assert abs(np.sum(first == second) - 32) < 16


# --- colours ---


def grey_of(image):
    return image @ np.array([0.2989, 0.587, 0.114])


def blend(image, other, factor):
    return np.clip(factor * image + (1 - factor) * other, 0, 255)


def shift_hue(image, shift):
    """torchvision's adjust_hue, pixel by pixel with `colorsys`."""

    def shift_pixel(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return [255 * part for part in colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)]

    return np.apply_along_axis(shift_pixel, -1, image)


REFERENCE = {
    "brightness": lambda image, factor: blend(image, 0, factor),
    "contrast": lambda image, factor: blend(image, grey_of(image).mean(), factor),
    "saturation": lambda image, factor: blend(image, grey_of(image)[..., None], factor),
    "hue": shift_hue,
}


@pytest.mark.parametrize(
    ("name", "factor"),
    [(name, factor) for name in REFERENCE for factor in ((0.4, 1.7) if name != "hue" else (-0.3, 0.2))],
)
def test_colour_change_equals_formula(name, factor):
    image = noise().astype(np.float32)
    changed = jitter_colours(tf.constant(image), [name], tf.constant([factor]), tf.constant([0])).numpy()
    np.testing.assert_allclose(changed, REFERENCE[name](image, factor), atol=2e-2)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_colour_changes_are_applied_in_given_order(order):
    image = noise(16, 16).astype(np.float32)
    names, factors = list(REFERENCE), [1.3, 0.6, 1.8, 0.1]
    expected = image
    for index in order:
        expected = REFERENCE[names[index]](expected, factors[index])
    changed = jitter_colours(tf.constant(image), names, tf.constant(factors), tf.constant(order)).numpy()
    np.testing.assert_allclose(changed, expected, atol=5e-2)


def test_grey_images_have_no_saturation_and_no_hue():
    image = noise(16, 16, 1).astype(np.float32)
    changed = jitter_colours(
        tf.constant(image), list(REFERENCE), tf.constant([1.0, 0.5, 2.0, 0.3]), tf.range(4)
    ).numpy()
    np.testing.assert_allclose(changed, blend(image, image.mean(), 0.5), atol=1e-2)


def test_colour_factors_cover_torchvisions_range():
    amounts = {"brightness": 0.4, "contrast": 1.5, "hue": 0.1}
    factors = np.array([sample_colour_factors(amounts, seed_of(index)) for index in range(200)])
    low, high = np.array([0.6, 0.0, -0.1]), np.array([1.4, 2.5, 0.1])
    assert np.all((factors >= low) & (factors <= high))
    assert np.all(np.ptp(factors, 0) > 0.9 * (high - low))


def test_colour_changes_occur_in_every_order(monkeypatch):
    orders = set()
    monkeypatch.setattr(
        augmentation, "jitter_colours", lambda image, names, factors, order: orders.add(tuple(order.numpy())) or image
    )
    augmented(noise(28, 28, 1), with_augmentation(brightness=0.4, contrast=0.4, saturation=0.4), 60)
    assert len(orders) == 6


def test_lighting_equals_formula():
    image = noise().astype(np.float32)
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    alphas = np.array([0.1, -0.2, 0.05])
    expected = image / 255 + vectors @ (alphas * values)
    np.testing.assert_allclose(
        add_lighting(tf.constant(image), tf.constant(alphas, tf.float32)) / 255, expected, atol=1e-6
    )

    experiment = with_augmentation("resnet18", lighting=0.1)
    shifts = np.array([(result - image)[0, 0] / 255 for result in augmented(image, experiment, 400)])
    sampled_alphas = shifts @ np.linalg.inv(vectors).T / values
    np.testing.assert_allclose(sampled_alphas.std(0), 0.1, rtol=0.15)


# --- crops of images of any size ---


def test_random_corners_are_uniform():
    corners = np.array([random_corner(tf.constant([2, 0]), seed_of(index)).numpy() for index in range(600)])
    assert set(corners[:, 1]) == {0}
    assert np.abs(np.bincount(corners[:, 0]) - 200).max() < 45


def torchvision_box(image_size, areas, aspects, bounds):
    """Return the box size of RandomResizedCrop.get_params for given tries, and the corner if none of them fits."""
    height, width = image_size
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


@pytest.mark.parametrize("image_size", [(375, 500), (500, 333), (40, 900), (900, 40), (20, 20)])
def test_random_area_box_equals_torchvisions(image_size):
    settings = AugmentationConfig(area=[0.3, 1.0])
    fallbacks = 0
    for index in range(60):
        areas, aspects = (np.array(values, np.float64) for values in sample_areas_and_aspects(settings, seed_of(index)))
        box = random_area_box(
            tf.constant(image_size),
            tf.constant(areas, tf.float32),
            tf.constant(aspects, tf.float32),
            settings.aspect,
            seed_of(1),
        ).numpy()
        size, corner = torchvision_box(image_size, areas, aspects, settings.aspect)
        assert tuple(box[2:]) == size
        assert np.all(box[:2] >= 0)
        assert np.all(box[:2] + box[2:] <= image_size)
        if corner:
            fallbacks += 1
            assert tuple(box[:2]) == corner
    assert fallbacks == 60 or max(image_size) < 900


def test_areas_and_aspects_are_within_bounds():
    settings = AugmentationConfig(area=[0.25, 0.5], aspect=[0.5, 4.0])
    areas, aspects = np.concatenate([sample_areas_and_aspects(settings, seed_of(index)) for index in range(100)], 1)
    assert (areas.min() >= 0.25) & (areas.max() <= 0.5)
    assert (aspects.min() >= 0.5) & (aspects.max() <= 4.0)
    assert abs(np.mean(np.log(aspects) < np.log(2**0.5)) - 0.5) < 0.05  # uniform in the logarithm


def test_random_area_is_resized_box(monkeypatch):
    experiment = with_augmentation("resnet18", crop="random_area")
    image = noise(300, 400)
    monkeypatch.setattr(augmentation, "random_area_box", lambda *args: tf.constant([11, 23, 150, 250]))
    expected = tf.image.resize(image[11:161, 23:273], (224, 224), antialias=True)
    crop = crop_for_training(lazy_image(tf.constant(image), 3), experiment, seed_of(0))
    np.testing.assert_allclose(crop, expected, atol=1e-3)


DISTORTED = AugmentationConfig(crop="distorted_box")


def tensorflows_box(size, seed):
    """Return the box of TensorFlow's stateless operation with the reference's arguments."""
    begin, box_size, _ = tf.image.stateless_sample_distorted_bounding_box(
        [*size, 3], [[[0, 0, 1, 1]]], seed, 0.1, [3 / 4, 4 / 3], [0.08, 1.0], 10, use_image_if_no_bounding_boxes=True
    )
    return [*begin.numpy()[:2], *box_size.numpy()[:2]]


def test_distorted_box_equals_tensorflows():
    boxes = [distorted_box(tf.constant([300, 410]), 3, DISTORTED, seed_of(index)).numpy() for index in range(20)]
    assert np.array_equal(boxes, [tensorflows_box((300, 410), seed_of(index)) for index in range(20)])
    assert len({tuple(box) for box in boxes}) == 20


@pytest.mark.parametrize("size", [(300, 410), (20, 400)])
def test_distorted_box_is_resized_as_tensorflow_1_does(size):
    """In an image of 1 : 20, every try fails, and the crop of tests is taken."""
    experiment = with_augmentation("resnet18", crop="distorted_box")
    data = experiment.data.model_copy(update={"interpolation": "tf1_bicubic", "crop_first": True})
    experiment = experiment.model_copy(update={"data": data})
    image = lazy_image(tf.constant(noise(*size)), 3)
    box = tensorflows_box(size, augmentation._derive_seed(seed_of(3), augmentation._CROP))
    found = crop_for_training(image, experiment, seed_of(3))
    if box == [0, 0, *size]:
        expected = resize_for_evaluation(image, experiment)
    else:
        expected = tf.compat.v1.image.resize_bicubic(image.crop(tf.constant(box))[None], [224, 224])[0]
    assert (box == [0, 0, *size]) == (size == (20, 400))
    assert np.array_equal(found, expected)


@pytest.mark.slow
def test_areas_of_distorted_boxes_are_those_of_tensorflow_1():
    """Areas of 10⁵ boxes: TensorFlow 1's operation and ours, and torchvision's, which are larger."""
    size, draws = tf.constant([375, 500]), 100_000

    def ours(index):
        return distorted_box(size, 3, DISTORTED, tf.stack([index, index + 1]))[2:]

    def legacy(index):
        _, box_size, _ = tf.raw_ops.SampleDistortedBoundingBoxV2(
            image_size=[375, 500, 3],
            bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
            min_object_covered=0.1,
            seed=1,
            seed2=2,
            aspect_ratio_range=[3 / 4, 4 / 3],
            area_range=[0.08, 1.0],
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return box_size[:2]

    def torchvisions(index):
        areas, aspects = sample_areas_and_aspects(DISTORTED, tf.stack([index, index + 1]))
        return random_area_box(size, areas, aspects, DISTORTED.aspect, tf.stack([index, index + 2]))[2:]

    def areas(box_size):
        sizes = tf.data.Dataset.range(draws).map(box_size, num_parallel_calls=2).batch(draws)
        (sizes,) = sizes.as_numpy_iterator()
        return sizes.prod(1) / (375 * 500)

    found, expected, others = map(areas, (ours, legacy, torchvisions))
    assert found.mean() == pytest.approx(expected.mean(), abs=0.005)
    quantiles = np.linspace(0.05, 0.95, 19)
    assert np.quantile(found, quantiles) == pytest.approx(np.quantile(expected, quantiles), abs=0.01)
    assert (found.mean(), (found < 0.25).mean()) == pytest.approx((0.39, 0.33), abs=0.015)
    assert (others.mean(), (others < 0.25).mean()) == pytest.approx((0.43, 0.25), abs=0.015)


def test_random_crop_is_crop_of_resized_image(monkeypatch):
    experiment = with_augmentation("resnet18", crop="random")
    image = noise(300, 400)
    monkeypatch.setattr(augmentation, "random_corner", lambda max_corner, seed: max_corner - [1, 2])
    resized = tf.image.resize(image, (256, 341), antialias=True).numpy()
    crop = crop_for_training(lazy_image(tf.constant(image), 3), experiment, seed_of(0))
    np.testing.assert_allclose(crop, resized[31 : 31 + 224, 115 : 115 + 224], atol=2e-2)


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


def test_augmentation_is_function_of_seed():
    experiment = with_augmentation("resnet18", **EVERYTHING)
    image = tf.constant(noise(300, 400))

    def results(epoch):
        crops = [crop_for_training(lazy_image(image, 3), experiment, seed_of(index, epoch)) for index in range(2)]
        moved = Moves.of_epoch(experiment.data.augmentation, 2, seed_of(0, epoch)).apply(tf.range(2), tf.stack(crops))
        changed = [
            change_colours(image, experiment.data.augmentation, seed_of(index, epoch))
            for index, image in enumerate(moved)
        ]
        return [image.numpy().tobytes() for image in changed]

    assert results(1) == results(1)
    assert len({*results(0), *results(1)}) == 4


# --- errors ---


@pytest.mark.parametrize(
    ("network", "keys", "message"),
    [
        (
            "lenet5",
            {"lighting": 0.1},
            r"data.augmentation.lighting needs images with 3 channels, but images of 'mnist_5k' have 1",
        ),
        (
            "lenet5",
            {"pad": 28, "padding": "reflect"},
            r"pad = 28 is too large to reflect images of 28 × 28.*set it to less than 28",
        ),
    ],
)
def test_errors_of_augmentation(network, keys, message):
    with pytest.raises(BnnError, match=message):
        check_augmentation(with_augmentation(network, **keys))


def test_hue_needs_three_channels():
    experiment = with_augmentation("resnet18", hue=0.1)
    data = experiment.data.model_copy(update={"name": "other", "shape": [64, 64, 4], "classes": 10})
    with pytest.raises(
        BnnError, match=r"data.augmentation.hue needs images with 3 channels, but images of 'other' have 4"
    ):
        check_augmentation(experiment.model_copy(update={"data": data}))
