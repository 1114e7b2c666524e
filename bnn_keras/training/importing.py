"""From a checkpoint of a reference to a run directory that evaluates, trains on and exports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from bnn_keras import catalog, files, interop, runs
from bnn_keras.build import build_model, build_optimizer
from bnn_keras.data import find_data
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Resolution, resolve_for_weights
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run
from bnn_keras.training import checkpoints
from bnn_keras.training.callbacks import save_weights
from bnn_keras.training.environment import environment


def import_checkpoint(
    file: str | Path,
    directory: str | Path,
    network: str,
    *,
    overrides: Iterable[str] = (),
    data_dir: str | None = None,
    command: Sequence[str] = (),
    **choices: Any,
) -> Resolution:
    """Makes a run of a reference's checkpoint: as if it had been trained here, for no epoch yet.

    The experiment is the one that `resolve` finds; where nothing chooses the dataset, it is one with as many classes
    as the checkpoint has. Where the network is the reference's turned by 180°, `network.rotated` is set: the run takes
    images as they are.

    Args:
        file: The checkpoint (`interop.read_checkpoint`).
        directory: The run directory to make.
        network: The network that the checkpoint is of.
        overrides: "dotted.key=value" strings, applied last.
        data_dir: Where prepared datasets are, or the folder of "image_folder".
        command: The command line, for the record.
        **choices: `dataset`, `scheme`, `bits`, `optimizer`, `experiment`, as in `resolve`.

    Returns:
        The experiment of the run, and a line where it is not a recipe as it stands.

    Raises:
        BnnError: The file cannot be read or is refused, tensors are missing, unknown or misshapen, no dataset has as
            many classes, or the directory holds files already.
    """
    row = catalog.find("network", network)
    if row.reference is None:
        known = ", ".join(other.name for other in catalog.NETWORKS.values() if other.reference)
        raise BnnError(f"network {network!r} has no reference in PyTorch to import from; those that have one: {known}")
    tensors = interop.read_checkpoint(file)
    overrides = [f"network.rotated={str(row.reference.rotated).lower()}", *overrides]
    if not choices.get("experiment"):
        own = {"scheme": row.scheme, "bits": None if choices.get("scheme") else row.bits}
        choices |= {name: choices.get(name) or value for name, value in own.items()}
    resolution = resolve_for_weights(network, overrides=overrides, **choices)
    model = build_model(resolution.experiment)
    classes = interop.classes_of(model, tensors)
    if classes not in (None, model.output_shape[-1]) and not (choices.get("dataset") or choices.get("experiment")):
        dataset = _dataset_with(classes, resolution.experiment)
        resolution = resolve_for_weights(network, overrides=overrides, **{**choices, "dataset": dataset})
        model = build_model(resolution.experiment)
    interop.load_reference(model, tensors)
    images = find_data(resolution.experiment, DataLocation(data_dir))
    _write(Run(directory), resolution.experiment, model, environment(resolution.experiment, images, command))
    return resolution


def _dataset_with(classes: int, experiment: Experiment) -> str:
    shape = experiment.data.row.input_shape
    for row in catalog.DATASETS.values():
        if (row.classes, row.input_shape) == (classes, shape):
            return row.name
    raise BnnError(
        f"the checkpoint has {classes} classes, and no dataset with images like those of {experiment.data.name!r} has "
        "as many; choose one with --dataset"
    )


def _write(run: Run, experiment: Experiment, model: tf.keras.Model, found: dict[str, Any]) -> None:
    with run.owned():
        run.refuse_strangers()
        if run.begun:
            raise BnnError(f"{str(run.directory)!r} holds a run already; give another --run DIR")
        stage = experiment.stages[0]
        try:
            save_weights(model, run, runs.WEIGHTS)
            save_weights(model, run, runs.BEST_WEIGHTS)
            checkpoints.save(run, checkpoints.State(), model, build_optimizer(stage.optimizer, stage.epochs))
            files.write_json(run / runs.ENVIRONMENT, found)
            files.write_text(run / runs.EXPERIMENT, experiment.to_toml())
        except BaseException:
            run.clear()
            raise
