"""Reproduce published results: train the missing runs and compare measured with published accuracies."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bnn_keras import files
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, experiment_names, resolve
from bnn_keras.runs import Run, default_directory
from bnn_keras.text import markdown_row
from bnn_keras.training import train


class Accuracies(tuple[float, ...]):
    """Accuracies of the runs of an experiment, in percent."""

    @property
    def mean(self) -> float | None:
        """Their mean, or None if there are none."""
        return statistics.fmean(self) if self else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n − 1), or None if there are fewer than two."""
        return statistics.stdev(self) if len(self) > 1 else None

    def __str__(self) -> str:
        """Return "mean ± deviation (n seeds)", or "–" if there are none."""
        spread = f" ± {self.deviation:.2f} ({len(self)} seeds)" if len(self) > 1 else ""
        return f"{self.mean:.2f}{spread}" if self else "–"


@dataclasses.dataclass(frozen=True)
class ReproductionRow:
    """An experiment with its published and measured results.

    Attributes:
        experiment: The experiment.
        name: The name or file that it was requested by.
        overrides: The "dotted.key=value" strings that it was requested with.
        finished: Its finished runs, one per seed.
        failures: Error messages of the runs that failed.
    """

    experiment: Experiment
    name: str
    overrides: tuple[str, ...] = ()
    finished: tuple[Run, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def published(self) -> float | None:
        """Published top-1 accuracy in percent."""
        return self.experiment.published.top1 if self.experiment.published else None

    @property
    def published_of(self) -> str | None:
        """Whether `published` is of the "last" epoch or of the "best" one."""
        return self.experiment.published.of if self.experiment.published else None

    @property
    def last(self) -> Accuracies:
        """Top-1 accuracies of the finished runs after their last epoch."""
        return Accuracies(run.result["top1"] for run in self.finished if run.result)

    @property
    def best(self) -> Accuracies:
        """Top-1 accuracies of the finished runs of their best epoch; none if a run has lost its weights."""
        values = [run.result["best_top1"] for run in self.finished if run.result]
        return Accuracies(() if None in values else values)

    @property
    def difference(self) -> float | None:
        """Measured minus published accuracy, in percentage points, both of the last epoch or both of the best one."""
        measured = (self.best if self.published_of == "best" else self.last).mean
        return None if measured is None or self.published is None else measured - self.published

    @property
    def hours(self) -> float | None:
        """Mean training time of a run, in hours."""
        seconds = [run.result["seconds"] for run in self.finished if run.result]
        return statistics.fmean(seconds) / 3600 if seconds else None

    @property
    def hardware(self) -> str:
        """Hardware that the runs were trained on."""
        return "; ".join(dict.fromkeys(run.environment.get("hardware", "unknown") for run in self.finished))

    @property
    def command(self) -> str:
        """The command that trains the run of the first seed, for a shell. Each next run has the next seed."""
        overrides = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["bnnk", "train", self.experiment.network.name, "--experiment", self.name, *overrides])

    def to_document(self) -> dict[str, Any]:
        """Return the row as a JSON document."""
        experiment = self.experiment
        return {
            "experiment": experiment.name,
            **experiment.chosen,
            "epochs": experiment.epochs,
            "reconstructed": experiment.reconstructed,
            "published": self.published,
            "published_of": self.published_of,
            "last": self.last.mean,
            "last_deviation": self.last.deviation,
            "best": self.best.mean,
            "best_deviation": self.best.deviation,
            "best_chosen_on": experiment.best_chosen_on,
            "seeds": len(self.last),
            "difference": self.difference,
            "hours": self.hours,
            "hardware": self.hardware,
            "command": self.command,
            "runs": [str(run.directory) for run in self.finished],
            "failures": list(self.failures),
        }


def reproduce(
    names: Iterable[str],
    *,
    seeds: int = 1,
    directory: str | Path = "runs",
    overrides: Sequence[str] = (),
    console: Console | None = None,
    after_run: Callable[[Sequence[ReproductionRow]], object] = lambda rows: None,
    **options: Any,
) -> list[ReproductionRow]:
    """Train the missing runs of experiments and resume unfinished ones. Finished runs are not trained again.

    Args:
        names: Names or files of experiments, and papers ("ir_net" stands for all of its experiments).
        seeds: Number of runs of each experiment. The first has the experiment's seed, and each next run the next seed.
        directory: Folder of the run directories, which have their default names.
        overrides: "dotted.key=value" strings, applied to every experiment.
        console: Console to show progress on; standard error if None.
        after_run: Called with the rows after every run.
        **options: Options of `train`: `data_dir`, `manual_dir`, `strategy`, `plain`, `command`.

    Returns:
        A row for each experiment. If a run fails, its row lists the error, and the other runs are trained.

    Raises:
        BnnError: A name is unknown, or an experiment is invalid. No run is trained in that case.
    """
    rows = [
        ReproductionRow(resolve(experiment=name, overrides=overrides).experiment, name, tuple(overrides))
        for name in _expand_papers(names)
    ]
    console = console or Console(stderr=True)
    for offset in range(seeds):
        for index, row in enumerate(rows):
            experiment = row.experiment.model_copy(update={"seed": row.experiment.seed + offset})
            rows[index] = _add_run(row, experiment, Path(directory), console, options)
            after_run(rows)
    return rows


