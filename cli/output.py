"""Output of commands: tables, JSON values, and messages on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table. Rows are wrapped to the width of the terminal, and not at all if the output is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=10_000)
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(table, highlight=False)


def print_message(message: str, kind: str = "Error") -> None:
    """Print "kind: message" on standard error."""
    click.echo(f"{kind}: {message}", err=True)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Suppress the messages of TensorFlow's import, unless the import fails or `--debug` is given.

    TensorFlow's CUDA libraries write to file descriptor 2 directly, before any setting can be applied.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("debug"):
        yield
        return
    for library in ("tensorflow", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    sys.stderr.flush()
    with tempfile.TemporaryFile() as suppressed:
        stderr = os.dup(2)
        os.dup2(suppressed.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            suppressed.seek(0)
            sys.stderr.write(suppressed.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
