"""Checkpoints of a training, written atomically and verified by digests before they are restored.

A checkpoint is a folder, written at the end of an epoch or within one. It holds the state of the training and copies of
files of the run, which `repair` restores from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from bnn_keras import files, runs
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run

_STATE = "state.json"
_VARIABLES = "variables"
_ARRAYS = "epoch.safetensors"
_SLOT = ".OPTIMIZER_SLOT"  # in TensorFlow's names of an optimizer's state


@dataclasses.dataclass(frozen=True)
class State:
    """Progress of a training, apart from its variables.

    Shuffle order and augmentation need no state: they are functions of seed and epoch.

    Attributes:
        epoch: Finished epochs, over all stages.
        step: Optimizer steps taken, over all stages.
        best_top1: Best test accuracy of the stage so far, in percent.
        metrics_length: Length of metrics.jsonl after the last finished epoch, in bytes.
        imported: Epochs that were finished before the run was imported. They have no rows in metrics.jsonl.
        best_epoch: Epoch of `best_top1`.
        steps_of_epoch: Steps taken in the epoch after the finished ones; 0 at the end of an epoch.
        seconds: Seconds that these steps took.
    """

    epoch: int = 0
    step: int = 0
    best_top1: float = float("-inf")
    metrics_length: int = 0
    imported: int = 0
    best_epoch: int = 0
    steps_of_epoch: int = 0
    seconds: float = 0.0

    @property
    def started_epochs(self) -> int:
        """Number of epochs that are finished or begun."""
        return self.epoch + (self.steps_of_epoch > 0)

    @property
    def name(self) -> str:
        """Name of the checkpoint's folder. Alphabetical order is the order in time."""
        within = f"-step-{self.steps_of_epoch:07d}" if self.steps_of_epoch else ""
        return f"{_name_of_epoch(self.epoch)}{within}"


def _name_of_epoch(epoch: int) -> str:
    return f"epoch-{epoch:05d}"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        folder: Folder with its files.
        state: Progress of the training when it was written.
    """

    folder: Path
    state: State

    def restore(self, model: tf.keras.Model, optimizer: tf.keras.optimizers.legacy.Optimizer | None) -> None:
        """Restore weights and annealed values of the model, and the optimizer's state unless `optimizer` is None.

        Raises:
            BnnError: The checkpoint is of another network, or cannot be read although its digests match.
        """
        try:
            status = _tracked(model, optimizer).read(str(self.folder / _VARIABLES))
            # The optimizer creates its slot variables in the first step; TensorFlow restores them then.
            status.assert_existing_objects_matched().expect_partial()
        except (tf.errors.OpError, AssertionError, ValueError, LookupError) as error:
            reason = str(error).strip().splitlines()[0][:200] or type(error).__name__
            raise BnnError(
                f"cannot restore {str(self.folder)!r} into this network ({reason}); restore the checkpoint from a "
                "backup, or give another --run DIR"
            ) from error

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What was measured in the epoch so far, and what each of several replicas had, by name.

        Raises:
            BnnError: The file cannot be read although its digest matches.
        """
        path = self.folder / _ARRAYS
        try:
            return safetensors.numpy.load_file(path) if path.exists() else {}
        except (OSError, safetensors.SafetensorError) as error:
            raise BnnError(
                f"cannot read {str(path)!r} ({error}); restore the checkpoint from a backup, or give another --run DIR"
            ) from error

    @property
    def has_slots(self) -> bool:
        """Whether it holds the optimizer's state of single weights, as it does after a step."""
        return any(_SLOT in name for name, _ in tf.train.list_variables(str(self.folder / _VARIABLES)))

    def copy_of(self, name: str) -> bytes | None:
        """Return its copy of a file of the run; None in a checkpoint of an earlier version."""
        copy = self.folder / name
        return copy.read_bytes() if copy.is_file() else None


def _tracked(model: tf.keras.Model, optimizer: tf.keras.optimizers.legacy.Optimizer | None) -> tf.train.Checkpoint:
    # The weights instead of the model: tracking a compiled model always tracks its optimizer too.
    annealed = [model.scheme.annealed.variables] if model.scheme.annealed else []
    tracked = {"weights": model.weights, "annealed": annealed, **({"optimizer": optimizer} if optimizer else {})}
    return tf.train.Checkpoint(**tracked)


