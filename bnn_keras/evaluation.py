"""Accuracy and predictions of a run directory or an exported file.

Everything that evaluation needs is read from the run directory or the file.
"""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import files, plots, pretrained
from bnn_keras.build import build_loss, build_metrics, percent
from bnn_keras.data import (
    Dataset,
    check_labels,
    evaluation_batches,
    image_batches,
    open_data,
    open_test_data,
    prediction_batch,
)
from bnn_keras.data.readers import decoding
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export import open_export
from bnn_keras.export.description import Description
from bnn_keras.export.predictors import Predictor, with_keras
from bnn_keras.export.sidecar import sidecar_path
from bnn_keras.export.threads import limit_threads
from bnn_keras.export.trained import load_trained, require_no_best
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run

BATCH = 128


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained network, from a run directory or an exported file.

    Attributes:
        description: What it is: its name, the shape of its inputs, its labels, and its experiment if it has one.
        logits: A function from normalised images (batch, height, width, channels) to logits (batch, classes).
        weights: "best" or "last" for a run, the name of the format for a file.
    """

    description: Description
    logits: Predictor
    weights: str

    @property
    def experiment(self) -> Experiment | None:
        """The experiment that it was trained with, if it has one."""
        return self.description.experiment

    @property
    def labels(self) -> list[str]:
        """The names of the classes."""
        return self.description.labels


def open_classifier(
    source: str | Path,
    best: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> Classifier:
    """Open a run directory, a file or folder that `bnnk export` wrote, or a model of the package.

    Args:
        source: The run directory, the exported file, or the name of the model.
        best: Use the best weights of a run instead of the last.
        batch_size: The batch size, for files whose batch size is fixed when they are opened.
        threads: The number of threads. Default: the library's choice.
        trust: Open a SavedModel or C file that this machine did not export (see `open_export`).

    Raises:
        BnnError: The source does not exist, cannot be read, has another fixed batch size, does not name all classes, or
            is not trusted.
    """
    classifier = _open(source, best, batch_size, threads, trust)
    labels, experiment = len(classifier.labels), classifier.experiment
    classes = experiment.data.row.classes if experiment else labels
    if labels != classes:
        raise BnnError(
            f"{str(source)!r} has names for {labels} classes; expected {classes}, one for each output of the network; "
            "restore the file, or train or export again"
        )
    return classifier


def _open(source: str | Path, best: bool, batch_size: int | None, threads: int | None, trust: bool) -> Classifier:
    path = pretrained.find(source)
    if Run(path).begun:
        limit_threads(threads)
        trained = load_trained(path, best)
        logits = with_keras(lambda images: trained.model(images, training=False))
        return Classifier(trained.job.description, logits, trained.weights)
    require_no_best(source, best)
    exported = open_export(path, batch_size, threads, trust)
    return Classifier(exported.description, exported.logits, exported.format)


def evaluate(
    source: str | Path,
    dataset: str | None = None,
    *,
    best: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    trust: bool = False,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    per_class: bool = False,
    confusion: str | Path | None = None,
) -> dict[str, Any]:
    """Measure the accuracy of a run, or of an exported file, on the test split of a dataset.

    Args:
        source: The run directory, the exported file, or the name of a model of the package.
        dataset: The name of another dataset, with images of the same shape and the same classes. Default: that of the
            run.
        best: Use the best weights of a run instead of the last.
        batch_size: The batch size. Default: 128.
        threads: The number of threads. Default: the library's choice.
        trust: Open a SavedModel or C file that this machine did not export (see `open_export`).
        data_dir: The folder of prepared datasets. Default: that of TFDS.
        manual_dir: A folder with the files that TFDS would download.
        per_class: Measure each class too.
        confusion: A file for a plot of the confusion matrix: `.png`, `.svg` or `.pdf`.

    Returns:
        `top1` and `top5` in percent, `loss`, `images`, `dataset`, `run` (the source), `weights`. With `per_class`, also
        `per_class`: a list of `label`, `images`, `correct` and `top1` (None without images), one for each class.

    Raises:
        BnnError: The run or the file cannot be read, the dataset is not available, they do not match, or the plot
            cannot be written.

    Example:
        `source` is a run that `train` wrote, a file that `export_run` wrote, or an imported checkpoint:

        >>> import tempfile
        >>> from bnn_keras import build_model, import_checkpoint, interop, resolve
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     _ = import_checkpoint(f"{folder}/checkpoint.npz", f"{folder}/run", "lenet5", dataset="fake")
        ...     result = evaluate(f"{folder}/run")
        >>> result["dataset"], result["weights"], 0 <= result["top1"] <= 100
        ('fake', 'last', True)
    """
    if confusion:
        plots.picture_format(confusion)
    classifier = open_classifier(source, best, batch_size, threads, trust)
    experiment, location = classifier.experiment, DataLocation(data_dir, manual_dir)
    if experiment is None:
        raise BnnError(
            f"{str(source)!r} is the export of a model without an experiment, which would define the preprocessing of "
            "images; expected a run or the export of one: evaluate the model with Keras, or predict prepared arrays"
        )
    images = open_test_data(experiment, dataset, location) if dataset else open_data(experiment, location)
    check_labels(images, classifier.labels, str(source))
    mean_loss, metrics = tf.keras.metrics.Mean(), build_metrics(len(classifier.labels))
    loss = build_loss()
    matrix = np.zeros(2 * (len(classifier.labels),), np.int64)
    for _, labels, logits in classify(classifier, images, batch_size or BATCH):
        mean_loss.update_state(loss(labels, logits), sample_weight=len(logits))
        for metric in metrics:
            metric.update_state(labels, logits)
        np.add.at(matrix, (labels, np.argmax(logits, axis=-1)), 1)
    if confusion:
        plots.plot_confusion(matrix, classifier.labels, confusion, f"{source} on {dataset or experiment.data.name}")
    measured = {metric.name: float(metric.result()) for metric in metrics}
    return {
        "run": str(source),
        "weights": classifier.weights,
        "dataset": dataset or experiment.data.name,
        "images": images.examples(images.info.test),
        "loss": float(mean_loss.result()),
        "top1": percent(measured["top1"]),
        "top5": percent(measured["top5"]),
        **({"per_class": _per_class(matrix, classifier.labels)} if per_class else {}),
    }


def _per_class(matrix: np.ndarray, labels: list[str]) -> list[dict[str, Any]]:
    """Return the accuracy of each class, from the numbers of images (classes, predicted classes)."""
    return [
        {
            "label": label,
            "images": int(images),
            "correct": int(correct),
            "top1": percent(correct / images) if images else None,
        }
        for label, images, correct in zip(labels, matrix.sum(axis=1), matrix.diagonal(), strict=True)
    ]


def classify(
    classifier: Classifier, images: Dataset, batch_size: int = BATCH
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the test images of a dataset in their order, with their labels and the network's logits.

    Args:
        classifier: The network. It needs an experiment, which defines the preprocessing of images.
        images: The dataset.
        batch_size: Number of images of each batch.

    Returns:
        Batches of normalised images (batch, height, width, channels), labels (batch,) and logits (batch, classes).

    Raises:
        BnnError: An image cannot be decoded.
    """
    assert classifier.experiment is not None
    batches = iter(evaluation_batches(images, classifier.experiment, batch_size))
    while True:
        with decoding(images.info.name):
            batch = next(batches, None)
        if batch is None:
            return
        pixels, labels = (tensor.numpy() for tensor in batch)
        yield pixels, labels, np.asarray(classifier.logits(pixels))


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions for a list of images.

    Attributes:
        inputs: The names of the images.
        labels: The names of the classes.
        logits: The outputs of the network, (images, classes).
        failed: The error message of each input file that could not be read, by its name. It has no prediction.

    Example:
        >>> predictions = Predictions(["digit.png"], ["zero", "one"], np.array([[0.0, 2.0]], np.float32))
        >>> predictions.probabilities.round(4)
        array([[0.1192, 0.8808]], dtype=float32)
        >>> [(name, ranking[0][0]) for name, ranking in predictions.ranked(top=1)]
        [('digit.png', 'one')]
    """

    inputs: list[str]
    labels: list[str]
    logits: np.ndarray
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, (images, classes)."""
        return tf.nn.softmax(self.logits).numpy()

    def ranked(self, top: int) -> list[tuple[str, list[tuple[str, float]]]]:
        """Return for each image its name and its `top` most probable classes as (label, probability), in that order."""
        probabilities = self.probabilities
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top]
        return [
            (name, [(self.labels[index], float(values[index])) for index in indices])
            for name, values, indices in zip(self.inputs, probabilities, order, strict=True)
        ]


