"""Global contrast normalization and ZCA whitening, against the formulas."""

import numpy as np
import pytest

from bnn_keras import evaluate, export_run, predict, train
from bnn_keras.data import describe, evaluation_batches, make_arrays, normalise, open_data, open_dataset
from bnn_keras.data.whitening import Whitening, normalize_contrast, whiten
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation
from bnn_keras.models import load_teacher
from bnn_keras.runs import Run
from bnn_keras.training.repairing import repair

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


WHITENED = ["data.whiten=gcn_zca", "data.mean=[0.0]", f"data.std=[{1 / 255}]", "data.augmentation.pad=0"]


def whitened(**options):
    overrides = ["data.examples=16", *WHITENED]
    return resolve("lenet5", dataset="fake", epochs=1, batch_size=8, overrides=overrides, **options).experiment


def test_matrix_is_kept_as_its_upper_triangle():
    whitening = Whitening.fit([IMAGES])
    assert {name: array.shape for name, array in whitening.arrays.items()} == {
        "whitening_mean": (60,),
        "whitening_matrix": (1830,),
    }
    kept = Whitening.of_arrays(whitening.arrays)
    np.testing.assert_allclose(kept.matrix, whitening.matrix, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(kept.matrix, kept.matrix.T)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_pipeline_equals_formula(channels):
    keys = ["data.shape=[4, 5, 3]", "data.classes=10", "data.examples=90", f"data.channels={channels}", *WHITENED]
    experiment = resolve("nin", dataset="fake", overrides=keys).experiment
    dataset = open_data(experiment)
    images = np.array([image for image, _ in dataset.pairs("train").as_numpy_iterator()])
    experiment = experiment.with_arrays(lambda: make_arrays(experiment, lambda: dataset))
    flat = Whitening.of_arrays(experiment.arrays)
    by_formula = expected(images, IMAGES)
    scale = np.abs(by_formula).max()
    order = -1 if channels == "bgr" else 1
    inputs = normalise(experiment)(IMAGES).numpy()
    np.testing.assert_allclose(inputs / scale, by_formula[..., ::order] / scale, rtol=0, atol=1e-6)
    np.testing.assert_allclose(inputs, flat(IMAGES)[..., ::order], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_run_keeps_its_whitening(tmp_path):
    """Training, evaluation, prediction, an exported file, a repaired run and a second run have the same whitening."""
    run, file = tmp_path / "run", tmp_path / "lenet5.safetensors"
    experiment = whitened()
    result = train(experiment, run, plain=True)
    assert evaluate(run)["top1"] == result["top1"]
    arrays = Run(run).read_arrays()
    fitted = make_arrays(experiment, lambda: open_data(experiment))
    assert all(np.allclose(arrays[name], fitted[name], rtol=1e-5, atol=1e-6) for name in fitted)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)
    logits = predict(run, pixels).logits
    floats = predict(run, Whitening.of_arrays(arrays)(pixels)).logits
    np.testing.assert_allclose(floats, logits, rtol=1e-3, atol=1e-3)
    export_run(run, "packed", file)
    np.testing.assert_array_equal(predict(file, pixels).logits, logits)
    (run / "arrays.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        BnnError, match=r"cannot read '.*arrays.safetensors' \(its content does not match its digest\); run"
    ):
        predict(run, pixels)
    [repaired] = repair(run)
    assert (repaired.name, repaired.outcome) == ("arrays.safetensors", "restored from the copy in epoch-00001")
    np.testing.assert_array_equal(predict(run, pixels).logits, logits)
    other = resolve(
        "lenet5", dataset="fake", epochs=1, batch_size=8, overrides=["data.examples=8", *WHITENED]
    ).experiment
    train(other, tmp_path / "second", start_from=run, plain=True)
    assert all(np.array_equal(Run(tmp_path / "second").read_arrays()[name], arrays[name]) for name in arrays)
    student = other.with_arrays(lambda: arrays)
    np.testing.assert_array_equal(load_teacher(str(run), student)(normalise(student)(pixels)).numpy(), logits)
    with pytest.raises(BnnError, match=r"has another mean image or whitening than its student; choose a teacher with"):
        load_teacher(str(run), resolve("lenet5", dataset="fake").experiment)


@pytest.mark.slow
def test_exported_file_keeps_its_whitening_beside_its_sidecar(tmp_path):
    run, file = tmp_path / "run", tmp_path / "lenet5"
    train(whitened(), run, plain=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)
    for _ in range(2):  # the second export replaces the first
        export_run(run, "saved_model", file)
    logits = predict(run, pixels).logits
    np.testing.assert_allclose(predict(file, pixels).logits, logits, rtol=1e-3, atol=1e-3)
    (tmp_path / "lenet5.arrays").unlink()
    with pytest.raises(
        BnnError, match=r"cannot read '.*lenet5.arrays' \(No such file or directory\), which has the mean"
    ):
        predict(file, pixels)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.augmentation.flip=true"],
            r"data.whiten: got 'gcn_zca'; images are whitened whole and not augmented, got flip in augmentation",
        ),
        (["data.mean_image=mean.npy"], "whitened images have no mean image: leave mean_image or whiten out"),
        (["data.mean=[0.5]"], r"whitened images are not normalized again, got mean \[0.5\] and std"),
        (["data.shape=[80, 80, 3]", "data.classes=10"], "are too large to be whitened, or differ in size"),
    ],
)
def test_whitening_does_not_go_with(overrides, message):
    with pytest.raises(BnnError, match=message):
        resolve("lenet5", dataset="fake", overrides=[*WHITENED, *overrides])


def test_whitening_is_not_loaded():
    with pytest.raises(BnnError, match="whitening_mean, whitening_matrix of the preprocessing are not loaded"):
        normalise(whitened())


def test_whitening_of_other_images():
    arrays = Whitening.fit([IMAGES]).arrays
    with pytest.raises(BnnError, match=r"whitening_mean of the preprocessing has shape \(60,\); expected \(784,\)"):
        normalise(whitened().with_arrays(lambda: arrays))
