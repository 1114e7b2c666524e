"""Published against measured: trains what is missing and makes the table."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bnn_keras import files
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, experiment_names, resolve
from bnn_keras.runs import Run, default_directory
from bnn_keras.training import train


@dataclasses.dataclass(frozen=True)
class Row:
    """An experiment, what was published of it and what was measured.

    Attributes:
        experiment: What was trained.
        finished: Its finished runs, one for each seed.
        failures: Why others are missing.
    """

    experiment: Experiment
    finished: tuple[Run, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def published(self) -> float | None:
        """Top-1 in percent."""
        return self.experiment.published.top1 if self.experiment.published else None

    @property
    def top1(self) -> list[float]:
        """Top-1 in percent after the last epoch, of each seed."""
        return [run.result["top1"] for run in self.finished if run.result]

    @property
    def measured(self) -> float | None:
        """Their mean."""
        return statistics.fmean(self.top1) if self.top1 else None

    @property
    def deviation(self) -> float | None:
        """Their standard deviation (n − 1), where there are two or more."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None

    @property
    def difference(self) -> float | None:
        """Measured less published."""
        return None if self.measured is None or self.published is None else self.measured - self.published

    @property
    def hours(self) -> float | None:
        """Of one run, on average."""
        seconds = [run.result["seconds"] for run in self.finished if run.result]
        return statistics.fmean(seconds) / 3600 if seconds else None

    @property
    def hardware(self) -> str:
        """What the runs were computed on."""
        return "; ".join(dict.fromkeys(run.environment.get("hardware", "unknown") for run in self.finished))

    @property
    def command(self) -> str:
        """The command that trains one of the runs."""
        return f"bnnk train {self.experiment.network.name} --experiment {self.experiment.name}"

    def to_document(self) -> dict[str, Any]:
        """The row as plain values."""
        one = self.experiment
        return {
            "experiment": one.name,
            **one.chosen,
            "epochs": one.epochs,
            "reconstructed": one.reconstructed,
            "published": self.published,
            "measured": self.measured,
            "deviation": self.deviation,
            "seeds": len(self.top1),
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
    finished: Callable[[Sequence[Row]], None] = lambda rows: None,
    **options: Any,
) -> list[Row]:
    """Trains the runs of experiments that are missing, goes on with those that were cut, and leaves finished ones.

    Args:
        names: Experiments (names or files) and papers ("ir_net": all of its experiments).
        seeds: Runs of each: with its own seed, the next one, and so on.
        directory: Where the run directories are, under their default names.
        overrides: "dotted.key=value" strings for all of them.
        console: Where progress is shown.
        finished: Is given the rows so far after every run.
        **options: As for `train`: `data_dir`, `manual_dir`, `strategy`, `plain`, `command`.

    Returns:
        A row for each experiment. A run that fails is noted in it, and the others are trained.

    Raises:
        BnnError: A name is unknown, or an experiment has errors; nothing is trained then.
    """
    rows = [Row(resolve(experiment=name, overrides=overrides).experiment) for name in _expanded(names)]
    console = console or Console(stderr=True)
    for offset in range(seeds):
        for place, row in enumerate(rows):
            seeded = row.experiment.model_copy(update={"seed": row.experiment.seed + offset})
            rows[place] = _with_run(row, seeded, Path(directory), console, options)
            finished(rows)
    return rows


def _with_run(row: Row, experiment: Experiment, directory: Path, console: Console, options: Any) -> Row:
    run = Run(directory / default_directory(experiment).name)
    console.print(f"{experiment.name}, seed {experiment.seed} → {run.directory}", highlight=False, soft_wrap=True)
    try:
        train(experiment, run.directory, console=console, **options)
    except BnnError as error:
        console.print(f"failed: {error}", style="red", highlight=False, soft_wrap=True)
        return dataclasses.replace(row, failures=(*row.failures, f"seed {experiment.seed}: {error}"))
    return dataclasses.replace(row, finished=(*row.finished, run))


def _expanded(names: Iterable[str]) -> list[str]:
    """Experiments, with those of a paper in the place of its name."""
    shipped = experiment_names()
    papers = sorted({name.split("/")[0] for name in shipped})
    stems = {name.split("/")[1] for name in shipped}
    found = []
    for name in names:
        if name in papers:
            found += [one for one in shipped if one.startswith(f"{name}/")]
        elif name in stems or "/" in name or name.endswith(".toml"):
            found.append(name)  # `resolve` reads it, or says why not
        else:
            raise BnnError(unknown("experiment or paper", name, [*papers, *shipped]))
    return list(dict.fromkeys(found))


_COLUMNS = (
    "experiment",
    "bits",
    "epochs",
    "published",
    "measured",
    "difference",
    "hours",
    "hardware",
    "command",
    "run",
)


def cells(row: Row) -> list[str]:
    """A row for people, in the order of `columns`. Figures are top-1 in percent; * marks a reconstructed recipe."""
    document = row.to_document()
    measured = "–"
    if row.measured is not None:
        spread = f" ± {row.deviation:.2f} ({len(row.top1)} seeds)" if row.deviation is not None else ""
        measured = f"{row.measured:.2f}{spread}"
    elif row.failures:
        measured = "failed"
    return [
        document["experiment"] + ("*" if document["reconstructed"] else ""),
        document["bits"],
        str(document["epochs"]),
        _published(row.experiment),
        measured,
        "–" if row.difference is None else f"{row.difference:+.2f}",
        "–" if row.hours is None else f"{row.hours:.2f}",
        row.hardware or "–",
        row.command,
        ", ".join(document["runs"]) or "–",
    ]


def columns() -> list[str]:
    """The heads of `cells`."""
    return list(_COLUMNS)


def _published(experiment: Experiment) -> str:
    figure = experiment.published
    if figure is None:
        return "–"
    return f"{figure.top1:g}" + (f" ± {figure.top1_deviation:g}" if figure.top1_deviation else "")


def write_table(rows: Sequence[Row], file: str | Path) -> tuple[Path, Path]:
    """Writes the table as `file`.csv, with every value, and as `file`.md, for people.

    Raises:
        BnnError: They cannot be written.
    """
    path = Path(file)
    csv_path, md_path = path.with_name(f"{path.name}.csv"), path.with_name(f"{path.name}.md")
    with files.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(csv_path, _csv(rows))
    files.write_text(md_path, _markdown(rows))
    return csv_path, md_path


def _csv(rows: Sequence[Row]) -> str:
    documents = [row.to_document() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(documents[0]), lineterminator="\n")
    writer.writeheader()
    for document in documents:
        writer.writerow(
            {key: "; ".join(value) if isinstance(value, list) else value for key, value in document.items()}
        )
    return text.getvalue()


def _markdown(rows: Sequence[Row]) -> str:
    lines = [
        "Top-1 in percent on the test images after the last epoch; hours of one run. * marks a recipe that its source",
        "does not give, or not for these data.",
        "",
        f"| {' | '.join(columns())} |",
        f"|{'---|' * len(columns())}",
    ]
    lines += [f"| {' | '.join(cells(row)[:-2])} | `{cells(row)[-2]}` | {cells(row)[-1]} |" for row in rows]
    return "\n".join(lines) + "\n"
