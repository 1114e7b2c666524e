"""Look into the network of a run: its first binary kernels, and its predictions of the test images."""

from __future__ import annotations

import base64
import dataclasses
import heapq
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import tensorflow as tf
from PIL import Image

from bnn_keras import runs
from bnn_keras.build import percent
from bnn_keras.counts import count
from bnn_keras.data import available_data, check_labels
from bnn_keras.data.pipelines import denormalise
from bnn_keras.errors import BnnError
from bnn_keras.evaluation import Classifier, classify
from bnn_keras.experiment import Experiment
from bnn_keras.export.description import Description
from bnn_keras.export.freeze import binary_kernels
from bnn_keras.export.predictors import with_keras
from bnn_keras.location import DataLocation
from bnn_keras.models import load_run
from bnn_keras.runs import Run

MISTAKES = 24
CONFUSIONS = 20
MAX_CLASSES = 60  # of a confusion matrix in the document
MAX_FILTERS, MAX_CHANNELS = 64, 32  # of the sign maps
POSITIVE, NEGATIVE = (0, 114, 178), (240, 228, 200)  # colors of +1 and −1


class Kernels(pydantic.BaseModel):
    """The binary kernels of a layer.

    Attributes:
        layer: Name of the layer.
        shape: (height, width, channels, filters), or (inputs, outputs) of a dense layer.
        scales: α of each filter; one for a layer with one α, and none for kernels of ±1.
        positive: Share of weights with the sign +1.
        filters: Number of filters in `png`.
        channels: Number of channels, or inputs, in `png`.
        png: Sign maps as a PNG file in Base64: one column per filter, one row per channel.
    """

    layer: str
    shape: list[int]
    scales: list[float]
    positive: float
    filters: int
    channels: int
    png: str


class Mistake(pydantic.BaseModel):
    """An image that the network takes for another class.

    Attributes:
        index: Its position in the test split, from 0.
        label: Its class.
        predicted: The predicted class.
        probability: Probability of the predicted class.
        png: The image as a PNG file in Base64.
    """

    index: int
    label: str
    predicted: str
    probability: float
    png: str


class Confusion(pydantic.BaseModel):
    """Number of images of a class that the network takes for another one."""

    label: str
    predicted: str
    images: int


class ClassAccuracy(pydantic.BaseModel):
    """Number of images of a class, and the share with correct predictions in percent."""

    label: str
    images: int
    top1: float | None


class TestImages(pydantic.BaseModel):
    """Predictions of the test images.

    Attributes:
        weights: Whether they are of the "last" epoch or of the "best" one.
        images: Number of images.
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent.
        per_class: Accuracy of each class.
        matrix: Numbers of images (classes, predicted classes); None for more than 60 classes.
        confusions: The most frequent confusions.
        mistakes: The mistakes with the highest probability of the wrong class.
    """

    __test__ = False  # not a test class of pytest

    weights: Literal["best", "last"]
    images: int
    top1: float
    top5: float
    per_class: list[ClassAccuracy]
    matrix: list[list[int]] | None
    confusions: list[Confusion]
    mistakes: list[Mistake]


@dataclasses.dataclass(frozen=True)
class NetworkFacts:
    """What is found in a network.

    Attributes:
        counts: Parameters, operations and bytes.
        kernels: The kernels of the first binary layer, if there is one.
        test: Predictions of the test images, if they are available.
    """

    counts: dict[str, int]
    kernels: Kernels | None
    test: TestImages | None


def inspect_network(
    run: Run, experiment: Experiment, location: DataLocation, absent: dict[str, str]
) -> NetworkFacts | None:
    """Load the network of a run, with its last weights, and look at its kernels and its predictions.

    Args:
        run: The run.
        experiment: Its experiment.
        location: Where the test images are read from. Nothing is downloaded.
        absent: Receives a reason for each part that is missing, by its name in the report.

    Returns:
        What is found; None without weights.
    """
    if not (run / runs.WEIGHTS).exists():
        absent["kernels"] = absent["test"] = "no epoch is finished, so there are no weights yet"
        return None
    try:
        _, model = load_run(run.directory)
    except BnnError as error:
        absent["kernels"] = absent["test"] = str(error)
        return None
    return NetworkFacts(
        counts=count(model),
        kernels=_first_kernels(model, absent),
        test=_test_images(run, experiment, model, location, absent),
    )


def _first_kernels(model: tf.keras.Model, absent: dict[str, str]) -> Kernels | None:
    try:
        kernels = binary_kernels(model)
    except BnnError as error:
        absent["kernels"] = str(error)
        return None
    if not kernels:
        absent["kernels"] = "the network has no binary kernels"
        return None
    layer, kernel = next(iter(kernels.items()))
    signs = kernel.signs
    shown = signs[..., :MAX_CHANNELS, :MAX_FILTERS]
    return Kernels(
        layer=layer,
        shape=list(signs.shape),
        scales=[float(scale) for scale in kernel.scales],
        positive=float(np.mean(signs > 0)),
        filters=shown.shape[-1],
        channels=shown.shape[-2],
        png=to_png(sign_maps(shown)),
    )


