"""Verify an exported file against its network. Runs on every export."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras.data import (
    Dataset,
    available_data,
    evaluation_batches,
    image_batches,
    normalise,
    open_test_data,
    prediction_batch,
    training_examples,
)
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export.predictors import Predictor
from bnn_keras.location import DEFAULT_LOCATION, DataLocation

RANDOM = "random"
_MAX_BATCH = 32
_RANDOM_IMAGES = 64
_CALIBRATION_IMAGES = 64
AGREEMENT = 99.9  # percent
TOLERANCE = {RANDOM: 1e-3, "images": 0.1}


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images to verify a file on.

    Attributes:
        name: Their source, "random" for random images.
        batches: Batches of normalised images, (images, height, width, channels). They can be read once.
    """

    name: str
    batches: Iterable[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an exported file must satisfy.

    Attributes:
        agreement: Minimum share of images with the same top-1 class as the network, in percent; ignored for random
            images.
        tolerance: Maximum of the median over the images of |file − network| / |network|, Euclidean norms of the logits.
    """

    agreement: float
    tolerance: float

    @classmethod
    def for_sample(cls, sample: Sample, agreement: float | None = None, tolerance: float | None = None) -> Limits:
        """Return the given limits, with the sample's defaults in place of None."""
        default = TOLERANCE.get(sample.name, TOLERANCE["images"])
        return cls(AGREEMENT if agreement is None else agreement, default if tolerance is None else tolerance)


def load_sample(
    experiment: Experiment,
    verify_on: str | None,
    count: int,
    location: DataLocation = DEFAULT_LOCATION,
) -> Sample:
    """Open the images to verify on. They are read batch by batch; only the first batch is read at once.

    Args:
        experiment: The experiment of the network.
        verify_on: A folder of images, an image or a `.npy` file; or a dataset. Defaults to the test images of the
            experiment's dataset if it is prepared or part of this package, else to random images, with a warning.
        count: Maximum number of images.
        location: Where datasets are read from.

    Raises:
        BnnError: The images are not available, or have another shape than the network's inputs.
    """
    if verify_on is None:
        dataset = available_data(experiment, location)
        if dataset is None:
            warnings.warn(
                f"dataset {experiment.data.name!r} is not available: the file is verified on {_RANDOM_IMAGES} random "
                "images, by their logits alone; pass --verify-on FOLDER or DATASET to verify on real images",
                UserWarning,
                stacklevel=2,
            )
            return Sample(RANDOM, [_random(experiment)])
    elif Path(verify_on).exists():
        images = (batch for _, batch in image_batches([verify_on], experiment, _batch(experiment)))
        return Sample(verify_on, _first(images, count))
    else:
        dataset = open_test_data(experiment, verify_on, location)
    return Sample(f"{dataset.info.name} {dataset.info.test}", _first(_images(dataset, experiment), count))


def sample_of_array(inputs: Any, input_shape: tuple[int, ...]) -> Sample:
    """Return prepared inputs of a network as a sample.

    Args:
        inputs: The inputs, (N, …) with N ≥ 1.
        input_shape: The shape of an input.

    Raises:
        BnnError: They have another shape, are not numbers, or have NaN or infinite values.
    """
    array = np.asarray(inputs)
    expected = ", ".join(map(str, ("N", *input_shape)))
    if array.shape[1:] != input_shape or not array.shape or not len(array):
        raise BnnError(f"verify_on has shape {array.shape}; expected ({expected}): prepared inputs of the model")
    if array.dtype.kind not in "fiu":
        raise BnnError(f"verify_on holds {array.dtype}; expected floats ({expected}): prepared inputs of the model")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise BnnError("verify_on has NaN or infinite values; expected finite inputs of the model: correct the array")
    size = min(_MAX_BATCH, prediction_batch(input_shape))
    return Sample("given inputs", [array[start : start + size] for start in range(0, len(array), size)])


def calibration_of(sample: Sample) -> np.ndarray:
    """Return inputs of a sample, whose batches can be read again, to calibrate quantization ranges with."""
    return np.concatenate(list(_limited(sample.batches, _CALIBRATION_IMAGES)))


def calibration(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> np.ndarray:
    """Return training images to calibrate quantization ranges with; random images if the dataset is not prepared."""
    dataset = available_data(experiment, location)
    if dataset is None:
        return _random(experiment)
    return np.concatenate(list(_first(_images(training_examples(dataset), experiment), _CALIBRATION_IMAGES)))


def _images(dataset: Dataset, experiment: Experiment) -> Iterator[np.ndarray]:
    return (images.numpy() for images, _ in evaluation_batches(dataset, experiment, _batch(experiment)))


def _batch(experiment: Experiment) -> int:
    return min(_MAX_BATCH, prediction_batch(experiment.input_shape))


def _first(batches: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Return batches of the first `count` images. The first batch is read at once, so that its errors come early."""
    return _limited(itertools.chain([next(batches)], batches), count)


def _limited(batches: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            return


def _random(experiment: Experiment) -> np.ndarray:
    pixels = np.random.default_rng(experiment.seed).integers(
        0, 256, (_RANDOM_IMAGES, *experiment.input_shape), np.uint8
    )
    return normalise(experiment)(pixels).numpy()


def compare(network: Predictor, file: Predictor, batches: Iterable[np.ndarray]) -> dict[str, Any]:
    """Measure how far the logits of an exported file are from those of its network.

    We compare the median logit error: rounding can flip single signs, a wrong layer shifts every image.

    Args:
        network: The network.
        file: The exported file.
        batches: Batches of normalised images, at least one.

    Returns:
        `images`, their number; `agreement` of the top-1 class in percent; `logit_error`, the median over the images of
        |file − network| / |network|, and `largest_logit_error`, the maximum.
    """
    same, errors = 0, []
    for batch in batches:
        expected, actual = network(batch), file(batch)
        same += int((expected.argmax(-1) == actual.argmax(-1)).sum())
        scale = np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float32).tiny)
        errors.extend(np.linalg.norm(actual - expected, axis=-1) / scale)
    return {
        "images": len(errors),
        "agreement": round(100 * same / len(errors), 4),
        "logit_error": float(np.median(errors)),
        "largest_logit_error": float(np.max(errors)),
    }


def check(measured: dict[str, Any], sample: Sample, limits: Limits) -> None:
    """Check the measurements of `compare` against limits.

    Raises:
        BnnError: A limit is exceeded.
    """
    problems = []
    if sample.name != RANDOM and measured["agreement"] < limits.agreement:
        problems.append(f"top-1 agreement is {measured['agreement']:.2f} %, expected at least {limits.agreement} %")
    if not measured["logit_error"] <= limits.tolerance:
        problems.append(
            f"the median error of the logits is {measured['logit_error']:.2g}, expected at most {limits.tolerance:g}"
        )
    if problems:
        raise BnnError(
            f"the exported file does not predict what the network predicts: on {measured['images']} images of "
            f"{sample.name} {' and '.join(problems)}; nothing was written: choose other floats or another format, or "
            "accept the difference with --min-agreement and --tolerance"
        )


def logits_of_probabilities(predict: Predictor) -> Predictor:
    """Return a predictor of logits, up to a constant per image, from a predictor of probabilities."""
    return lambda images: np.log(np.maximum(predict(images), np.finfo(np.float32).tiny))


def log_softmax(predict: Predictor) -> Predictor:
    """Return a predictor of log-probabilities, those that `logits_of_probabilities` returns."""
    return logits_of_probabilities(lambda images: tf.nn.softmax(predict(images)).numpy())
