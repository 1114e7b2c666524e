"""The run directory: the only hand-over between training, evaluation, export and report. Needs no TensorFlow.

    experiment.toml      resolved, exactly what ran
    environment.json     versions, device, git commit, command line, seed, dataset
    metrics.jsonl        one line per epoch
    checkpoints/         everything needed to go on
    tensorboard/
    weights.h5           latent weights, last
    weights_best.h5      latent weights, best
    result.json          written when the training is finished

Files are written whole or not at all (`bnn_keras.files`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnn_keras import files
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, parse

EXPERIMENT = "experiment.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
WEIGHTS = "weights.h5"
BEST_WEIGHTS = "weights_best.h5"
RESULT = "result.json"
LOCK = ".lock"

_CONTENTS = (EXPERIMENT, ENVIRONMENT, METRICS, CHECKPOINTS, TENSORBOARD, WEIGHTS, BEST_WEIGHTS, RESULT, LOCK)


def default_directory(experiment: Experiment) -> Path:
    """runs/<experiment>-<scheme>-<bits>-<optimizer>-seed<N>, with "-" for "/" in a name and "1w1a" for 1/1 bits."""
    weights, activations = experiment.scheme.bits.split("/")
    parts = (
        experiment.name.replace("/", "-"),
        experiment.scheme.name,
        f"{weights}w{activations}a",
        experiment.optimizer,
        f"seed{experiment.seed}",
    )
    return Path("runs") / "-".join(parts)


class Run:
    """A run directory that exists, for reading; `own` opens one for writing."""

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    @classmethod
    def read(cls, directory: str | Path) -> Run:
        """A run that was begun before.

        Raises:
            BnnError: There is no run in the directory.
        """
        run = cls(directory)
        if not run.begun:
            raise BnnError(
                f"no run in {str(directory)!r} (it has no {EXPERIMENT}); give the folder that `bnnk train` wrote"
            )
        return run

    @property
    def begun(self) -> bool:
        """Whether the directory holds a run."""
        return (self / EXPERIMENT).is_file()

    @property
    def experiment(self) -> Experiment:
        """What ran, or runs.

        Raises:
            BnnError: The file cannot be read or is no experiment.
        """
        return parse(self._text(EXPERIMENT), str(self / EXPERIMENT))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, command line and dataset of the training."""
        return self._json(ENVIRONMENT)

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out, None while the training is not finished."""
        return self._json(RESULT) if (self / RESULT).is_file() else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per epoch trained so far."""
        if not (self / METRICS).is_file():
            return []
        try:
            return [json.loads(line) for line in self._text(METRICS).splitlines()]
        except ValueError as error:
            raise BnnError(_damaged(self / METRICS, error)) from error

    def _text(self, name: str) -> str:
        try:
            return (self / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BnnError(_damaged(self / name, error)) from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads(self._text(name))
        except ValueError as error:
            raise BnnError(_damaged(self / name, error)) from error

    @contextlib.contextmanager
    def owned(self) -> Iterator[Run]:
        """Owns the directory while in the context.

        It is made where it is missing. Where no run is begun in it, no trace of this stays.

        Raises:
            BnnError: Another process owns it, or it cannot be written.
        """
        made = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
        with files.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self / LOCK).open("a+")
        with lock:
            self._lock(lock)
            try:
                yield self
            finally:
                if not self.begun:
                    (self / LOCK).unlink(missing_ok=True)
                    if made and not any(self.directory.iterdir()):
                        for folder in made:
                            folder.rmdir()

    def _lock(self, lock: Any) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise BnnError(files.cannot_write(self / LOCK, str(error))) from error
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            fix = "wait for it or stop it, or give another --run DIR"
            raise BnnError(f"run {str(self.directory)!r} is in use by process {owner}; {fix}") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()

    def clear(self) -> None:
        """Removes what a run writes, and nothing else."""
        with files.writing(self.directory):
            for name in _CONTENTS:
                files.remove(files.temporary_name(self / name))
                if name != LOCK:
                    files.remove(self / name)

    def refuse_strangers(self) -> None:
        """Keeps a run from being written among files that are not one's own.

        Raises:
            BnnError: The directory holds files, and no run.
        """
        own = {path.name for name in _CONTENTS for path in (self / name, files.temporary_name(self / name))}
        strangers = sorted({path.name for path in self.directory.iterdir()} - own)
        if strangers and not self.begun:
            found = ", ".join(strangers[:3])
            raise BnnError(f"{str(self.directory)!r} holds other files ({found}) and no run; give a new --run DIR")

    def append_metrics(self, row: dict[str, Any]) -> int:
        """Adds a line to metrics.jsonl.

        Returns:
            The file's length in bytes after it.
        """
        with files.writing(self / METRICS), (self / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            return stream.tell()

    def truncate_metrics(self, length: int) -> None:
        """Cuts metrics.jsonl to what it was when a checkpoint was written."""
        if (self / METRICS).is_file():
            with files.writing(self / METRICS):
                os.truncate(self / METRICS, length)


def _damaged(path: Path, error: Exception) -> str:
    return f"cannot read {str(path)!r} ({error}); restore the file, or train anew with --fresh"