def save(
    run: Run,
    state: State,
    model: tf.keras.Model,
    optimizer: tf.keras.optimizers.legacy.Optimizer,
    texts: Mapping[str, bytes],
    arrays: Mapping[str, np.ndarray] | None = None,
    keep: int = runs.KEPT,
    on_read: Callable[[], object] = lambda: None,
) -> None:
    """Write a checkpoint and remove old ones.

    Args:
        run: The run.
        state: Progress of the training.
        model: Its weights and annealed values are stored.
        optimizer: Its state is stored.
        texts: Contents of the files of the run to copy, by name.
        arrays: What was measured in the epoch so far, if it is not finished, and what each of several replicas has.
        keep: Number of checkpoints to keep, apart from those of the last finished epoch and of the best one.
        on_read: Called when all variables are read, so that the training can change them. Digests, and writing from
            the operating system's cache to the disk, take most of the time and follow.

    Raises:
        BnnError: The checkpoint cannot be written. The existing checkpoints are then unchanged.
    """
    folder = run / runs.CHECKPOINTS
    with files.writing(folder):
        folder.mkdir(exist_ok=True)
    with files.replacing(folder / state.name) as temporary:
        temporary.mkdir()
        for name, content in texts.items():
            (temporary / name).write_bytes(content)
        if arrays:
            (temporary / _ARRAYS).write_bytes(safetensors.numpy.save(dict(arrays)))
        try:
            _tracked(model, optimizer).write(str(temporary / _VARIABLES))
        except tf.errors.UnavailableError:  # another process ended while variables were added up
            raise
        except tf.errors.OpError as error:
            raise BnnError(files.cannot_write(folder, error.message)) from error
        on_read()
        _write_state(temporary, state)
    _remove_old(run, state, keep)


def replace_copies(checkpoint: Checkpoint, texts: Mapping[str, bytes]) -> None:
    """Replace copies of files of the run in a checkpoint.

    Args:
        checkpoint: The checkpoint.
        texts: New contents by name.

    Raises:
        BnnError: It cannot be written. It is then unchanged.
    """
    with files.replacing(checkpoint.folder) as temporary:
        shutil.copytree(checkpoint.folder, temporary)
        for name, content in texts.items():
            (temporary / name).write_bytes(content)
        (temporary / _STATE).unlink()
        _write_state(temporary, checkpoint.state)


def _write_state(folder: Path, state: State) -> None:
    """Write the state of a checkpoint with the digests of its other files."""
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    document = files.with_digest({**dataclasses.asdict(state), "files": digests})
    (folder / _STATE).write_text(json.dumps(document, indent=2))


def _remove_old(run: Run, state: State, keep: int) -> None:
    """Keep the last `keep` checkpoints up to a state, that of the last finished epoch, and that of the best epoch.

    Later ones than the state are damaged: the training was resumed from one before them.
    """
    names = [folder.name for folder in _folders(run)]
    last = [name for name in names if name <= state.name][:keep]
    for name in set(names) - {*last, _name_of_epoch(state.epoch), _name_of_epoch(state.best_epoch)}:
        files.remove(run / runs.CHECKPOINTS / name)


def latest(run: Run, among: Callable[[State], bool] = lambda state: True) -> Checkpoint | None:
    """Return the newest undamaged checkpoint of a run, or None if there is none.

    Damaged checkpoints are skipped with a warning.

    Args:
        run: The run.
        among: Whether a checkpoint with this state may be returned.

    Raises:
        BnnError: Every checkpoint is damaged.
    """
    undamaged, damaged = verified(run)
    if not undamaged and damaged:
        raise BnnError(
            f"every checkpoint of {str(run.directory)!r} is damaged: {', '.join(damaged)}; restore one from a "
            "backup, or give another --run DIR"
        )
    if damaged:
        used = undamaged[0].folder.name
        warnings.warn(f"damaged checkpoint: {', '.join(damaged)}; {used} is used instead", stacklevel=2)
    return next((checkpoint for checkpoint in undamaged if among(checkpoint.state)), None)


def verified(run: Run) -> tuple[list[Checkpoint], list[str]]:
    """Return the undamaged checkpoints of a run, newest first, and the damaged ones, with the reason of each."""
    undamaged, damaged = [], []
    for folder in _folders(run):
        try:
            undamaged.append(Checkpoint(folder, _verified_state(folder)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            damaged.append(f"{folder.name} ({error})")
    return undamaged, damaged


def number(run: Run) -> int:
    """Return the number of complete checkpoints, damaged or not."""
    return len(_folders(run))


def _folders(run: Run) -> list[Path]:
    """Return the folders of complete checkpoints, newest first."""
    return sorted((run / runs.CHECKPOINTS).glob("epoch-*"), reverse=True)


def _verified_state(folder: Path) -> State:
    document = files.without_digest(json.loads((folder / _STATE).read_text(encoding="utf-8")))
    for name, digest in document["files"].items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} has changed")
    later = {"imported": 0, "best_epoch": 0, "steps_of_epoch": 0, "seconds": 0.0}  # earlier versions lack these fields
    return State(**{field.name: {**later, **document}[field.name] for field in dataclasses.fields(State)})


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
