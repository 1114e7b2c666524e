"""Trained networks as Keras models: from a run directory, or pre-trained from Larq Zoo."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras import catalog, runs
from bnn_keras.build import build_model
from bnn_keras.constraints import apply_constraints
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Stage, resolve
from bnn_keras.runs import Run


def load_run(directory: str | Path, best: bool = False, constrain: bool = True) -> tuple[Experiment, tf.keras.Model]:
    """Load the experiment and the trained network of a run.

    Args:
        directory: The run directory.
        best: Load the weights of the best epoch instead of the last.
        constrain: Whether to apply the constraints of the model to imported weights that were not trained here yet.
            Without that, latent weights are those of the imported file bit by bit.

    Returns:
        The experiment, and a model from normalised images (batch, height, width, channels) to logits (batch, classes).
        Its kernels are the latent weights; the layers binarize them in the forward pass.

    Raises:
        BnnError: The directory has no run, the run has not finished an epoch, or its weights are damaged.

    Example:
        A training writes a run (`train`), and so does the import of a checkpoint:

        >>> import tempfile
        >>> import numpy as np
        >>> from bnn_keras import import_checkpoint, interop, resolve
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     _ = import_checkpoint(f"{folder}/checkpoint.npz", f"{folder}/run", "lenet5", dataset="fake")
        ...     experiment, model = load_run(f"{folder}/run")
        >>> experiment.network.name, model.output_shape
        ('lenet5', (None, 10))
    """
    run = Run.read(directory)
    name = runs.BEST_WEIGHTS if best else runs.WEIGHTS
    experiment = run.experiment
    run.verify_weights(name)
    model = build_empty(experiment)
    try:
        load_weights(model, run, name, constrain)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BnnError(
            f"cannot read {str(run / name)!r} as the weights of {experiment.network.name} ({error}); {run.cure}"
        ) from error
    return experiment, model


def load_weights(model: tf.keras.Model, run: Run, name: str, constrain: bool = True) -> None:
    """Load a file of weights of a run into a model, and apply its constraints if they do not hold for the file.

    Args:
        model: The network.
        run: The run.
        name: Name of the file.
        constrain: Whether to apply constraints at all.
    """
    model.load_weights(run / name)
    if constrain and run.unconstrained(name):
        apply_constraints(model)


def build_empty(experiment: Experiment, stage: Stage | None = None) -> tf.keras.Model:
    """Build the network of an experiment, in a stage or the last one, for weights that are loaded later.

    Pre-trained weights of Larq Zoo are not downloaded.
    """
    network = experiment.network
    if "weights" in network.choices:
        network = network.model_copy(update={"weights": "none"})
    return build_model(experiment.model_copy(update={"network": network}), stage)


def stage_at(experiment: Experiment, epoch: int) -> Stage:
    """Return the stage that ends, or is trained, after a number of epochs.

    >>> stage_at(resolve("lenet5").experiment, 1).epochs
    60
    """
    end = 0
    for stage in experiment.stages:
        end += stage.epochs
        if epoch <= end:
            return stage
    return experiment.stages[-1]


def load_teacher(name: str, student: Experiment) -> Callable[[tf.Tensor], tf.Tensor]:
    """Load a teacher for distillation.

    Args:
        name: A run directory, or a network of Larq Zoo ("zoo/quicknet"), which is loaded with its ImageNet weights.
        student: The experiment of the student, whose images the teacher receives. The images are converted from the
            student's normalisation to the teacher's.

    Returns:
        A function from the student's images to the teacher's logits, in inference mode.

    Raises:
        BnnError: The run or the network does not exist, it expects other images or classes than the student, or Larq
            Zoo is not installed.
    """
    if name.startswith("zoo/"):
        experiment = resolve(name, overrides=["network.weights=imagenet"]).experiment
        model = build_model(experiment)
    else:
        if not Run(name).begun:
            raise BnnError(_missing_teacher(name))
        try:
            experiment, model = load_run(name)
        except BnnError as error:
            raise BnnError(f"cannot load the teacher: {error}") from error
    expected, received = ((*item.input_shape, item.data.row.classes) for item in (experiment, student))
    if expected != received:
        raise BnnError(
            f"teacher {name!r} takes images {_shape(expected)} in {expected[-1]} classes; the student has "
            f"{_shape(received)} in {received[-1]}: choose a teacher for the same data"
        )
    if not _same_arrays(student, experiment):
        raise BnnError(
            f"teacher {name!r} has another mean image or whitening than its student; choose a teacher with the same "
            "data.mean_image, data.whiten and data.channels, or one of a student without them"
        )
    scale, shift = _normalisation_change(student, experiment)
    order = 1 if student.data.channels == experiment.data.channels else -1
    return lambda images: model(
        images[..., ::order] * tf.cast(scale, images.dtype) + tf.cast(shift, images.dtype), training=False
    )


def _same_arrays(student: Experiment, teacher: Experiment) -> bool:
    """Return whether two experiments have the same arrays of preprocessing, to rounding, in the same order of channels.

    Images that were preprocessed with them cannot be converted to others.
    """
    if student.data.arrays != teacher.data.arrays:
        return False
    if student.data.arrays and student.data.channels != teacher.data.channels:
        return False
    return all(
        student.arrays[name].shape == values.shape and np.allclose(student.arrays[name], values, rtol=1e-4, atol=1e-5)
        for name, values in teacher.arrays.items()
    )


def _missing_teacher(directory: str) -> str:
    """Return the error message for a missing teacher. A folder with the name of a network is meant to hold that one."""
    network = Path(directory).name if Path(directory).name in catalog.NETWORKS else "NETWORK"
    folder = shlex.quote(directory)
    return (
        f"cannot load the teacher: no run in {directory!r}; create it with `bnnk import CHECKPOINT --network {network} "
        f"--run {folder}` or `bnnk train {network} --run {folder}`, or set stages.N.distillation.teacher to another run"
    )


def _shape(shape_and_classes: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape_and_classes[:-1]))


def _normalisation_change(student: Experiment, teacher: Experiment) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the scale and shift that convert the student's normalised images to the teacher's normalisation.

    They apply to images whose channels are in the order of the teacher.
    """
    order = 1 if student.data.channels == teacher.data.channels else -1
    mean, std = (tf.constant(values[::order]) for values in (student.data.mean, student.data.std))
    teacher_mean, teacher_std = (tf.constant(values) for values in (teacher.data.mean, teacher.data.std))
    return std / teacher_std, (mean - teacher_mean) / teacher_std