def write_logits(predictions: Predictions, file: str | Path) -> None:
    """Write the logits to a `.npy` file as float32, (images, classes).

    Raises:
        BnnError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_logits(Predictions(["x"], ["zero", "one"], np.zeros((1, 2), np.float32)), f"{folder}/logits.npy")
        ...     np.load(f"{folder}/logits.npy")
        array([[0., 0.]], dtype=float32)
    """
    path = Path(file)
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, predictions.logits)


def predict(
    source: str | Path,
    images: Any,
    *,
    best: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> Predictions:
    """Predict the classes of images with a run, or with an exported file.

    Images are read and predicted batch by batch, so their number is not limited by memory. Files that cannot be read
    are left out, with a warning for each.

    Args:
        source: The run directory, the exported file, or the name of a model of the package.
        images: An image file, a folder of image files, a `.npy` file, an array, or a list of these. An array has images
            (N, height, width, channels) or one image (height, width, channels), where grey images need no axis of
            channels. Its values, and those of a `.npy` file, are either uint8 pixels from 0 to 255, which are
            normalised like the run's test images, or floats that are already normalised, which are used unchanged.
            Floats from 0 to 1 or from 0 to 255 give wrong predictions.
        best: Use the best weights of a run instead of the last.
        batch_size: The batch size. Default: 128, or fewer for large images, such as 8 for 224 × 224 pixels.
        threads: The number of threads. Default: the library's choice.
        trust: Open a SavedModel or C file that this machine did not export (see `open_export`).

    Returns:
        The names of the images and of the classes, the logits, and the files that could not be read.

    Raises:
        BnnError: The run or the exported file cannot be read, or none of the images can be, for example because they
            have another shape than the network expects.

    Example:
        `source` is a run that `train` wrote, a file that `export_run` wrote, or an imported checkpoint:

        >>> import tempfile
        >>> from bnn_keras import build_model, import_checkpoint, interop, resolve
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     _ = import_checkpoint(f"{folder}/checkpoint.npz", f"{folder}/run", "lenet5", dataset="fake")
        ...     predictions = predict(f"{folder}/run", np.zeros((2, 28, 28), np.uint8))
        >>> predictions.inputs, predictions.logits.shape
        (['images[0][0]', 'images[0][1]'], (2, 10))
    """
    inputs = list(images) if isinstance(images, list | tuple) else [images]
    _check_order(source, inputs)
    classifier = open_classifier(source, best, batch_size, threads, trust)
    names: list[str] = []
    logits: list[np.ndarray] = []
    failed: dict[str, str] = {}
    shape = classifier.description.input_shape
    size = batch_size or prediction_batch(shape)
    for batch_names, batch in image_batches(inputs, classifier.experiment, size, failed, shape):
        names += batch_names
        logits.append(classifier.logits(batch))
        outputs = logits[-1].shape[-1]
        if outputs != len(classifier.labels):
            raise BnnError(
                f"{str(source)!r} has {outputs} outputs and {len(classifier.labels)} labels; restore the file and its "
                "sidecar, or export again"
            )
    if not names:
        raise BnnError(_nothing_read(failed))
    for message in failed.values():
        warnings.warn(message, stacklevel=1)
    return Predictions(names, classifier.labels, np.concatenate(logits), failed)


def _check_order(source: str | Path, inputs: list[Any]) -> None:
    """Refuse an image in the place of a run, where a run is among the images."""
    models = [path for path in inputs if isinstance(path, str | Path) and _is_model(path)]
    if models and not _is_model(source):
        others = [str(path) for path in inputs if path is not models[0]]
        command = shlex.join(["bnnk", "predict", str(models[0]), str(source), *others])
        raise BnnError(
            f"{str(source)!r} is not a run or an exported file, and {str(models[0])!r} is; write it first: `{command}`"
        )


def _is_model(path: str | Path) -> bool:
    return Run(path).begun or sidecar_path(Path(path)).is_file() or str(path) in pretrained.cards()


def _nothing_read(failed: Mapping[str, str]) -> str:
    messages = list(failed.values()) or ["there are no images; give image files, folders, .npy files or arrays"]
    return (
        messages[0] if len(messages) == 1 else f"none of {len(messages)} inputs can be read; the first: {messages[0]}"
    )
