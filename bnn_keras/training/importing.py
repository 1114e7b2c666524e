"""Convert a checkpoint of a reference implementation into a run, for evaluation, further training and export."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog, checkpoints, files, interop, runs
from bnn_keras.build import build_model, build_optimizer
from bnn_keras.constraints import apply_constraints
from bnn_keras.data import Dataset, find_data, hold_out, make_arrays, open_data, steps_per_epoch
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Resolution, Stage, resolve_for_weights, with_absolute_paths
from bnn_keras.export.sidecar import sha256_of
from bnn_keras.location import DataLocation
from bnn_keras.runs import Run
from bnn_keras.training.callbacks import save_weights
from bnn_keras.training.environment import collect_environment


def import_checkpoint(
    file: str | Path,
    directory: str | Path,
    network: str,
    *,
    overrides: Iterable[str] = (),
    weights_only: bool = False,
    data_dir: str | None = None,
    command: Sequence[str] = (),
    **choices: Any,
) -> Resolution:
    """Create a run from a checkpoint of a reference implementation.

    Epoch, best accuracy and the optimizer's state are imported too if the file has them, so that a training goes on:
    the next epoch is the one after the last finished one. The state is imported if the experiment's optimizer has
    PyTorch's slots of the same names.

    The experiment is the one that `resolve` finds. If neither `dataset` nor `experiment` is given, the dataset is one
    with the number of classes of the checkpoint. For networks that match their reference after a rotation by 180°,
    `network.rotated` is set to true, so that the run takes upright images. A run of several stages begins with the
    first one that trains the imported scheme at its bits: from the weights of ReActNet's second step, only that step is
    trained further.

    Args:
        file: Path of the checkpoint; `interop.read_checkpoint` lists the formats.
        directory: Path of the run directory to create.
        network: Name of the network that the checkpoint belongs to.
        overrides: "dotted.key=value" strings, applied last.
        weights_only: Leave epoch, best accuracy and the optimizer's state out: a training begins anew.
        data_dir: Folder of prepared datasets; for "image_folder", the folder of images.
        command: Command line to record in environment.json.
        **choices: `dataset`, `scheme`, `bits`, `optimizer` and `experiment`, as for `resolve`.

    Returns:
        The experiment of the run, with a note if it is not a recipe without changes.

    Raises:
        BnnError: The file cannot be read or is unsafe to read; tensors are missing, unknown or of the wrong shape; no
            dataset has the checkpoint's number of classes; epoch, accuracy or the optimizer's state are not those of
            the reference's trainer; or the directory is not empty.

    >>> import tempfile
    >>> import numpy as np
    >>> from bnn_keras import build_model, import_checkpoint, interop, resolve
    >>> model = build_model(resolve("lenet5").experiment)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/lenet5.npz", **interop.to_reference(model))
    ...     resolution = import_checkpoint(f"{folder}/lenet5.npz", f"{folder}/run", "lenet5")
    >>> resolution.experiment.name
    'xnor_net/lenet5_mnist_5k'
    """
    row = catalog.find("network", network)
    if row.reference is None:
        known = ", ".join(other.name for other in catalog.NETWORKS.values() if other.reference)
        raise BnnError(f"network {network!r} has no reference to import from; networks that have one: {known}")
    content = interop.read_content(file)
    resolution, model = _with_weights(row, content.tensors, list(overrides), choices)
    experiment, location = _remaining(resolution.experiment), DataLocation(data_dir)
    arrays = make_arrays(experiment, lambda: hold_out(open_data(experiment, location), experiment))
    experiment = experiment.with_arrays(lambda: arrays)
    dataset = find_data(experiment, location)
    progress = interop.Progress() if weights_only else interop.read_progress(model, content)
    stage = experiment.stages[0]
    optimizer = build_optimizer(stage.optimizer, stage.epochs)
    taken = _load_slots(optimizer, model, progress)
    state = _state(progress, stage.epochs, _steps(dataset, experiment))
    record = {
        "file": str(file),
        "sha256": sha256_of(interop.find_checkpoint(file)),
        "epochs": state.epoch,
        "best_top1": progress.best_top1,
        "optimizer_state": taken,
    }
    environment = {**collect_environment(experiment, dataset, command), "imported": record}
    _write_run(Run(directory), experiment, model, optimizer, state, environment)
    note = "; ".join(filter(None, (resolution.note, *_left_out(progress, stage, taken))))
    return dataclasses.replace(resolution, experiment=experiment, note=note or None)


def _with_weights(
    row: catalog.NetworkRow, tensors: Mapping[str, np.ndarray], overrides: list[str], choices: dict[str, Any]
) -> tuple[Resolution, tf.keras.Model]:
    """Return the experiment that has the network of a checkpoint, and the network with its weights."""
    if not choices.get("experiment"):
        defaults = {"scheme": row.scheme, "bits": None if choices.get("scheme") else row.bits}
        choices = choices | {name: choices.get(name) or value for name, value in defaults.items()}
    experiment = resolve_for_weights(row.name, overrides=overrides, **choices).experiment
    scheme = experiment.scheme_of(experiment.stages[-1])
    layout = row.layout(scheme.name, scheme.bits, experiment.network.choices.get("variant", ""))
    overrides = [f"network.rotated={str(bool(layout and layout.rotated)).lower()}", *overrides]
    resolution = resolve_for_weights(row.name, overrides=overrides, **choices)
    model = build_model(resolution.experiment)
    tensors = interop.with_layer_names(model, tensors)
    classes = interop.classes_of(model, tensors)
    if classes not in (None, model.output_shape[-1]) and not (choices.get("dataset") or choices.get("experiment")):
        dataset = _dataset_with_classes(classes, resolution.experiment)
        resolution = resolve_for_weights(row.name, overrides=overrides, **{**choices, "dataset": dataset})
        model = build_model(resolution.experiment)
    interop.load_reference(model, tensors, constrain=False)
    return resolution, model


def _state(progress: interop.Progress, epochs: int, steps_per_epoch: int) -> checkpoints.State:
    """Return where a training of this number of epochs goes on."""
    epoch = min(progress.epoch, epochs)
    step = epoch * steps_per_epoch if epoch and progress.step is None else progress.step or 0
    best = -math.inf if progress.best_top1 is None else progress.best_top1
    return checkpoints.State(epoch, step, best, imported=epoch, best_epoch=epoch)


def _left_out(progress: interop.Progress, stage: Stage, taken: bool) -> Iterator[str]:
    """Yield a note on each part of a checkpoint that is not imported."""
    if progress.slots and not taken:
        slots = ", ".join(progress.slots)
        yield f"the optimizer's state is not imported: {stage.optimizer.name} has none of {slots}"
    if progress.epoch > stage.epochs:
        yield f"the checkpoint has {progress.epoch} epochs; its stage here ends after {stage.epochs}"


def _load_slots(
    optimizer: tf.keras.optimizers.legacy.Optimizer, model: tf.keras.Model, progress: interop.Progress
) -> bool:
    """Set the state of an optimizer to that of a reference's; return whether it has all of the slots."""
    names = getattr(optimizer, "torch_state", {})
    if not progress.slots or not progress.slots.keys() <= names.keys():
        return False
    optimizer._create_all_weights(model.trainable_variables)
    for tensor in interop.tensors_of(model):
        for name, values in progress.slots.items():
            if tensor.name in values:
                slot = optimizer.get_slot(tensor.variable, names[name])
                slot.assign(tensor.from_reference(values[tensor.name]))
    optimizer.iterations.assign(progress.step or 0)
    return True


