"""How commands print: tables for people, one JSON value for scripts, errors on standard error."""

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
    """One JSON value on standard output."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as wide as it needs; where standard output is no terminal, nothing is cut or wrapped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=10_000)
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(table, highlight=False)


def complain(message: str, kind: str = "Error") -> None:
    """One line on standard error."""
    click.echo(f"{kind}: {message}", err=True)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Holds back what TensorFlow prints while it is imported, unless the import fails or `--debug` is given.

    Its CUDA libraries write to the process's standard error before any setting can reach them.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("debug"):
        yield
        return
    for library in ("tensorflow", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        stderr = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            held_back.seek(0)
            sys.stderr.write(held_back.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
