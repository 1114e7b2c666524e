"""Write files atomically: under a temporary name first, then renamed. Needs no TensorFlow."""

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
    """Convert an `OSError` raised in the context into a `BnnError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise BnnError(cannot_write(path, error.strerror or str(error))) from error


def cannot_write(path: Path, reason: str) -> str:
    """Return the error message for a path that cannot be written."""
    inner = re.search("error message = '(.+?)'", reason)  # h5py embeds the system's message in a long text
    reason = inner[1] if inner else reason
    return f"cannot write {str(path)!r} ({reason}); free disk space, fix the permissions, or choose another location"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, then rename it to `path` if the context ends without an error.

    The context writes a file or a folder. `path` is never partly written: it is unchanged until the rename, and
    remains unchanged if an error is raised.

    Raises:
        BnnError: The operating system refuses to write.
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
    """Return the temporary path that `replacing(path)` uses."""
    return path.with_name(f".{path.stem}.new{path.suffix}")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _sync(path: Path) -> None:
    """Flush a file, or the files of a folder, to the disk."""
    for file in [path] if path.is_file() else path.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