def sign_maps(signs: np.ndarray) -> np.ndarray:
    """Draw kernels, one pixel per weight.

    Args:
        signs: ±1, (height, width, channels, filters), or (inputs, outputs) as 1 × 1 kernels.

    Returns:
        RGBA pixels: one column of kernels per filter and one row per channel, with transparent lines of one pixel
        between kernels larger than 1 × 1. uint8, (channels · height + …, filters · width + …, 4).

    Example:
        >>> sign_maps(np.ones((3, 3, 2, 5))).shape
        (7, 19, 4)
    """
    kernels = signs.reshape((1, 1, *signs.shape)) if signs.ndim == 2 else signs
    height, width, channels, filters = kernels.shape
    gap = int(height * width > 1)
    cells = np.zeros((channels, height + gap, filters, width + gap, 4), np.uint8)
    positive, negative = (np.array((*color, 255), np.uint8) for color in (POSITIVE, NEGATIVE))
    colors = np.where((kernels > 0)[..., None], positive, negative)
    cells[:, :height, :, :width] = colors.transpose(2, 0, 3, 1, 4)
    pixels = cells.reshape(channels * (height + gap), filters * (width + gap), 4)
    return pixels[: len(pixels) - gap, : pixels.shape[1] - gap]


def to_png(pixels: np.ndarray) -> str:
    """Return pixels (height, width), or (height, width, channels) with 1, 3 or 4 channels, as PNG in Base64."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def _test_images(
    run: Run, experiment: Experiment, model: tf.keras.Model, location: DataLocation, absent: dict[str, str]
) -> TestImages | None:
    dataset = available_data(experiment, location)
    if dataset is None:
        absent["test"] = (
            f"the test images of {experiment.data.name!r} are not prepared on this machine; `bnnk evaluate "
            f"{Path(run.directory)}` prepares them, or give --data-dir"
        )
        return None
    labels = run.environment["dataset"]["labels"]
    description = Description.of_experiment(experiment, labels)
    classifier = Classifier(description, with_keras(lambda images: model(images, training=False)), "last")
    try:
        check_labels(dataset, labels, str(run.directory))
        return _predictions(classifier, experiment, dataset)
    except BnnError as error:
        absent["test"] = str(error)
        return None


def _predictions(classifier: Classifier, experiment: Experiment, dataset: Any) -> TestImages:
    labels = classifier.labels
    matrix = np.zeros(2 * (len(labels),), np.int64)
    in_top5, worst, seen = 0, list[tuple[float, int, int, int, np.ndarray]](), 0
    for pixels, classes, logits in classify(classifier, dataset):
        predicted = np.argmax(logits, axis=-1)
        np.add.at(matrix, (classes, predicted), 1)
        in_top5 += int(np.sum(tf.math.in_top_k(classes, logits, min(5, len(labels)))))
        probabilities = tf.nn.softmax(logits).numpy()
        for row in np.flatnonzero(predicted != classes):
            # The index makes equal probabilities comparable, so that the images themselves are never compared.
            wrong = (
                float(probabilities[row, predicted[row]]),
                -(seen + row),
                classes[row],
                predicted[row],
                pixels[row],
            )
            (heapq.heappushpop if len(worst) == MISTAKES else heapq.heappush)(worst, wrong)
        seen += len(classes)
    return TestImages(
        weights="last",
        images=seen,
        top1=percent(matrix.trace() / seen),
        top5=percent(in_top5 / seen),
        per_class=[
            ClassAccuracy(
                label=label, images=int(row.sum()), top1=percent(row[index] / row.sum()) if row.sum() else None
            )
            for index, (label, row) in enumerate(zip(labels, matrix, strict=True))
        ],
        matrix=matrix.tolist() if len(labels) <= MAX_CLASSES else None,
        confusions=_confusions(matrix, labels),
        mistakes=[
            Mistake(
                index=-int(index),
                label=labels[label],
                predicted=labels[predicted],
                probability=probability,
                png=to_png(_visible(image, experiment)),
            )
            for probability, index, label, predicted, image in sorted(worst, key=lambda wrong: wrong[:2], reverse=True)
        ],
    )


def _confusions(matrix: np.ndarray, labels: Mapping[int, str] | list[str]) -> list[Confusion]:
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = (np.unravel_index(index, matrix.shape) for index in order)
    return [
        Confusion(label=labels[row], predicted=labels[column], images=int(wrong[row, column]))
        for row, column in pairs
        if wrong[row, column]
    ]


def _visible(image: np.ndarray, experiment: Experiment) -> np.ndarray:
    """Return a normalised image as pixels. A whitened one is stretched to all grey levels."""
    if experiment.data.whiten:
        low, high = image.min(), image.max()
        pixels = 255 * (image - low) / max(high - low, 1e-12)
    else:
        pixels = denormalise(experiment)(tf.constant(image)).numpy()
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
