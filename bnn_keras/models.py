"""Trained networks: from a run directory or from Larq Zoo to a model with weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from bnn_keras import runs
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, resolve
from bnn_keras.runs import Run


def load_run(directory: str | Path, best: bool = False) -> tuple[Experiment, tf.keras.Model]:
    """A run's experiment, and its network with the weights of the last epoch, or of the best one.

    Raises:
        BnnError: There is no run, it has finished no epoch, or its weights are damaged.
    """
    run = Run.read(directory)
    path = run / (runs.BEST_WEIGHTS if best else runs.WEIGHTS)
    if not path.is_file():
        raise BnnError(f"{str(run.directory)!r} has no {path.name}: no epoch is finished; train it first")
    experiment = run.experiment
    model = build_empty(experiment)
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise BnnError(
            f"cannot read {str(path)!r} as the weights of {experiment.network.name} ({error}); train again with --fresh"
        ) from error
    return experiment, model


def build_empty(experiment: Experiment) -> tf.keras.Model:
    """An experiment's network, for weights that are there already: pre-trained ones are not downloaded for it."""
    network = experiment.network
    if network.weights:
        network = network.model_copy(update={"weights": "none"})
    return build_model(experiment.model_copy(update={"network": network}))


def load_teacher(name: str, student: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """What a teacher says of the images that a student sees.

    Args:
        name: A run directory, or a network of Larq Zoo ("zoo/quicknet"), which comes with its weights for ImageNet.
        student: The experiment whose images, normalised as it says, the teacher is given; they are normalised anew as
            the teacher's own.

    Returns:
        A function from images to logits, in inference mode.

    Raises:
        BnnError: There is no such run or network, or it takes images or knows classes of another number.
    """
    if name.startswith("zoo/"):
        experiment = resolve(name, overrides=["network.weights=imagenet"]).experiment
        model = build_model(experiment)
    else:
        experiment, model = load_run(name)
    theirs, ours = ((*one.input_shape, one.data.row.classes) for one in (experiment, student))
    if theirs != ours:
        raise BnnError(
            f"teacher {name!r} takes images {_shape(theirs)} in {theirs[-1]} classes; the student has {_shape(ours)} "
            f"in {ours[-1]}: choose a teacher for the same data"
        )
    scale, shift = _renormalised(student, experiment)
    return lambda images: model(images * tf.cast(scale, images.dtype) + tf.cast(shift, images.dtype), training=False)


def _shape(shape_and_classes: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape_and_classes[:-1]))


def _renormalised(student: Experiment, teacher: Experiment) -> tuple[tf.Tensor, tf.Tensor]:
    """Factor and summand that turn the student's normalisation into the teacher's."""
    mean, std = (tf.constant(values) for values in (student.data.mean, student.data.std))
    teacher_mean, teacher_std = (tf.constant(values) for values in (teacher.data.mean, teacher.data.std))
    return std / teacher_std, (mean - teacher_mean) / teacher_std
