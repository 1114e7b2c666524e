"""Find missing and damaged files of a run, and restore them from its checkpoints."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnn_keras import checkpoints, files, runs
from bnn_keras.checkpoints import Checkpoint
from bnn_keras.errors import BnnError
from bnn_keras.models import build_empty, stage_at
from bnn_keras.plugins import MissingPluginError
from bnn_keras.runs import Run
from bnn_keras.training.callbacks import save_weights

_MISSING = "is missing"


@dataclasses.dataclass(frozen=True)
class Repair:
    """What `repair` did about one file of a run.

    Attributes:
        name: Name of the file in the run directory.
        defect: What is wrong with it: "is missing", …
        outcome: How it was restored, or what is lost.
        lost: Whether its content is lost.
        kept: Where the damaged file is kept; None if it was missing, or was not replaced.
    """

    name: str
    defect: str
    outcome: str
    lost: bool = False
    kept: str | None = None


def require_intact(run: Run, checkpoint: Checkpoint | None) -> None:
    """Verify all files of a run before a training writes to it.

    Args:
        run: The run. A directory without a run is intact.
        checkpoint: Its newest undamaged checkpoint.

    Raises:
        BnnError: A file is missing or damaged. The message lists all of them.
    """
    defects = find_defects(run, checkpoint)
    found = ", ".join(f"{name} {defect}" for name, defect in defects.items())
    message = f"{str(run.directory)!r} is damaged: {found}; {run.cure}"
    if defects == {runs.BEST_WEIGHTS: _MISSING}:
        warnings.warn(message, stacklevel=2)  # training does not need them, and they can be older than every checkpoint
    elif defects:
        raise BnnError(f"{message}, or give another --run DIR")


def find_defects(run: Run, checkpoint: Checkpoint | None) -> dict[str, str]:
    """Return what is wrong with each missing or damaged file of a run, by name.

    Args:
        run: The run.
        checkpoint: Its newest undamaged checkpoint.
    """
    found: dict[str, str] = {}
    for name, check in _CHECKS.items() if run.begun else ():
        defect = check(run, checkpoint, found)
        if defect:
            found[name] = defect
    return found


def repair(directory: str | Path) -> list[Repair]:
    """Restore the missing and damaged files of a run from its checkpoints.

    Text files and arrays are restored from the copies in the newest undamaged checkpoint, weights from its variables,
    the best weights from the checkpoint of the best epoch if that is one of the last. The next training writes
    result.json. A damaged file that is replaced is renamed to `<name>.damaged-<N>`.

    Args:
        directory: Path of the run directory.

    Returns:
        What was done about each missing or damaged file; nothing if the run is intact.

    Raises:
        BnnError: There is no run, it is in use by another process, or a file cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from bnn_keras import resolve, train
    >>> experiment = resolve("lenet5", dataset="fake", epochs=1, batch_size=8, overrides=["data.examples=8"]).experiment
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train(experiment, folder, plain=True)
    ...     Path(folder, "weights.h5").unlink()
    ...     [repaired] = repair(folder)
    >>> repaired.name, repaired.defect, repaired.outcome
    ('weights.h5', 'is missing', 'written from checkpoint epoch-00001')
    """
    run = Run.read(directory)
    with run.owned():
        undamaged, damaged = checkpoints.verified(run)
        used = f"{undamaged[0].folder.name} is used instead" if undamaged else "no other checkpoint exists"
        repairs = [Repair(f"{runs.CHECKPOINTS}/{text}", "is damaged", used, not undamaged) for text in damaged]
        found: dict[str, str] = {}
        for name, check in _CHECKS.items():
            defect = check(run, undamaged[0] if undamaged else None, found)
            if defect:
                repaired = _REPAIRS[name](run, undamaged, Repair(name, defect, ""))
                repairs.append(repaired)
                if repaired.lost:
                    found[name] = defect
        return repairs


def _check_text(name: str) -> _Check:
    """Return the check of a text file: it can be read and, if a checkpoint has a copy, agrees with it."""

    def check(run: Run, checkpoint: Checkpoint | None, found: Mapping[str, str]) -> str | None:
        copy = checkpoint.copy_of(name) if checkpoint else None
        if not (run / name).exists():
            return _MISSING
        try:
            _READERS[name](run, checkpoint)
        except MissingPluginError:
            raise
        except BnnError:
            return "cannot be read"
        content = (run / name).read_bytes()
        length = len(copy or b"") if name == runs.METRICS else None  # rows of later epochs follow
        if checkpoint and copy not in (None, content[:length]):
            return f"differs from its copy in {checkpoint.folder.name}"
        return None

    return check


def _read_metrics(run: Run, checkpoint: Checkpoint | None) -> None:
    state = checkpoint.state if checkpoint else checkpoints.State()
    epochs = [row["epoch"] for row in run.metrics_until(state.metrics_length)]
    if epochs != list(range(state.imported + 1, state.epoch + 1)):
        raise BnnError(f"rows of the epochs {epochs}; expected all of {state.imported + 1} to {state.epoch}")


_READERS: Mapping[str, Callable[[Run, Checkpoint | None], Any]] = {
    runs.EXPERIMENT: lambda run, checkpoint: run.experiment,
    runs.ENVIRONMENT: lambda run, checkpoint: run.environment,
    runs.METRICS: _read_metrics,
}


def _epochs_here(checkpoint: Checkpoint) -> int:
    """Return the finished epochs that were not imported."""
    return checkpoint.state.epoch - checkpoint.state.imported


def _check_metrics(run: Run, checkpoint: Checkpoint | None, found: Mapping[str, str]) -> str | None:
    expected = _epochs_here(checkpoint) if checkpoint else (run / runs.RESULT).exists()
    return _check_text(runs.METRICS)(run, checkpoint, found) if expected or (run / runs.METRICS).exists() else None


def _check_arrays(run: Run, checkpoint: Checkpoint | None, found: Mapping[str, str]) -> str | None:
    if {runs.EXPERIMENT, runs.ENVIRONMENT} & found.keys() or not run.experiment.data.arrays:
        return None
    if not (run / runs.ARRAYS).exists():
        return _MISSING
    try:
        run.read_arrays()
    except BnnError:
        return "does not match its digest"
    return None


def _check_checkpoints(run: Run, checkpoint: Checkpoint | None, found: Mapping[str, str]) -> str | None:
    """Find checkpoints that are gone. A kill leaves at most metrics and weights of one epoch without its checkpoint."""
    if (run / runs.RESULT).exists() or runs.METRICS in found:
        return None  # a finished run does not need them
    written, epoch = run.measured_epochs, _epochs_here(checkpoint) if checkpoint else 0
    if written > epoch + max(checkpoints.number(run), 1):
        return f"has no undamaged checkpoint after epoch {epoch}, but metrics of {written} epochs exist"
    if checkpoint is None and not written and (run / runs.WEIGHTS).exists():
        return "has no undamaged checkpoint, but weights exist"
    return None


def _check_weights(name: str) -> _Check:
    def check(run: Run, checkpoint: Checkpoint | None, found: Mapping[str, str]) -> str | None:
        if not (run / name).exists():
            first_epoch = checkpoint and checkpoint.state.started_epochs > checkpoint.state.epoch == 0
            return _MISSING if (checkpoint and not first_epoch) or (run / runs.RESULT).exists() else None
        try:
            run.verify_weights(name, among_others=False)
        except BnnError:
            return "does not match its digest"
        try:
            run.verify_weights(name, among_others=not {runs.EXPERIMENT, runs.ENVIRONMENT} & found.keys())
        except BnnError:
            return "is of another training"
        return None

    return check


def _check_result(run: Run, checkpoint: Checkpoint | None, found: Mapping[str, str]) -> str | None:
    try:
        result = run.result
    except BnnError:
        return "cannot be read"
    if result is None or runs.EXPERIMENT in found:
        return None
    experiment = run.experiment
    names = {"experiment": experiment.name, **experiment.chosen}
    expected = {**names, "seed": experiment.seed, "epochs": experiment.epochs}
    return None if expected.items() <= result.items() else "is of another training"


_Check = Callable[[Run, "Checkpoint | None", Mapping[str, str]], "str | None"]
_CHECKS: Mapping[str, _Check] = {
    runs.EXPERIMENT: _check_text(runs.EXPERIMENT),
    runs.ENVIRONMENT: _check_text(runs.ENVIRONMENT),
    runs.ARRAYS: _check_arrays,
    runs.METRICS: _check_metrics,
    runs.CHECKPOINTS: _check_checkpoints,
    runs.WEIGHTS: _check_weights(runs.WEIGHTS),
    runs.BEST_WEIGHTS: _check_weights(runs.BEST_WEIGHTS),
    runs.RESULT: _check_result,
}


def _restore_copy(run: Run, undamaged: Sequence[Checkpoint], found: Repair) -> Repair:
    for checkpoint in undamaged:
        content = checkpoint.copy_of(found.name)
        if content is not None:
            kept = run.set_aside(found.name)
            with files.replacing(run / found.name) as temporary:
                temporary.write_bytes(content)
            return _repaired(found, f"restored from the copy in {checkpoint.folder.name}", kept)
    return _lost(found, "no undamaged checkpoint has a copy")


def _lose_checkpoints(run: Run, undamaged: Sequence[Checkpoint], found: Repair) -> Repair:
    return _lost(found, "the training cannot be resumed; its weights can be evaluated and exported")


def _of_finished_epochs(undamaged: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints at the end of an epoch, of which the files of weights are."""
    return [checkpoint for checkpoint in undamaged if not checkpoint.state.steps_of_epoch]


