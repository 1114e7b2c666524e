"""The commands `report` and `compare`."""

from __future__ import annotations

from typing import Any

import click

from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_table, quiet_tensorflow
from bnn_keras.location import DataLocation

PAGE = "report.html"

_runs = click.argument("runs", metavar="RUN...", nargs=-1, required=True)


@click.command()
@_runs
@click.option(
    "--output", "-o", metavar="FILE", help=f"The page to write (default: {PAGE}; with --csv or --json, none)."
)
@click.option("--watch", is_flag=True, help="Write the page again after each epoch, until all runs are finished.")
@click.option("--png", metavar="FILE", help="Also draw accuracy and loss of all runs as a picture.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a row for each run as CSV and nothing else.")
@options.data_location
@options.as_json
def report(
    runs: tuple[str, ...],
    output: str | None,
    watch: bool,
    png: str | None,
    as_csv: bool,
    as_json: bool,
    **location: Any,
) -> None:
    """Show what RUNs trained and how it went, on one HTML page.

    The page has the commands, accuracies with confidence intervals, curves, health of the layers, the first binary
    kernels, confusion matrix and worst mistakes, and exported files that lie beside the run. Several runs are compared;
    runs that differ by their seeds only are averaged. It needs no network and has no script.

    Runs may be unfinished. Without prepared test images, the predictions are left out.
    """
    if sum((as_csv, as_json, watch)) > 1:
        raise click.UsageError("got more than one of --watch, --csv and --json; expected one of them")
    with quiet_tensorflow():
        from bnn_keras import report as report_
        from bnn_keras.report import writing
    page = output or (None if as_csv or as_json else PAGE)
    if page:
        writing.check_suffix(page, writing.PAGES, "page")
    if png:
        writing.check_suffix(png, writing.PICTURES, "picture")

    def write(made: Any) -> None:
        if page:
            refresh = writing.REFRESH if watch and not made.finished else None
            report_.write_report(made, page, refresh=refresh)
            print_line(f"{', '.join(run.name for run in made.runs)} → {page}", err=True)
        if png:
            writing.write_png(made, png)

    place = DataLocation(**location)
    if watch:
        report_.watch(runs, write, place)
        return
    made = report_.make_report(runs, place)
    write(made)
    if as_json:
        print_json(made.model_dump(mode="json"))
    elif as_csv:
        click.echo(made.to_csv(), nl=False)


@click.command()
@_runs
@options.as_json
def compare(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare RUNs: which settings differ, what came out, and whether differences exceed the spread of the seeds.

    Runs that differ by their seeds only are a group. Each group is compared with the first one by its top-1 accuracies
    on the test images after the last epoch: with a paired t test if two or more seeds are shared, else with Welch's.
    p is adjusted for the number of tests (Holm). Unfinished runs do not count.
    """
    with quiet_tensorflow():
        from bnn_keras.report import compare as compare_
    comparison = compare_(runs)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
        return
    print_table(
        ["group", "finished", "last epoch, top-1 %", "95 % of the mean", "best epoch, top-1 %", "seeds"],
        (
            [
                group.name,
                f"{len(group.runs) - len(group.unfinished)} of {len(group.runs)}",
                _estimate(group.last),
                _interval(group.last and group.last.interval),
                _estimate(group.best),
                ", ".join(map(str, group.seeds)),
            ]
            for group in comparison.groups
        ),
    )
    if comparison.settings:
        click.echo()
        print_table(["setting", *(group.name for group in comparison.groups)], _settings(comparison.settings))
    if comparison.differences:
        click.echo()
        print_table(
            [f"against {comparison.groups[0].name}", "points", "95 %", "test", "p (Holm)", "verdict"],
            (
                [
                    item.group,
                    item.difference and f"{item.difference.mean:+.2f}",
                    _interval(item.difference and item.difference.interval),
                    item.difference and item.difference.test,
                    None if item.adjusted_p is None else f"{item.adjusted_p:.3g}",
                    item.verdict,
                ]
                for item in comparison.differences
            ),
        )


def _settings(settings: Any) -> Any:
    return ([key, *values] for key, values in settings.items())


def _estimate(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value.mean:.2f}" + ("" if value.deviation is None else f" ± {value.deviation:.2f}")


def _interval(value: Any) -> str | None:
    return None if value is None else f"{value.low:.2f} to {value.high:.2f}"


COMMANDS = (report, compare)
