"""The document of a report: the facts of its runs and their comparison."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

import bnn_keras
from bnn_keras.location import DEFAULT_LOCATION, DataLocation
from bnn_keras.report.comparing import Comparison, compare_facts
from bnn_keras.report.facts import Accuracy, RunFacts, collect_all

REPORT_VERSION = 1


class Report(pydantic.BaseModel):
    """The facts of runs, and their comparison.

    Attributes:
        report_version: Version of this document.
        bnn_keras: Version of this package.
        created: When it was made, in UTC.
        runs: The facts of each run.
        comparison: Groups of runs that differ by their seeds only, and the differences between groups.
    """

    report_version: int = REPORT_VERSION
    bnn_keras: str
    created: datetime.datetime
    runs: list[RunFacts]
    comparison: Comparison

    @property
    def groups(self) -> dict[str, str]:
        """The name of the group of each run, by the name of the run."""
        return {run: group.name for group in self.comparison.groups for run in group.runs}

    @property
    def finished(self) -> bool:
        """Whether no run will change any more: each is finished or imported."""
        return all(run.status in ("finished", "imported") for run in self.runs)

    def to_csv(self) -> str:
        """Return a table with a row for each run."""
        rows = [_row(run, self.groups[run.name]) for run in self.runs]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def make_report(directories: Sequence[str | Path], location: DataLocation = DEFAULT_LOCATION) -> Report:
    """Collect the facts of runs, finished or not, and compare them.

    Args:
        directories: The run directories.
        location: Where the test images are read from. Nothing is downloaded.

    Raises:
        BnnError: As `facts.collect_all`.

    Example:
        >>> from bnn_keras.report import make_report
        >>> report = make_report(["runs/lenet5"])  # doctest: +SKIP
        >>> report.runs[0].last.interval  # doctest: +SKIP
        Interval(low=97.79, high=99.24)
    """
    runs = collect_all(directories, location=location)
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return Report(bnn_keras=bnn_keras.__version__, created=now, runs=runs, comparison=compare_facts(runs))


def _row(run: RunFacts, group: str) -> dict[str, Any]:
    return {
        "run": run.name,
        "group": group,
        "status": run.status,
        "experiment": run.experiment,
        **run.chosen,
        "seed": run.seed,
        "epochs": run.epochs,
        "planned_epochs": run.planned_epochs,
        **_accuracy("top1", run.last),
        **_accuracy("best_top1", run.best),
        "best_chosen_on": run.best_chosen_on,
        "published": run.published.top1 if run.published else None,
        "published_of": run.published.of if run.published else None,
        "seconds": round(run.seconds, 1),
        "images_per_second": run.images_per_second,
        **run.counts,
        "hardware": run.hardware,
        "directory": run.directory,
        "repeat": run.repeat,
    }


def _accuracy(name: str, accuracy: Accuracy | None) -> dict[str, Any]:
    """Return the columns of an accuracy."""
    interval = accuracy.interval if accuracy else None
    return {
        name: accuracy.top1 if accuracy else None,
        f"{name}_low": round(interval.low, 3) if interval else None,
        f"{name}_high": round(interval.high, 3) if interval else None,
        f"{name}_on": accuracy.on if accuracy else None,
    }