def _restore_weights(run: Run, undamaged: Sequence[Checkpoint], found: Repair) -> Repair:
    undamaged = _of_finished_epochs(undamaged)
    if not undamaged:
        return _lost(found, "there is no undamaged checkpoint of a finished epoch")
    repaired = _write_weights(run, undamaged[0], found)
    epoch, epochs = undamaged[0].state.epoch, run.experiment.epochs if not repaired.lost else 0
    if epoch < epochs and run.set_aside(runs.RESULT):
        outcome = f"{repaired.outcome}, of epoch {epoch} of {epochs}; `bnnk train` trains the others again"
        repaired = dataclasses.replace(repaired, outcome=outcome)
    return repaired


def _restore_best_weights(run: Run, undamaged: Sequence[Checkpoint], found: Repair) -> Repair:
    """Write the best weights from the checkpoint of the best epoch: the first best one of its stage, or the import."""
    for checkpoint in _of_finished_epochs(undamaged):
        try:
            rows = run.metrics_until(undamaged[0].state.metrics_length)
        except BnnError:
            break
        stage = [row for row in rows if row["stage"] == rows[-1]["stage"]]
        newest = undamaged[0].state
        highest = max(stage, key=lambda row: row["val_top1"]) if stage else {"val_top1": -1, "epoch": 0}
        best = highest["epoch"] if highest["val_top1"] >= newest.best_top1 else newest.imported
        if checkpoint.state.epoch == best:
            return _write_weights(run, checkpoint, found)
    kept = run.set_aside(found.name)
    outcome = f"lost: no undamaged checkpoint is of the best epoch; use {runs.WEIGHTS}"
    return dataclasses.replace(_repaired(found, outcome, kept), lost=True)


