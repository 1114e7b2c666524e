"""Write reports, once or again and again while trainings go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bnn_keras import files, runs
from bnn_keras.errors import BnnError
from bnn_keras.location import DEFAULT_LOCATION, DataLocation
from bnn_keras.report import pictures
from bnn_keras.report.document import Report, make_report
from bnn_keras.report.page import render
from bnn_keras.runs import Run

INTERVAL = 2.0  # seconds between looks at the runs
REFRESH = 5  # seconds after which a browser loads the page of an unfinished training again

PAGES = (".html", ".htm")
PICTURES = (".png",)

_WATCHED = (runs.METRICS, runs.WEIGHTS, runs.RESULT)


def write_report(report: Report, file: str | Path, *, refresh: int | None = None) -> None:
    """Write a report as one HTML page.

    Args:
        report: The report.
        file: The page to write: `.html` or `.htm`.
        refresh: Seconds after which a browser loads the page again; None for never.

    Raises:
        BnnError: The suffix is another one, or the file cannot be written.

    Example:
        >>> from bnn_keras.report import make_report, write_report
        >>> write_report(make_report(["runs/lenet5"]), "report.html")  # doctest: +SKIP
    """
    check_suffix(file, PAGES, "page")
    files.write_text(Path(file), render(report, refresh))


def write_png(report: Report, file: str | Path) -> None:
    """Write the accuracy and loss of all runs of a report as a PNG picture.

    Raises:
        BnnError: The suffix is not `.png`, no run has a finished epoch, or the file cannot be written.
    """
    check_suffix(file, PICTURES, "picture")
    if not any(run.curves for run in report.runs):
        raise BnnError("no run has a finished epoch to draw; train one first, or leave --png out")
    pictures.write_png(report.runs, report.groups, file)


def check_suffix(file: str | Path, suffixes: Sequence[str], kind: str) -> None:
    """Verify the suffix of a file to write.

    Raises:
        BnnError: It is another one.
    """
    if Path(file).suffix.lower() not in suffixes:
        raise BnnError(f"cannot write {str(file)!r} as a {kind}; expected a name that ends in {suffixes[0]}")


def watch(
    directories: Sequence[str | Path],
    write: Callable[[Report], None],
    location: DataLocation = DEFAULT_LOCATION,
    interval: float = INTERVAL,
) -> Report:
    """Write a report whenever a run has a new epoch, until all runs are finished.

    Args:
        directories: The run directories.
        write: Writes a report.
        location: Where the test images are read from.
        interval: Seconds between looks at the runs.

    Returns:
        The last report.

    Raises:
        BnnError: As `make_report`.

    Example:
        >>> from bnn_keras.report import watch
        >>> watch(["runs/lenet5"], lambda report: print(report.runs[0].epochs))  # doctest: +SKIP
        1
        2
    """
    while True:
        state = _state(directories)
        report = make_report(directories, location)
        write(report)
        if report.finished:
            return report
        while _state(directories) == state:
            time.sleep(interval)


def _state(directories: Sequence[str | Path]) -> list[tuple[float, ...]]:
    """Return when the files that change with each epoch were written, 0 for those that do not exist."""
    paths = [[Run(directory) / name for name in _WATCHED] for directory in directories]
    return [tuple(path.stat().st_mtime if path.exists() else 0.0 for path in group) for group in paths]