def _steps(dataset: Dataset, experiment: Experiment) -> int:
    """Return the number of steps of an epoch; 0 if the number of images is unknown, or too small to train."""
    named = isinstance(experiment.data.validation, str)  # another split, which may not be prepared
    held, stage = dataset if named else hold_out(dataset, experiment), experiment.stages[0]
    return steps_per_epoch(held, stage) if held.examples(held.info.train) >= stage.batch_size else 0


def _remaining(experiment: Experiment) -> Experiment:
    """Return an experiment without the stages before the first one with the scheme and bits of its last one."""
    schemes = [experiment.scheme_of(stage) for stage in experiment.stages]
    trained = [(scheme.name, scheme.bits) for scheme in schemes]
    stages = experiment.stages[trained.index(trained[-1]) :]
    return with_absolute_paths(experiment.model_copy(update={"stages": stages}))


def _dataset_with_classes(classes: int, experiment: Experiment) -> str:
    shape = experiment.data.row.input_shape
    for row in catalog.DATASETS.values():
        if (row.classes, row.input_shape) == (classes, shape):
            return row.name
    raise BnnError(
        f"the checkpoint has {classes} classes, but no dataset with images of the shape of {experiment.data.name!r} "
        "does; choose a dataset with --dataset"
    )


def _write_run(
    run: Run,
    experiment: Experiment,
    model: tf.keras.Model,
    optimizer: tf.keras.optimizers.legacy.Optimizer,
    state: checkpoints.State,
    environment: dict[str, Any],
) -> None:
    with run.owned():
        run.refuse_other_files()
        if run.begun:
            raise BnnError(f"{str(run.directory)!r} holds a run already; give another --run DIR")
        environment = {**environment, **run.write_arrays(experiment)}
        texts = {runs.EXPERIMENT: experiment.to_toml(), runs.ENVIRONMENT: files.to_json(environment)}
        contents = {name: text.encode() for name, text in texts.items()}
        try:
            copied = run.copied() | contents
            save_weights(model, run, runs.WEIGHTS, contents, constrained=False)
            save_weights(model, run, runs.BEST_WEIGHTS, contents, constrained=False)
            apply_constraints(model)
            checkpoints.save(run, state, model, optimizer, copied)
            run.copy_plugins(experiment)
            for name, text in reversed(texts.items()):  # the experiment last: with it, the run is complete
                files.write_text(run / name, text)
        except BaseException:
            run.clear()
            raise