def _write_weights(run: Run, checkpoint: Checkpoint, found: Repair) -> Repair:
    try:
        experiment = run.experiment
    except BnnError:
        return _lost(found, f"without {runs.EXPERIMENT}, the network cannot be built")
    model = build_empty(experiment, stage_at(experiment, checkpoint.state.epoch))
    checkpoint.restore(model, None)
    kept = run.set_aside(found.name)
    save_weights(model, run, found.name, run.copied())
    return _repaired(found, f"written from checkpoint {checkpoint.folder.name}", kept)


def _set_result_aside(run: Run, undamaged: Sequence[Checkpoint], found: Repair) -> Repair:
    if not undamaged:
        return _lost(found, f"there is no undamaged checkpoint; {runs.METRICS} has the accuracies")
    return _repaired(found, "renamed; the next `bnnk train` writes it", run.set_aside(found.name))


def _repaired(found: Repair, outcome: str, kept: Path | None) -> Repair:
    return dataclasses.replace(found, outcome=outcome, kept=kept.name if kept else None)


def _lost(found: Repair, reason: str) -> Repair:
    return dataclasses.replace(found, outcome=f"lost: {reason}", lost=True)


_REPAIRS: Mapping[str, Callable[[Run, Sequence[Checkpoint], Repair], Repair]] = {
    runs.EXPERIMENT: _restore_copy,
    runs.ENVIRONMENT: _restore_copy,
    runs.ARRAYS: _restore_copy,
    runs.METRICS: _restore_copy,
    runs.CHECKPOINTS: _lose_checkpoints,
    runs.WEIGHTS: _restore_weights,
    runs.BEST_WEIGHTS: _restore_best_weights,
    runs.RESULT: _set_result_aside,
}
