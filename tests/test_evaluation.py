"""Evaluate and predict with a trained run, and verify the errors of invalid inputs."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from trainings import make_earlier_version

from bnn_keras import catalog, evaluate, evaluation, load_run, plots, predict, resolve
from bnn_keras.data import describe, user_images
from bnn_keras.data.mnist_5k import FILE
from bnn_keras.errors import BnnError
from bnn_keras.evaluation import Classifier, write_logits
from bnn_keras.export.description import Description
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run


@pytest.fixture(scope="module")
def digits():
    with np.load(FILE) as arrays:
        return arrays["images"][4::500][..., None], arrays["labels"][4::500]


@pytest.fixture
def copied_run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def png(path, image):
    tf.io.write_file(str(path), tf.io.encode_png(image))
    return path


def test_evaluate_equals_the_metrics_of_training(trained, data_dir):
    measured, result = evaluate(trained, data_dir=data_dir), Run(trained).result
    assert (measured["top1"], measured["top5"]) == (result["top1"], result["top5"])
    assert (measured["dataset"], measured["images"], measured["weights"]) == ("mnist_5k", 1000, "last")
    assert measured["loss"] == pytest.approx(Run(trained).metrics[-1]["val_loss"], rel=1e-5)
    assert evaluate(trained, best=True, data_dir=data_dir)["top1"] == result["best_top1"]


def test_classes_and_confusion_matrix_equal_those_of_predictions(trained, data_dir, tmp_path, monkeypatch):
    with np.load(FILE) as arrays:
        images, labels = arrays["images"][4::5][..., None], arrays["labels"][4::5]
    np.save(tmp_path / "test.npy", images)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predict(trained, tmp_path / "test.npy").logits.argmax(-1)), 1)
    drawn = []
    monkeypatch.setattr(plots, "plot_confusion", lambda *arguments: drawn.append(arguments))
    measured = evaluate(trained, data_dir=data_dir, per_class=True, confusion=tmp_path / "confusion.png")
    ((matrix, names, file, _),) = drawn
    assert matrix.tolist() == expected.tolist()
    assert (names, file) == ([str(digit) for digit in range(10)], tmp_path / "confusion.png")
    assert [row["label"] for row in measured["per_class"]] == names
    assert [row["images"] for row in measured["per_class"]] == expected.sum(1).tolist()
    assert [row["correct"] for row in measured["per_class"]] == expected.diagonal().tolist()
    assert measured["per_class"][3]["top1"] == pytest.approx(100 * expected[3, 3] / expected[3].sum(), abs=1e-4)
    assert sum(row["correct"] for row in measured["per_class"]) == pytest.approx(10 * measured["top1"])


def test_confusion_matrix_of_any_number_of_classes_is_drawn(tmp_path):
    for classes in (1, 10, 70):
        matrix = np.diag(np.arange(classes))  # the first class has no images
        plots.plot_confusion(matrix, [f"class {index}" for index in range(classes)], tmp_path / "confusion.png")
        assert tf.io.decode_png((tmp_path / "confusion.png").read_bytes()).shape[0] >= 600
    with pytest.raises(BnnError, match=r"cannot draw '.*x.gif': unknown picture format 'gif'; .*known: pdf, png, svg"):
        evaluate("nowhere", confusion=tmp_path / "x.gif")


def test_evaluate_needs_no_result_file(copied_run, data_dir):
    (copied_run / "result.json").unlink()
    assert evaluate(copied_run, data_dir=data_dir)["top1"] == Run(copied_run).metrics[-1]["val_top1"]


def test_evaluate_refuses_a_dataset_of_another_shape(trained, monkeypatch):
    wide = dataclasses.replace(catalog.DATASETS["mnist"], input_shape=(32, 32, 3))
    monkeypatch.setitem(catalog.DATASETS, "mnist", wide)
    with pytest.raises(BnnError, match="dataset 'mnist' has images 32 × 32 × 3 in 10 classes; the network expects"):
        evaluate(trained, "mnist")


def test_predictions_of_an_array_equal_those_of_image_files(trained, digits, tmp_path):
    images, _ = digits
    np.save(tmp_path / "digits.npy", images)
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(images):
        png(folder / f"{index}.png", image)
    (folder / "notes.txt").write_text("no image")
    from_array, from_folder = predict(trained, tmp_path / "digits.npy"), predict(trained, folder)
    from_file = predict(trained, folder / "3.png")
    assert np.array_equal(from_array.logits, from_folder.logits)
    np.testing.assert_allclose(from_file.logits, from_array.logits[3:4], rtol=1e-5, atol=1e-5)
    assert from_folder.inputs == [str(folder / f"{index}.png") for index in range(len(images))]


def test_predictions_are_mostly_correct(trained, digits, tmp_path):
    images, labels = digits
    np.save(tmp_path / "digits.npy", images)
    predictions = predict(trained, tmp_path / "digits.npy")
    assert np.mean(predictions.logits.argmax(-1) == labels) >= 0.8
    assert np.allclose(predictions.probabilities.sum(-1), 1)
    name, classes = predictions.ranked(2)[0]
    assert name == "digits.npy[0]"
    assert classes[0][0] == str(predictions.logits[0].argmax())
    assert classes[0][1] >= classes[1][1]


def test_float_arrays_are_not_normalised(trained, digits, tmp_path):
    images, _ = digits
    normalised = ((images / 255 - 0.1307) / 0.3081).astype(np.float32)
    np.save(tmp_path / "normalised.npy", normalised)
    np.save(tmp_path / "pixels.npy", images)
    predictions = predict(trained, tmp_path / "normalised.npy")
    _, model = load_run(trained)
    np.testing.assert_allclose(predictions.logits, model(normalised, training=False), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        predictions.logits, predict(trained, tmp_path / "pixels.npy").logits, rtol=1e-3, atol=1e-3
    )


def test_image_is_resized_and_converted_to_grey(trained, digits, tmp_path):
    big = np.repeat(np.repeat(np.repeat(digits[0][0], 10, 0), 10, 1), 3, 2)
    tf.io.write_file(str(tmp_path / "big.jpg"), tf.io.encode_jpeg(big, quality=100))
    png(tmp_path / "small.png", digits[0][0])
    with pytest.warns(UserWarning, match="1 of 1 images are not 28 × 28 pixels"):
        big = predict(trained, tmp_path / "big.jpg")
    assert big.logits.argmax() == predict(trained, tmp_path / "small.png").logits.argmax()


def test_logits_are_written_as_npy(trained, digits, tmp_path):
    np.save(tmp_path / "one.npy", digits[0][0])
    predictions = predict(trained, tmp_path / "one.npy")
    write_logits(predictions, tmp_path / "logits.npy")
    assert np.array_equal(np.load(tmp_path / "logits.npy"), predictions.logits)
    with pytest.raises(BnnError, match="cannot write"):
        write_logits(predictions, tmp_path / "nowhere" / "logits.npy")


def test_invalid_images_are_one_clear_error(trained, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "shape.npy", np.zeros((2, 32, 32, 3), np.uint8))
    np.save(tmp_path / "type.npy", np.zeros((2, 28, 28, 1), np.int64))
    np.save(tmp_path / "none.npy", np.zeros((0, 28, 28, 1), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name, message in {
        "nowhere.png": r"no file or folder .*; give an image, a folder of images or a .npy file",
        "nowhere.npy": r"no file or folder .*; give an image, a folder of images or a .npy file",
        "text.png": r"cannot read .*text.png' as an image \([^{}\[\]]+\); give a PNG, JPEG, BMP, GIF, WebP or TIFF",
        "text.npy": r"cannot read .*text.npy' as a NumPy array",
        "objects.npy": r"cannot read .*objects.npy' as a NumPy array",
        "empty": r"folder .*empty' has no images; expected files named \*.png",
        "shape.npy": r"has shape \(2, 32, 32, 3\); expected \(N, 28, 28, 1\); reshape it",
        "none.npy": r"has shape \(0, 28, 28, 1\); expected",
        "type.npy": r"holds int64; expected uint8 pixels or floats",
    }.items():
        with pytest.raises(BnnError, match=message):
            predict(trained, tmp_path / name)


def test_arrays_are_predicted_like_array_files(trained, digits, tmp_path):
    images, _ = digits
    np.save(tmp_path / "digits.npy", images)
    expected = predict(trained, tmp_path / "digits.npy").logits
    assert np.array_equal(predict(trained, images).logits, expected)
    both = predict(trained, [images[:4], tmp_path / "digits.npy"], batch_size=100).logits
    np.testing.assert_allclose(both[4:], expected, rtol=1e-4, atol=1e-4)  # other batches round differently
    np.testing.assert_allclose(predict(trained, images[0][..., 0]).logits, expected[:1], rtol=1e-4, atol=1e-4)


def test_images_are_read_between_predictions(trained, tmp_path, monkeypatch):
    """All images at once took 6.5 GB for 2,500 images of 224 × 224 pixels."""
    for index in range(9):
        png(tmp_path / f"{index}.png", np.zeros((28, 28, 1), np.uint8))
    classifier = evaluation.open_classifier(trained)
    events = []
    read_image = user_images._read_image
    monkeypatch.setattr(user_images, "_read_image", lambda *args: events.append("read") or read_image(*args))
    monkeypatch.setattr(
        evaluation,
        "open_classifier",
        lambda *_: dataclasses.replace(
            classifier, logits=lambda batch: events.append(len(batch)) or np.zeros((len(batch), 10))
        ),
    )
    predict(trained, tmp_path, batch_size=4)
    assert events == [*4 * ["read"], 4, *4 * ["read"], 4, "read", 1]


def test_files_that_cannot_be_read_are_left_out(trained, digits, tmp_path):
    for index in (0, 2):
        png(tmp_path / f"{index}.png", digits[0][index])
    (tmp_path / "1.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"cannot read '.*1.png' as an image"):
        predictions = predict(trained, tmp_path)
    assert predictions.inputs == [str(tmp_path / "0.png"), str(tmp_path / "2.png")]
    assert list(predictions.failed) == [str(tmp_path / "1.png")]
    assert len(predictions.logits) == 2
    with pytest.raises(BnnError, match=r"none of 2 inputs can be read; the first: cannot read '.*1.png' as an image"):
        predict(trained, [tmp_path / "1.png", tmp_path / "gone.png"])
    with pytest.raises(BnnError, match="there are no images; give image files"):
        predict(trained, [])


def test_swapped_arguments_are_recognised(trained, digits, tmp_path):
    image = png(tmp_path / "image.png", digits[0][0])
    message = (
        f"'{image}' is not a run or an exported file, and '{trained}' is; write it first: `bnnk predict {trained} "
    )
    with pytest.raises(BnnError, match=re.escape(f"{message}{image}`")):
        predict(image, trained)
    with pytest.raises(BnnError, match=re.escape(f"{message}{image} {image}`")):
        predict(image, [image, str(trained)])


def test_run_that_does_not_name_all_classes(copied_run):
    environment = Run(copied_run).environment
    environment["dataset"]["labels"] = environment["dataset"]["labels"][:3]
    make_earlier_version(copied_run)  # without the digest of environment.json
    (copied_run / "environment.json").write_text(json.dumps(environment))
    for function in (evaluate, lambda run: predict(run, "image.png")):
        with pytest.raises(BnnError, match=r"'.*copy' has names for 3 classes; expected 10, one for each output"):
            function(copied_run)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder of images of two classes, and "run", which is trained on them."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            png(tmp_path / split / name / "1.png", np.zeros((40, 40, 3), np.uint8))
    row = describe("image_folder", DataLocation(str(tmp_path)))
    description = Description.of_experiment(resolve("resnet18", dataset=row).experiment, ["cat", "dog"])
    classifier = Classifier(description, lambda images: np.zeros((len(images), 2)), "last")
    monkeypatch.setattr(evaluation, "open_classifier", lambda *_: classifier)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [("dog", "wolf", "class wolf instead of dog"), ("cat", "fox", "class fox instead of cat")],
)
@pytest.mark.parametrize("dataset", [None, "image_folder"])
def test_folder_with_other_classes_is_one_clear_error(photographs, old, new, difference, dataset):
    for split in ("train", "test"):
        (photographs / split / old).rename(photographs / split / new)
    message = rf"dataset 'image_folder' in '.*' has other classes than 'run': {difference}; choose a dataset"
    with pytest.raises(BnnError, match=message):
        evaluate("run", dataset, data_dir=str(photographs))


def test_folder_with_classes_in_another_order_is_one_clear_error(photographs, monkeypatch):
    classifier = evaluation.open_classifier()
    description = dataclasses.replace(classifier.description, labels=["dog", "cat"])
    classifier = dataclasses.replace(classifier, description=description)
    monkeypatch.setattr(evaluation, "open_classifier", lambda *_: classifier)
    with pytest.raises(BnnError, match=r"has other classes than 'run': class 0 'cat' instead of 'dog'; choose"):
        evaluate("run", data_dir=str(photographs))


def test_other_images_of_the_same_classes_are_evaluated(photographs):
    png(photographs / "test" / "dog" / "2.png", np.zeros((40, 40, 3), np.uint8))
    assert evaluate("run", data_dir=str(photographs))["images"] == 3


def test_damaged_image_of_a_dataset_is_one_clear_error(photographs):
    (photographs / "test" / "dog" / "1.png").write_text("no image")
    message = r"cannot decode an image of dataset 'image_folder' \([^{}\[\]]+\); expected image files; .*datasets check"
    with pytest.raises(BnnError, match=message):
        evaluate("run", data_dir=str(photographs))


def test_invalid_runs_are_one_clear_error(copied_run, tmp_path):
    with pytest.raises(BnnError, match=r"no run in .*; give the folder that `bnnk train` wrote"):
        evaluate(tmp_path / "nowhere")
    (copied_run / "weights.h5").write_bytes((copied_run / "weights.h5").read_bytes()[:1000])
    with pytest.raises(BnnError, match=r"content of .*weights.h5' does not match its digest; run `bnnk repair"):
        evaluate(copied_run)
    (copied_run / "weights.h5").unlink()
    with pytest.raises(BnnError, match=r"has no weights.h5: no epoch is finished, or the file was removed; run `bnnk"):
        predict(copied_run, "x.png")
    (copied_run / "experiment.toml").write_text("x = [")
    with pytest.raises(BnnError, match="not TOML"):
        evaluate(copied_run, best=True)
