"""From a run directory or an exported file to accuracy and predictions. It alone says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import files
from bnn_keras.build import build_loss, build_metrics, percent
from bnn_keras.data import evaluation_batches, open_data, open_test_data, read_images
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export import open_export
from bnn_keras.export.predictors import Predictor, with_keras
from bnn_keras.export.threads import limit_threads
from bnn_keras.location import DataLocation
from bnn_keras.models import load_run
from bnn_keras.runs import Run

BATCH = 128


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that is trained, wherever it is.

    Attributes:
        experiment: What it is.
        labels: Names of its classes.
        logits: Images as it takes them → logits.
        weights: "best" or "last" of a run; the format of a file.
    """

    experiment: Experiment
    labels: list[str]
    logits: Predictor
    weights: str


def open_classifier(
    source: str | Path, best: bool = False, batch_size: int | None = None, threads: int | None = None
) -> Classifier:
    """A run directory, or a file or folder that `bnnk export` wrote.

    Args:
        source: The directory or file.
        best: Take the best weights of a run instead of the last.
        batch_size: Images of a batch, where a file settles that.
        threads: Threads to compute with; what the library thinks best where absent.

    Raises:
        BnnError: It cannot be read, or takes other batches.
    """
    if not Path(source).exists():
        raise BnnError(
            f"no run in {str(source)!r}, and no exported file; give the folder that `bnnk train` wrote, or a file that "
            "`bnnk export` wrote"
        )
    if Run(source).begun:
        limit_threads(threads)
        experiment, model = load_run(source, best)
        labels = Run.read(source).environment["dataset"]["labels"]
        logits = with_keras(lambda images: model(images, training=False))
        return Classifier(experiment, labels, logits, "best" if best else "last")
    if best:
        raise BnnError(f"{str(source)!r} is an exported file, which has one set of weights; leave --best out")
    found = open_export(source, batch_size, threads)
    return Classifier(found.experiment, found.labels, found.logits, found.format)


def evaluate(
    source: str | Path,
    dataset: str | None = None,
    *,
    best: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> dict[str, Any]:
    """Accuracy of a run, or of an exported file, on a test split.

    Args:
        source: The run directory, or the file.
        dataset: Another dataset than its own, with images and classes of the same shape.
        best: Take the best weights of a run instead of the last.
        batch_size: Images of a batch.
        threads: Threads to compute with; what the library thinks best where absent.
        data_dir: Where prepared datasets are; TFDS's own folder where absent.
        manual_dir: A folder with the files that TFDS would download.

    Returns:
        `top1` and `top5` in percent, `loss`, `images`, `dataset`, `run` (the source), `weights`.

    Raises:
        BnnError: The run, the file or the data cannot be had, or they do not fit.
    """
    classifier = open_classifier(source, best, batch_size, threads)
    experiment, location = classifier.experiment, DataLocation(data_dir, manual_dir)
    images = open_test_data(experiment, dataset, location) if dataset else open_data(experiment, location)
    metrics = [tf.keras.metrics.Mean("loss"), *build_metrics(len(classifier.labels))]
    loss = build_loss()
    for batch, labels in evaluation_batches(images, experiment, batch_size or BATCH):
        logits = tf.constant(classifier.logits(batch.numpy()))
        metrics[0].update_state(loss(labels, logits), sample_weight=len(logits))
        for metric in metrics[1:]:
            metric.update_state(labels, logits)
    measured = {metric.name: float(metric.result()) for metric in metrics}
    return {
        "run": str(source),
        "weights": classifier.weights,
        "dataset": dataset or experiment.data.name,
        "images": images.examples(images.info.test),
        "loss": measured["loss"],
        "top1": percent(measured["top1"]),
        "top5": percent(measured["top5"]),
    }


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a run.

    Attributes:
        inputs: Names of the images.
        labels: Names of the classes.
        logits: The network's outputs, (images, classes).
    """

    inputs: list[str]
    labels: list[str]
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits."""
        return tf.nn.softmax(self.logits).numpy()

    def ranked(self, top: int) -> list[tuple[str, list[tuple[str, float]]]]:
        """For each image its name and the `top` likeliest classes, (label, probability), likeliest first."""
        probabilities = self.probabilities
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top]
        return [
            (name, [(self.labels[index], float(row[index])) for index in likeliest])
            for name, row, likeliest in zip(self.inputs, probabilities, order, strict=True)
        ]


def write_logits(predictions: Predictions, file: str | Path) -> None:
    """Writes the logits as a `.npy` of float32, (images, classes).

    Raises:
        BnnError: The file cannot be written.
    """
    path = Path(file)
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, predictions.logits)


def predict(
    source: str | Path,
    images: str | Path,
    *,
    best: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
) -> Predictions:
    """What a run, or an exported file, makes of images.

    Args:
        source: The run directory, or the file.
        images: An image file, a folder of them, or a `.npy` (`data.read_images`).
        best: Take the best weights of a run instead of the last.
        batch_size: Images of a batch.
        threads: Threads to compute with; what the library thinks best where absent.

    Raises:
        BnnError: The run, the file or the images cannot be read, or have another shape than the network takes.
    """
    classifier = open_classifier(source, best, batch_size, threads)
    names, batch = read_images(images, classifier.experiment)
    size = batch_size or BATCH
    parts = [classifier.logits(batch[place : place + size]) for place in range(0, len(batch), size)]
    return Predictions(names, classifier.labels, np.concatenate(parts))
