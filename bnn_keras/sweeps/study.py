"""The Optuna study of a sweep: its journal file, and the trials in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnn_keras import files
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run
from bnn_keras.sweeps.definition import Sweep

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
OFFSET = "seed_offset"
ERROR = "error"


def import_optuna() -> Any:
    """Import Optuna, and limit its messages to errors.

    Raises:
        BnnError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise BnnError(
            f"sweeps need Optuna, which is not installed ({error}); install it with `pip install 'bnn-keras[sweep]'`"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(directory: Path, seed: int = 0) -> optuna.Study:
    """Open the study of a sweep, or create it.

    Args:
        directory: Folder of the sweep.
        seed: Seed of the points that are drawn.
    """
    optuna = import_optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="sweep",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
    )


@contextlib.contextmanager
def choosing(directory: Path) -> Iterator[None]:
    """Hold the lock of a sweep, so that one process at a time chooses its next trial.

    Optuna's lock is a file that is created exclusively, which also works in folders shared over NFS. A process that was
    killed in the context delays the others by half a minute.
    """
    optuna = import_optuna()
    lock = optuna.storages.journal.JournalFileOpenLock(str(directory / "choosing"))
    with files.writing(directory):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def add_combinations(study: optuna.Study, sweep: Sweep) -> None:
    """Put all trials of a sweep of lists into the queue of its study, each once. Points come before further seeds."""
    queue = [(values, offset) for offset in range(sweep.seeds) for values in sweep.combinations()]
    for values, offset in queue[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial({key: json.dumps(value) for key, value in values.items()}, user_attrs={OFFSET: offset})


def next_trial(study: optuna.Study, sweep: Sweep, directory: Path) -> optuna.Trial | None:
    """Return an interrupted trial, or a new one; None if all are finished or in use. Call it in `choosing`.

    A trial is interrupted if it is running and no process holds the lock of its run directory.
    """
    optuna = import_optuna()
    trials = study.get_trials(deepcopy=False)
    for other in trials:
        if other.state == optuna.trial.TrialState.RUNNING and not run_of(other.number, directory).in_use:
            return optuna.trial.Trial(study, other._trial_id)
    waiting = any(other.state == optuna.trial.TrialState.WAITING for other in trials)
    if not waiting and len(trials) >= sweep.trials:
        return None
    trial = study.ask()
    suggest(trial, sweep)
    if not waiting:
        values = trial.params
        for offset in range(1, sweep.seeds):
            study.enqueue_trial(values, user_attrs={OFFSET: offset})
    return trial


def suggest(trial: optuna.Trial, sweep: Sweep) -> dict[str, Any]:
    """Return the values of a trial by key: those that it has, or new ones."""
    values = {
        key: json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in choices]))
        for key, choices in sweep.vary.items()
    }
    for key, interval in sweep.search.items():
        suggest_number: Any = trial.suggest_int if interval.integers else trial.suggest_float
        values[key] = suggest_number(key, interval.low, interval.high, log=interval.log)
    return values


def run_of(number: int, directory: Path) -> Run:
    """Return the run of a trial."""
    return Run(directory / f"{number:03d}")
