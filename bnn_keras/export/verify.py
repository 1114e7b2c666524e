"""Does a file predict what the network predicts? Asked of every file that is written."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras.data import (
    available_data,
    evaluation_batches,
    normalise,
    open_test_data,
    read_images,
    training_examples,
)
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export.graphs import Predictor
from bnn_keras.location import DEFAULT_LOCATION, DataLocation

RANDOM = "random"
_RANDOM_IMAGES = 64
_CALIBRATION_IMAGES = 64
AGREEMENT = 99.9  # percent
TOLERANCE = {RANDOM: 1e-3, "images": 0.1}


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images that a file is verified on.

    Attributes:
        name: What they are, "random" for made-up ones.
        images: As the network takes them, (images, height, width, channels).
    """

    name: str
    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file must keep to.

    Attributes:
        agreement: Least share of images whose likeliest class is the network's, in percent; not asked of random ones.
        tolerance: Largest median over the images of |file − network| / |network|, Euclidean norms of logits.
    """

    agreement: float
    tolerance: float

    @classmethod
    def of(cls, sample: Sample, agreement: float | None = None, tolerance: float | None = None) -> Limits:
        """Those that are given, else the usual ones for such images."""
        usual = TOLERANCE.get(sample.name, TOLERANCE["images"])
        return cls(AGREEMENT if agreement is None else agreement, usual if tolerance is None else tolerance)


def sample(
    experiment: Experiment,
    verify_on: str | None,
    count: int,
    location: DataLocation = DEFAULT_LOCATION,
) -> Sample:
    """The images to verify on.

    Args:
        experiment: Says what the network takes.
        verify_on: A folder of images, an image or a `.npy`; or a dataset. By default the test images of the
            experiment's own dataset where it is prepared or ships with the package, else made-up ones, with a warning.
        count: Images at the most.
        location: Where datasets are.

    Raises:
        BnnError: The images cannot be had, or do not fit.
    """
    if verify_on is None:
        images = available_data(experiment, location)
        if images is None:
            warnings.warn(
                f"dataset {experiment.data.name!r} is not prepared: the file is verified on {_RANDOM_IMAGES} random "
                "images, by its logits alone; give --verify-on FOLDER or DATASET for more",
                UserWarning,
                stacklevel=2,
            )
            return Sample(RANDOM, _random(experiment))
    elif Path(verify_on).exists():
        return Sample(verify_on, read_images(verify_on, experiment)[1][:count])
    else:
        images = open_test_data(experiment, verify_on, location)
    return Sample(f"{images.info.name} {images.info.test}", _first(evaluation_batches(images, experiment), count))


def calibration(experiment: Experiment, location: DataLocation = DEFAULT_LOCATION) -> np.ndarray:
    """Training images to find ranges with; made-up ones where the dataset is not prepared."""
    images = available_data(experiment, location)
    if images is None:
        return _random(experiment)
    return _first(evaluation_batches(training_examples(images), experiment), _CALIBRATION_IMAGES)


def _first(batches: tf.data.Dataset, count: int) -> np.ndarray:
    parts: list[np.ndarray] = []
    for images, _ in batches:
        parts.append(images.numpy()[: count - sum(map(len, parts))])
        if sum(map(len, parts)) >= count:
            break
    return np.concatenate(parts)


def _random(experiment: Experiment) -> np.ndarray:
    pixels = np.random.default_rng(experiment.seed).integers(
        0, 256, (_RANDOM_IMAGES, *experiment.input_shape), np.uint8
    )
    return normalise(experiment)(pixels).numpy()


def compare(network: Predictor, file: Predictor, images: np.ndarray, batch_size: int = 32) -> dict[str, Any]:
    """How far the logits of a file are from those of the network.

    Returns:
        `images`; `agreement` of the likeliest class in percent; `logit_error`, median over the images of |file −
        network| / |network|, and `largest_logit_error`.
    """
    same, errors = 0, []
    for place in range(0, len(images), batch_size):
        batch = images[place : place + batch_size]
        expected, found = network(batch), file(batch)
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        scale = np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float32).tiny)
        errors.extend(np.linalg.norm(found - expected, axis=-1) / scale)
    return {
        "images": len(images),
        "agreement": round(100 * same / len(images), 4),
        "logit_error": float(np.median(errors)),
        "largest_logit_error": float(np.max(errors)),
    }


def check(measured: dict[str, Any], of: Sample, limits: Limits) -> None:
    """Refuses a file that is too far from its network.

    Raises:
        BnnError: It is.
    """
    problems = []
    if of.name != RANDOM and measured["agreement"] < limits.agreement:
        problems.append(f"the likeliest class is the same for {measured['agreement']:.2f} %, not {limits.agreement} %")
    if not measured["logit_error"] <= limits.tolerance:
        problems.append(f"the median error of logits is {measured['logit_error']:.2g}, more than {limits.tolerance:g}")
    if problems:
        raise BnnError(
            f"the exported file does not predict what the network predicts: on {measured['images']} images of "
            f"{of.name} {' and '.join(problems)}; nothing was written: choose other floats or another format, or "
            "accept it with --min-agreement and --tolerance"
        )


def logits_of_probabilities(predict: Predictor) -> Predictor:
    """Logits, less a constant, of a file that gives probabilities."""
    return lambda images: np.log(np.maximum(predict(images), np.finfo(np.float32).tiny))


def log_softmax(predict: Predictor) -> Predictor:
    """Logits with the constant that `logits_of_probabilities` has."""
    return lambda images: tf.nn.log_softmax(predict(images)).numpy()
