"""Write files whole or not at all: under a temporary name first, then renamed. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnn_keras.errors import BnnError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write into an error with a cure."""
    try:
        yield
    except OSError as error:
        raise BnnError(cannot_write(path, error.strerror or str(error))) from error


def cannot_write(path: Path, reason: str) -> str:
    """The message for a place that takes no data."""
    inner = re.search("error message = '(.+?)'", reason)  # h5py wraps the operating system's word in a page of its own
    reason = inner[1] if inner else reason
    return f"cannot write {str(path)!r} ({reason}); make room or allow it there, or choose another place"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: what stands there at the end takes its place, at once and whole.

    Raises:
        BnnError: The operating system refuses to write; `path` is then as it was.
    """
    temporary = temporary_name(path)
    with writing(path):
        try:
            remove(temporary)
            yield temporary
            _sync(temporary)
            if temporary.is_dir():
                remove(path)
            os.replace(temporary, path)
        finally:
            remove(temporary)


def temporary_name(path: Path) -> Path:
    """Return the name that `replacing` writes `path` under."""
    return path.with_name(f".{path.stem}.new{path.suffix}")


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file, or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a whole JSON file, or nothing."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _sync(path: Path) -> None:
    """Makes the operating system put a file, or the files of a folder, on the disk."""
    for file in [path] if path.is_file() else path.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Removes a file or a folder; one that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
