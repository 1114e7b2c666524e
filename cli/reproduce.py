"""The command `reproduce`, which compares measured with published accuracies."""

from __future__ import annotations

import sys
from typing import Any

import click

from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_table, quiet_tensorflow

EXAMPLES = """\b
Examples:
  bnnk reproduce xnor_net/lenet5_mnist --seeds 3
  bnnk reproduce ir_net --data-dir /data/tensorflow_datasets
  bnnk reproduce short -o results/short
"""


@click.command(epilog=EXAMPLES)
@click.argument("names", metavar="EXPERIMENT|PAPER...", nargs=-1, required=True)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Runs of each experiment, with consecutive seeds.")
@click.option(
    "--runs", "directory", default="runs", metavar="DIR", help="Folder of the run directories (default: runs)."
)
@click.option(
    "-o", "--output", metavar="FILE", help="Write the table to FILE.csv and FILE.md (default: DIR/reproduced)."
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
    """Train the missing runs, then print published and measured accuracies.

    A PAPER stands for all of its experiments (see `bnnk list experiments`). Unfinished runs are resumed, finished runs
    are not trained again. The table is updated after each run.
    """
    with quiet_tensorflow():
        from bnn_keras import reproduce as library
    file = output or f"{directory}/reproduced"
    rows = library.reproduce(
        names,
        directory=directory,
        plain=quiet,
        command=["bnnk", *sys.argv[1:]],
        after_run=lambda rows: library.write_table(rows, file),
        **arguments,
    )
    if as_json:
        print_json([row.to_document() for row in rows])
    else:
        print_table(list(library.COLUMNS), map(library.cells, rows))
        print_line(f"written to {file}.csv and {file}.md; * marks a reconstructed recipe", err=True)
    context.exit(1 if any(row.failures for row in rows) else 0)


COMMANDS = (reproduce,)
