"""Write files atomically: under a temporary name first, then renamed. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from bnn_keras.errors import BnnError

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an `OSError` raised in the context into a `BnnError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise BnnError(cannot_write(path, error.strerror or str(error))) from error


def cannot_write(path: Path, reason: str) -> str:
    """Return the error message for a path that cannot be written."""
    # h5py and shutil embed the system's message in a long text.
    inner = re.search(r"error message = '(.+?)'|\[Errno \d+\] ([^:]+)", reason)
    reason = inner[1] or inner[2] if inner else reason
    return f"cannot write {str(path)!r} ({reason}); free disk space, fix the permissions, or choose another location"


@contextlib.contextmanager
def writing_temporary() -> Iterator[None]:
    """Convert an `OSError` raised in the context into a `BnnError` about the folder of temporary files."""
    try:
        yield
    except OSError as error:
        folder = f" in {tempfile.tempdir!r}" if tempfile.tempdir else ""  # None if Python finds no usable folder
        raise BnnError(
            f"cannot write temporary files{folder} ({error.strerror or error}); free disk space, or set TMPDIR to "
            "another folder"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, then rename it to `path` if the context ends without an error.

    The context writes a file or a folder. `path` is never partly written: it is unchanged until the rename, and
    remains unchanged if an error is raised. The temporary path is removed, also if the process is stopped.

    Raises:
        BnnError: The operating system refuses to write.
    """
    temporary = temporary_name(path)
    with writing(path), exiting_on_signals():
        try:
            remove(temporary)
            yield temporary
            replace(temporary, path)
        finally:
            remove(temporary)


def replace(new: Path, path: Path) -> None:
    """Rename a finished file or folder to `path`.

    A file replaces a file in one step. If a folder replaces something, that is renamed first, restored after an error,
    and removed last.
    """
    _sync(new)
    if not (new.is_dir() and os.path.lexists(path)):
        os.replace(new, path)
        return
    old = path.with_name(f".{path.stem}.old{path.suffix}")
    remove(old)
    try:
        os.replace(path, old)
        os.replace(new, path)
    finally:
        if os.path.lexists(path):
            remove(old)
        else:
            os.replace(old, path)


@contextlib.contextmanager
def exiting_on_signals() -> Iterator[None]:
    """While in the context, SIGTERM and SIGHUP raise `SystemExit`, so that temporary files are removed.

    A handler of the program's own is kept. Python runs handlers in the main thread only, so nothing changes in others.
    """
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []

    def handle(number: int, frame: Any) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)  # a second signal does not interrupt the removal
        sys.exit(128 + number)

    try:
        for number in numbers:
            signal.signal(number, handle)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def temporary_name(path: Path) -> Path:
    """Return the temporary path that `replacing(path)` uses."""
    return path.with_name(f".{path.stem}.new{path.suffix}")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """Return a value as the text of a JSON file."""
    return json.dumps(value, indent=2) + "\n"


def with_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of its values, which `without_digest` verifies."""
    return {**document, "digest": _digest_of(document)}


def without_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a JSON object without their digest. Files of earlier versions have none.

    Raises:
        ValueError: The values do not match the digest.

    >>> without_digest(with_digest({"epoch": 3}))
    {'epoch': 3}
    """
    values = {key: value for key, value in document.items() if key != "digest"}
    if "digest" in document and document["digest"] != _digest_of(values):
        raise ValueError("its content does not match its digest")
    return values


def _digest_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def owner(lock: IO[str]) -> str:
    """Return the process that holds a lock file, in words: it writes its number into the file just after locking it."""
    lock.seek(0)
    number = lock.read().strip()
    return f"process {number}" if number else "another process"


def _sync(path: Path) -> None:
    """Flush a file, or the files of a folder, to the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
