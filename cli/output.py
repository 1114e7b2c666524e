"""Output of commands: tables, JSON values, and messages on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from bnn_keras import BnnError, files
from bnn_keras.text import printable


def print_json(value: Any) -> None:
    """Print one JSON value on standard output.

    JSON has no NaN and no infinity: they become null, with a warning that names their keys.
    """
    replaced: list[str] = []
    click.echo(json.dumps(_finite(value, "", replaced), indent=2, allow_nan=False))
    if replaced:
        print_message(f"JSON has no NaN or infinity; null stands for {', '.join(replaced)}", "Warning")


def _finite(value: Any, path: str, replaced: list[str]) -> Any:
    """Return a JSON value with None for each number that is not finite; append the paths of those to `replaced`."""
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{path}.{key}" if path else str(key), replaced) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{path}[{index}]", replaced) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        replaced.append(path)
        return None
    return value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table. Rows are wrapped to the width of the terminal, and not at all if the output is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=10_000)
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*("–" if cell is None else printable(str(cell)) for cell in row))
    console.print(table, highlight=False)


def print_message(message: str, kind: str = "Error") -> None:
    """Print "kind: message" on standard error."""
    print_line(f"{kind}: {message}", err=True)


def print_line(line: str, err: bool = False) -> None:
    """Print a line, with control characters escaped."""
    click.echo(printable(line), err=err)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Suppress the messages of the import of TensorFlow and Matplotlib, unless the import fails or `--debug` is given.

    TensorFlow's CUDA libraries write to file descriptor 2 directly, before any setting can be applied.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("debug"):
        yield
        return
    for library in ("tensorflow", "absl", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)
    sys.stderr.flush()
    with files.writing_temporary():
        suppressed = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    with suppressed:
        stderr = os.dup(2)
        os.dup2(suppressed.fileno(), 2)
        try:
            yield
        except BnnError:  # its message says all
            raise
        except BaseException:
            os.dup2(stderr, 2)
            suppressed.seek(0)
            sys.stderr.write(suppressed.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
