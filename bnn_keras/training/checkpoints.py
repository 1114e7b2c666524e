"""Checkpoints: whole or absent, and known to be undamaged before anything of them is used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path

import tensorflow as tf

from bnn_keras import files, runs
from bnn_keras.errors import BnnError
from bnn_keras.quantizers import annealed_of
from bnn_keras.runs import Run

KEPT = 2
_STATE = "state.json"
_VARIABLES = "variables"


@dataclasses.dataclass(frozen=True)
class State:
    """Where a training stands, beside its variables. Order and augmentation follow from seed and epoch.

    Attributes:
        epoch: Epochs finished, of all stages.
        step: Optimizer steps taken, of all stages.
        best_top1: Best test accuracy so far, in percent.
        metrics_length: Bytes of metrics.jsonl that belong to the finished epochs.
    """

    epoch: int = 0
    step: int = 0
    best_top1: float = float("-inf")
    metrics_length: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint on the disk."""

    folder: Path
    state: State

    def restore(self, model: tf.keras.Model, optimizer: tf.keras.optimizers.legacy.Optimizer | None) -> None:
        """Gives the model, and the optimizer where there is one, what they had."""
        status = _parts(model, optimizer).read(str(self.folder / _VARIABLES))
        # Slots come to be in the first step and take their values then.
        status.assert_existing_objects_matched().expect_partial()


def _parts(model: tf.keras.Model, optimizer: tf.keras.optimizers.legacy.Optimizer | None) -> tf.train.Checkpoint:
    # The weights and not the model: a compiled model brings its optimizer along, wanted or not.
    annealed = [each.variables for each in annealed_of(model)]
    parts = {"weights": model.weights, "annealed": annealed, **({"optimizer": optimizer} if optimizer else {})}
    return tf.train.Checkpoint(**parts)


def save(run: Run, state: State, model: tf.keras.Model, optimizer: tf.keras.optimizers.legacy.Optimizer) -> None:
    """Writes a checkpoint and removes those older than the last two.

    Raises:
        BnnError: It cannot be written; the older ones are then as they were.
    """
    folder = run / runs.CHECKPOINTS
    with files.writing(folder):
        folder.mkdir(exist_ok=True)
    with files.replacing(folder / f"epoch-{state.epoch:05d}") as temporary:
        temporary.mkdir()
        try:
            _parts(model, optimizer).write(str(temporary / _VARIABLES))
        except tf.errors.OpError as error:
            raise BnnError(files.cannot_write(folder, error.message)) from error
        digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        (temporary / _STATE).write_text(json.dumps({**dataclasses.asdict(state), "files": digests}, indent=2))
    for old in _folders(run)[KEPT:]:
        files.remove(old)


def latest(run: Run) -> Checkpoint | None:
    """The newest undamaged checkpoint of a run; None where no epoch was finished.

    A damaged one is passed over with a warning.

    Raises:
        BnnError: There are checkpoints, and all are damaged.
    """
    damaged = []
    for folder in _folders(run):
        try:
            checkpoint = Checkpoint(folder, _verified_state(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged.append(f"{folder.name} ({error})")
            continue
        if damaged:
            warnings.warn(f"damaged: {', '.join(damaged)}; going on from {folder.name} instead", stacklevel=2)
        return checkpoint
    if damaged:
        raise BnnError(
            f"every checkpoint of {str(run.directory)!r} is damaged: {', '.join(damaged)}; start over with --fresh"
        )
    return None


def _folders(run: Run) -> list[Path]:
    """Folders of complete checkpoints, newest first."""
    return sorted((run / runs.CHECKPOINTS).glob("epoch-*"), reverse=True)


def _verified_state(folder: Path) -> State:
    document = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    for name, digest in document.pop("files").items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} has changed")
    return State(**document)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
