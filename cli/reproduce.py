"""The command `reproduce`: published against measured."""

from __future__ import annotations

import sys
from typing import Any

import click

from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_table, quiet_tensorflow

EXAMPLES = """\b
Examples:
  bnnk reproduce xnor_net/lenet5_mnist --seeds 3
  bnnk reproduce ir_net --data-dir /data/tensorflow_datasets
  bnnk reproduce short -o results/short
"""


@click.command(epilog=EXAMPLES)
@click.argument("names", metavar="EXPERIMENT|PAPER...", nargs=-1, required=True)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Runs of each experiment, with seeds in a row.")
@click.option("--runs", "directory", default="runs", metavar="DIR", help="Where the run directories are (runs).")
@click.option(
    "-o", "--output", metavar="FILE", help="The table as FILE.csv and FILE.md; reproduced in the runs' folder."
)
@options.overrides
@options.data_location
@options.strategy
@options.quiet
@options.as_json
@click.pass_context
def reproduce(
    context: click.Context,
    names: tuple[str, ...],
    directory: str,
    output: str | None,
    quiet: bool,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Train what is missing, then print published against measured.

    A PAPER stands for all of its experiments (`bnnk list experiments`). Runs that were cut go on, finished ones are
    not trained again; the table is written anew after each run.
    """
    with quiet_tensorflow():
        from bnn_keras import reproduce as library
    file = output or f"{directory}/reproduced"
    rows = library.reproduce(
        names,
        directory=directory,
        plain=quiet,
        command=["bnnk", *sys.argv[1:]],
        finished=lambda rows: library.write_table(rows, file),
        **arguments,
    )
    if as_json:
        print_json([row.to_document() for row in rows])
    else:
        print_table(library.columns(), map(library.cells, rows))
        click.echo(f"written to {file}.csv and {file}.md; * marks a reconstructed recipe", err=True)
    context.exit(1 if any(row.failures for row in rows) else 0)


COMMANDS = (reproduce,)
