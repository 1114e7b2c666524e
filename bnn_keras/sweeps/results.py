"""Read the trials of a sweep. Needs no TensorFlow."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnn_keras.errors import BnnError
from bnn_keras.sweeps.definition import Sweep, read
from bnn_keras.sweeps.study import ERROR, JOURNAL, OFFSET, import_optuna, open_study, run_of


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training of a sweep.

    Attributes:
        number: Its number, from 0.
        state: "finished", "pruned", "diverged", "running", "interrupted" or "waiting".
        values: Its values by dotted key.
        seed: Its seed.
        accuracy: Top-1 accuracy in percent after the last epoch, on the images that the best epoch is chosen on; None
            unless finished.
        top1: Top-1 accuracy in percent on the test images after the last epoch.
        best_top1: Top-1 accuracy in percent on the test images with the weights of the best epoch.
        epochs: Number of epochs that it has trained.
        run: Its run directory.
        error: Why it diverged.
    """

    number: int
    state: str
    values: dict[str, Any]
    seed: int
    accuracy: float | None
    top1: float | None
    best_top1: float | None
    epochs: int
    run: str
    error: str | None

    def to_document(self) -> dict[str, Any]:
        """Return the trial as a JSON document."""
        return dataclasses.asdict(self)


def results(directory: str | Path) -> list[Trial]:
    """Return the trials of a sweep, by number.

    Raises:
        BnnError: The folder holds no sweep, or a file cannot be read.
    """
    folder = Path(directory)
    sweep = read(folder)
    optuna = import_optuna()
    states = optuna.trial.TrialState
    names = {states.COMPLETE: "finished", states.PRUNED: "pruned", states.FAIL: "diverged", states.WAITING: "waiting"}
    trials = []
    for trial in open_study(folder).get_trials(deepcopy=False) if (folder / JOURNAL).exists() else ():
        run = run_of(trial.number, folder)
        result = run.result or {}
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        values = {key: json.loads(params[key]) if key in sweep.vary else params[key] for key in params}
        trials.append(
            Trial(
                number=trial.number,
                state=names.get(trial.state, "running" if run.in_use else "interrupted"),
                values=values,
                seed=values.get("seed", sweep.experiment.seed) + trial.user_attrs.get(OFFSET, 0),
                accuracy=trial.value if trial.state == states.COMPLETE else None,
                top1=result.get("top1"),
                best_top1=result.get("best_top1"),
                epochs=run.measured_epochs,
                run=str(run.directory),
                error=trial.user_attrs.get(ERROR),
            )
        )
    return trials


def to_csv(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Return the trials as CSV, with a column for each key."""
    text = io.StringIO()
    documents = [trial.to_document() for trial in trials]
    names = [field.name for field in dataclasses.fields(Trial) if field.name != "values"]
    keys = [key for key in sweep.keys if key != "seed"]
    writer = csv.DictWriter(text, [*names[:2], *keys, *names[2:]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**document.pop("values"), **document} for document in documents)
    return text.getvalue()


def plot(directory: str | Path, file: str | Path) -> None:
    """Plot the accuracy of the finished trials over the one or two keys that vary, as means over seeds.

    Two keys with lists give a heat map, one key gives a curve, and ranges give points.

    Raises:
        BnnError: No trial is finished, more than two keys vary, the suffix is unknown, or the file cannot be written.
    """
    from bnn_keras.plots import plot_accuracies

    sweep = read(directory)
    finished = [trial for trial in results(directory) if trial.accuracy is not None]
    if not finished:
        raise BnnError(f"no trial of {str(directory)!r} is finished; continue the sweep with the command that began it")
    keys = [key for key in sweep.keys if key != "seed" and len(sweep.vary.get(key, "ab")) > 1]
    if not 1 <= len(keys) <= 2:
        listed = ", ".join(keys) or "none"
        raise BnnError(f"cannot draw {len(keys)} keys ({listed}); expected one or two that vary; use --csv instead")
    experiment = sweep.experiment
    plot_accuracies(
        [tuple(trial.values[key] for key in keys) for trial in finished],
        [trial.accuracy or 0.0 for trial in finished],
        keys,
        file,
        grid=not sweep.search,
        title=f"{experiment.name}, {experiment.epochs} epoch(s), {sweep.seeds} seed(s)",
        label=f"top-1 on {experiment.best_chosen_on} images in %",
    )