def _add_run(
    row: ReproductionRow, experiment: Experiment, directory: Path, console: Console, options: Mapping[str, Any]
) -> ReproductionRow:
    """Train a run and return the row with the run, or with its error message."""
    run = Run(directory / default_directory(experiment).name)
    console.print(f"{experiment.name}, seed {experiment.seed} → {run.directory}", highlight=False, soft_wrap=True)
    try:
        _require_recipe(run)
        train(experiment, run.directory, console=console, **options)
    except BnnError as error:
        console.print(f"failed: {error}", style="red", highlight=False, soft_wrap=True)
        return dataclasses.replace(row, failures=(*row.failures, f"seed {experiment.seed}: {error}"))
    return dataclasses.replace(row, finished=(*row.finished, run))


def _require_recipe(run: Run) -> None:
    """Verify that a run was not started from the weights of another run, which the recipe does not have."""
    if run.begun and run.start:
        raise BnnError(
            f"{str(run.directory)!r} was started from {run.start['path']!r}, which is not its recipe; rename the "
            "folder, or choose another folder of runs"
        )


def _expand_papers(names: Iterable[str]) -> list[str]:
    """Replace the name of each paper by the names of its experiments."""
    shipped = experiment_names()
    papers = sorted({name.split("/")[0] for name in shipped})
    stems = {name.split("/")[1] for name in shipped}
    expanded: list[str] = []
    for name in names:
        if name in papers:
            expanded += [experiment for experiment in shipped if experiment.startswith(f"{name}/")]
        elif name in stems or "/" in name or name.endswith(".toml"):
            expanded.append(name)  # `resolve` raises an error if it does not exist
        else:
            raise BnnError(unknown("experiment or paper", name, [*papers, *shipped]))
    return list(dict.fromkeys(expanded))


COLUMNS = (
    "experiment",
    "bits",
    "epochs",
    "published",
    "last",
    "best",
    "difference",
    "hours",
    "hardware",
    "command",
    "run",
)


def cells(row: ReproductionRow) -> list[str]:
    """Return the formatted cells of a row, in the order of `COLUMNS`. A * marks a reconstructed recipe."""
    document = row.to_document()
    return [
        document["experiment"] + ("*" if document["reconstructed"] else ""),
        document["bits"],
        str(document["epochs"]),
        _published(row.experiment),
        "failed" if row.failures and not row.last else str(row.last),
        str(row.best),
        "–" if row.difference is None else f"{row.difference:+.2f}",
        "–" if row.hours is None else f"{row.hours:.2f}",
        row.hardware or "–",
        row.command,
        ", ".join(document["runs"]) or "–",
    ]


def _published(experiment: Experiment) -> str:
    figure = experiment.published
    if figure is None:
        return "–"
    return f"{figure.top1:g}" + (f" ± {figure.top1_deviation:g}" if figure.top1_deviation else "") + f" ({figure.of})"


def write_table(rows: Sequence[ReproductionRow], file: str | Path) -> tuple[Path, Path]:
    """Write `file`.csv with all values, and `file`.md with the cells of `COLUMNS`.

    Returns:
        The paths of the two files.

    Raises:
        BnnError: A file cannot be written.
    """
    path = Path(file)
    csv_path, md_path = path.with_name(f"{path.name}.csv"), path.with_name(f"{path.name}.md")
    with files.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(csv_path, _csv(rows))
    files.write_text(md_path, _markdown(rows))
    return csv_path, md_path


def _csv(rows: Sequence[ReproductionRow]) -> str:
    documents = [row.to_document() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(documents[0]), lineterminator="\n")
    writer.writeheader()
    for document in documents:
        writer.writerow(
            {key: "; ".join(value) if isinstance(value, list) else value for key, value in document.items()}
        )
    return text.getvalue()


def _markdown(rows: Sequence[ReproductionRow]) -> str:
    lines = [
        "Top-1 accuracy on the test images in percent, after the last epoch and after the best one. The best epoch is",
        "chosen on the test images too if the recipe holds out no others. The difference is that of the epoch which",
        "the source reports. Hours are those of one run. A * marks a reconstructed recipe: its source gives none for",
        "this dataset.",
        "",
        markdown_row(COLUMNS),
        f"|{'---|' * len(COLUMNS)}",
    ]
    for row in rows:
        *others, command, run = cells(row)
        lines.append(markdown_row([*others, f"`{command}`", run]))
    return "\n".join(lines) + "\n"
