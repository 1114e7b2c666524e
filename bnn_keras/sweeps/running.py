"""Train the trials of a sweep, beside other processes that do the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bnn_keras import files
from bnn_keras.errors import BnnError, DivergedError, InUseError
from bnn_keras.runs import Run
from bnn_keras.sweeps import definition
from bnn_keras.sweeps.definition import Sweep
from bnn_keras.sweeps.results import Trial, results
from bnn_keras.sweeps.study import (
    ERROR,
    OFFSET,
    add_combinations,
    choosing,
    import_optuna,
    next_trial,
    open_study,
    run_of,
    suggest,
)
from bnn_keras.training import train
from bnn_keras.training.distribution import choose_strategy

if TYPE_CHECKING:
    import optuna


def sweep(sweep: Sweep, directory: str | Path, *, console: Console | None = None, **options: Any) -> list[Trial]:
    """Train the trials of a sweep that no process has trained and none is training.

    Start it several times, also on machines that share the folder, to share the work. A trial is a run directory,
    `<directory>/<number>`. A trial of a process that was interrupted or killed is resumed from its checkpoint, by a
    process that looks for its next trial or by the next call. Trials whose losses diverge end as such, any other error
    ends the call, and the trial can be resumed.

    Args:
        sweep: The sweep, of `definition.define`.
        directory: Folder of the sweep; created if it does not exist.
        console: Console to show progress on; standard error if None.
        **options: Options of `train`: `data_dir`, `manual_dir`, `strategy`, `precision`, `jit`, `plain`, `command`.

    Returns:
        All trials of the sweep.

    Raises:
        BnnError: Optuna is not installed; the strategy is "multiworker"; the folder holds another sweep or cannot be
            written; a training failed.

    >>> import tempfile
    >>> from bnn_keras import resolve
    >>> from bnn_keras.sweeps.definition import define
    >>> overrides = ["data.examples=8"]
    >>> experiment = resolve("lenet5", dataset="fake", epochs=1, batch_size=8, overrides=overrides).experiment
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trials = sweep(define(experiment, {"scheme.bits": ["1/32"]}), folder, console=Console(quiet=True))
    >>> [(trial.values, trial.state) for trial in trials]
    [({'scheme.bits': '1/32'}, 'finished')]
    """
    import_optuna()
    if choose_strategy(options.get("strategy", "auto")) == "multiworker":
        raise BnnError(
            "strategy 'multiworker' trains one trial in all processes; expected a strategy of one process: give "
            "--strategy single or mirrored, and start the command in each process"
        )
    folder, console = Path(directory), console or Console(stderr=True)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with choosing(folder):
        definition.write(sweep, folder)
        if not sweep.search:
            add_combinations(open_study(folder), sweep)
    while True:
        with choosing(folder):
            study = open_study(folder, sweep.experiment.seed)
            # Processes that start together draw different points, because each draws after the others.
            study = open_study(folder, sweep.experiment.seed + len(study.get_trials(deepcopy=False)))
            if sweep.prune:
                study.pruner = import_optuna().pruners.MedianPruner()
            trial = next_trial(study, sweep, folder)
        if trial is None:
            return results(folder)
        _train(study, trial, sweep, run_of(trial.number, folder), console, options)


def _train(
    study: optuna.Study, trial: optuna.Trial, sweep: Sweep, run: Run, console: Console, options: Mapping[str, Any]
) -> None:
    """Train or resume a trial, and record its result in the study."""
    optuna = import_optuna()
    states = optuna.trial.TrialState
    values = suggest(trial, sweep)
    experiment = sweep.at(values, trial.user_attrs.get(OFFSET, 0))
    shown = ", ".join(f"{key} = {value}" for key, value in values.items())
    line = f"trial {trial.number + 1} of {sweep.trials}: {shown}, seed {experiment.seed} → {run.directory}"
    console.print(line, highlight=False, soft_wrap=True)

    def report(row: Mapping[str, Any]) -> None:
        trial.report(row["val_top1"], int(row["epoch"]))
        if sweep.prune and trial.should_prune():
            study.tell(trial, state=states.PRUNED)  # while this process owns the run: no other resumes it
            raise optuna.TrialPruned

    try:
        train(experiment, run.directory, console=console, after_epoch=report, **options)
    except InUseError:  # another process resumed the trial between our choice and our lock
        return
    except optuna.TrialPruned:
        console.print("stopped: below the median of the other trials", highlight=False)
    except DivergedError as error:
        console.print(f"diverged: {error}", highlight=False, soft_wrap=True)
        trial.set_user_attr(ERROR, str(error))
        study.tell(trial, state=states.FAIL, skip_if_finished=True)
    else:
        study.tell(trial, run.metrics[-1]["val_top1"], skip_if_finished=True)
