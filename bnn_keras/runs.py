"""The run directory, which holds everything that a training writes. Needs no TensorFlow.

Evaluation, export and reports read a training from its run directory only:

    experiment.toml      the resolved experiment
    environment.json     versions, devices, git commit, command line, seed, dataset, first weights
    metrics.jsonl        one line per epoch
    checkpoints/         the state that a training resumes from
    tensorboard/         logs for TensorBoard
    plugins/             copies of the plugins it was trained with, for reference; nothing runs them
    weights.h5           latent weights after the last epoch
    weights_best.h5      latent weights after the best epoch
    arrays.safetensors   arrays of the preprocessing: a mean image, or mean and matrix of whitening
    result.json          accuracies and times, written when the training is finished

Files are written atomically (`bnn_keras.files`). The two files of weights begin with digests of their content and of
the files that they were trained with (experiment and environment). environment.json has the digest of the arrays. Each
checkpoint holds copies of the text files and of the arrays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bnn_keras import array_files, files
from bnn_keras.errors import BnnError, InUseError
from bnn_keras.experiment import Experiment, parse
from bnn_keras.plugins import MissingPluginError, loaded_plugin

EXPERIMENT = "experiment.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
PLUGINS = "plugins"
WEIGHTS = "weights.h5"
BEST_WEIGHTS = "weights_best.h5"
RESULT = "result.json"
ARRAYS = "arrays.safetensors"
LOCK = ".lock"

COPIED = (EXPERIMENT, ENVIRONMENT, METRICS, ARRAYS)  # files of which each checkpoint holds a copy

SAVE_EVERY = "15m"  # how often a training writes a checkpoint within an epoch, unless told otherwise
KEPT = 2  # and how many it keeps

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DIGEST_BLOCK = 512  # bytes; HDF5 ignores a block of this size before its signature
_UNCONSTRAINED = "unconstrained"  # name of a line beside the digests
_DESCRIPTIONS = (EXPERIMENT, ENVIRONMENT)  # files that readers of the weights need, and that never change
_STARTED = (EXPERIMENT, METRICS, CHECKPOINTS, WEIGHTS, BEST_WEIGHTS, RESULT)  # any of these makes a folder a run
_ARRAYS_DIGEST = "arrays"  # key of environment.json
_METRICS_KEYS = ("stage", "epoch", "step", "first", "val_top1", "val_top5", "seconds", "images_per_second")

CONTENTS = (
    EXPERIMENT,
    ENVIRONMENT,
    METRICS,
    CHECKPOINTS,
    TENSORBOARD,
    PLUGINS,
    WEIGHTS,
    BEST_WEIGHTS,
    RESULT,
    ARRAYS,
    LOCK,
)


def default_directory(experiment: Experiment) -> Path:
    """Return the default run directory of an experiment.

    It is runs/<experiment>-<scheme>-<bits>-<optimizer>-seed<N>. Each "/" in a name becomes "-", and 1/1 bits "1w1a".

    >>> from bnn_keras.experiment import resolve
    >>> print(default_directory(resolve("lenet5").experiment))
    runs/xnor_net-lenet5_mnist_5k-xnor-1w1a-adam_torch-seed1
    """
    weights, activations = experiment.scheme.bits.split("/")
    parts = (
        experiment.name.replace("/", "-"),
        experiment.scheme.name,
        f"{weights}w{activations}a",
        experiment.optimizer,
        f"seed{experiment.seed}",
    )
    return Path("runs") / "-".join(parts)


def short_names(directories: Sequence[str | Path]) -> list[str]:
    """Return the names of the folders of runs, or their paths if two have the same name.

    >>> short_names(["runs/a", "runs/b"]), short_names(["x/a", "y/a"])
    (['a', 'b'], ['x/a', 'y/a'])
    """
    names = [Path(directory).resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory) for directory in directories]


def prepend_digests(path: Path, texts: Mapping[str, bytes], constrained: bool = True) -> None:
    """Prepend digests to an HDF5 file, as a user block that HDF5 readers skip.

    In the same file, digests and content are replaced together.

    Args:
        path: The file.
        texts: Contents of the text files of the run; the digests of experiment and environment are written too.
        constrained: Whether the constraints of the network hold for the weights. Otherwise a line notes that.
    """
    content = path.read_bytes()
    digests = {"sha256": _digest(content), **{name: _digest(texts[name]) for name in _DESCRIPTIONS if name in texts}}
    notes = {} if constrained else {_UNCONSTRAINED: "yes"}
    block = "".join(f"{name} {digest}\n" for name, digest in {**digests, **notes}.items()).encode()
    path.write_bytes(block.ljust(_DIGEST_BLOCK, b"\0") + content)


def renew_digests(path: Path, texts: Mapping[str, bytes]) -> None:
    """Replace the digests of experiment and environment in a file of weights. Files of earlier versions have none.

    Raises:
        BnnError: The file cannot be written.
    """
    content = path.read_bytes()
    lines = _lines(content)
    if lines:
        with files.replacing(path) as temporary:
            temporary.write_bytes(content[_DIGEST_BLOCK:])
            prepend_digests(temporary, texts, _UNCONSTRAINED not in lines)


def _lines(content: bytes) -> dict[str, str]:
    """Return the digests in the first bytes of a file of weights by name; nothing if it has none."""
    if content.startswith(_HDF5_SIGNATURE):
        return {}
    block = content[:_DIGEST_BLOCK].rstrip(b"\0").decode("ascii", "replace").splitlines()
    return {name: digest for name, _, digest in (line.partition(" ") for line in block)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Run:
    """A run directory.

    Properties read its files. Hold it with `owned` before writing to it.

    Args:
        directory: Path of the run directory, which may not exist yet.

    Attributes:
        replaced: Folder that holds the files of the run before, after `replace`; otherwise None.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.replaced: Path | None = None

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file or a folder of the run.

        Raises:
            BnnError: It is reached through a symbolic link that leaves the run.
        """
        path = self.directory / name
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(os.path.realpath(self.directory)):
            raise BnnError(
                f"{str(path)!r} is a link to {str(target)!r}, outside of the run; replace the link with the file, or "
                "give another --run DIR"
            )
        return path

    @classmethod
    def read(cls, directory: str | Path) -> Run:
        """Return the existing run in a directory.

        Raises:
            BnnError: The directory holds no run.
        """
        run = cls(directory)
        if not run.begun:
            raise BnnError(
                f"no run in {str(directory)!r} (it has no {EXPERIMENT}); give the folder that `bnnk train` wrote"
            )
        return run

    @property
    def begun(self) -> bool:
        """Whether the directory holds a run, complete or not."""
        return any((self / name).exists() for name in _STARTED)

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run trains.

        Raises:
            BnnError: The file cannot be read or is not a valid experiment.
        """
        text = self._text(EXPERIMENT)
        try:
            # Paths in runs of earlier versions are relative to the folder of the command.
            experiment = parse(text, str(self / EXPERIMENT), Path.cwd())
        except MissingPluginError as error:
            raise MissingPluginError(
                f"{error}; the run keeps a copy for reference in {str(self / PLUGINS)!r}"
            ) from error
        except BnnError as error:
            raise BnnError(f"{error}; {self.cure}") from error
        return experiment.with_arrays(self.read_arrays)

    def read_arrays(self) -> dict[str, Any]:
        """Return the arrays of the preprocessing (`Experiment.arrays`) after verifying their digest.

        Raises:
            BnnError: The file is missing, or does not match its digest in environment.json.
        """
        try:
            return array_files.read(self / ARRAYS, self.environment.get(_ARRAYS_DIGEST))
        except (OSError, ValueError) as error:
            raise BnnError(self._cannot_read(ARRAYS, error)) from error

    def write_arrays(self, experiment: Experiment) -> dict[str, str]:
        """Write the arrays of the preprocessing of an experiment, if it has any.

        Returns:
            The entry of environment.json with the digest of the file; nothing without arrays.
        """
        if not experiment.data.arrays:
            return {}
        return {_ARRAYS_DIGEST: array_files.write(self / ARRAYS, experiment.arrays)}

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, devices, command line, dataset and first weights of the training (environment.json).

        Raises:
            BnnError: The file cannot be read, or does not name the classes of the dataset.
        """
        environment = self._json(ENVIRONMENT)
        dataset = environment.get("dataset")
        labels = dataset.get("labels") if isinstance(dataset, dict) else None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BnnError(self._cannot_read(ENVIRONMENT, "it does not name the classes of the dataset"))
        return environment

    @property
    def start(self) -> dict[str, Any] | None:
        """What the training started from: `path`, `sha256`, …; None for random weights.

        Raises:
            BnnError: environment.json cannot be read, or has no such text.
        """
        start = self.environment.get("start_from")
        if start is None:
            return None
        if not isinstance(start, dict) or not all(isinstance(start.get(key), str) for key in ("path", "sha256")):
            raise BnnError(self._cannot_read(ENVIRONMENT, "it does not name the weights that the run started from"))
        return start

    @property
    def result(self) -> dict[str, Any] | None:
        """Content of result.json, or None if the training is not finished.

        Raises:
            BnnError: The file cannot be read, or its content does not match its digest.
        """
        if not (self / RESULT).exists():
            return None
        try:
            return files.without_digest(self._json(RESULT))
        except ValueError as error:
            raise BnnError(self._cannot_read(RESULT, error)) from error

    def copy_plugins(self, experiment: Experiment) -> None:
        """Copy the files of the plugins that an experiment needs."""
        files.remove(self / PLUGINS)
        for note in experiment.plugins or ():
            for name, content in loaded_plugin(note.name).sources.items():
                path = self / PLUGINS / name
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_text(path, content.decode(errors="replace"))

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json, with a digest of its content."""
        files.write_json(self / RESULT, files.with_digest(result))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, one per finished epoch."""
        return self.metrics_until(None)

    def metrics_until(self, length: int | None) -> list[dict[str, Any]]:
        """Return the rows in the first `length` bytes of metrics.jsonl, as recorded in a checkpoint, or all rows.

        Raises:
            BnnError: The file cannot be read, or a row is not complete.
        """
        if not (self / METRICS).exists():
            return []
        try:
            rows = [json.loads(line) for line in self._text(METRICS).encode()[:length].splitlines()]
        except (ValueError, RecursionError) as error:
            raise BnnError(self._cannot_read(METRICS, error)) from error
        for number, row in enumerate(rows, start=1):
            numbers = [row.get(key) for key in _METRICS_KEYS] if isinstance(row, dict) else [None]
            if not all(isinstance(value, (int, float)) for value in numbers):
                raise BnnError(self._cannot_read(METRICS, f"line {number} has not all of {', '.join(_METRICS_KEYS)}"))
        return rows

    @property
    def measured_epochs(self) -> int:
        """Number of complete lines of metrics.jsonl."""
        return self._text(METRICS).count("\n") if (self / METRICS).exists() else 0

    def copied(self) -> dict[str, bytes]:
        """Return the contents of the files that checkpoints hold copies of, those that exist."""
        return {name: (self / name).read_bytes() for name in COPIED if (self / name).is_file()}

    def verify_weights(self, name: str, among_others: bool = True) -> None:
        """Verify the digests of a file of weights.

        Args:
            name: Name of the file.
            among_others: Verify also that experiment and environment are those of the weights.

        Raises:
            BnnError: The file cannot be read, or its content or another file does not match its digest.
        """
        path = self / name
        if not path.exists():
            raise BnnError(
                f"{str(self.directory)!r} has no {name}: no epoch is finished, or the file was removed; {self.cure}"
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BnnError(self._cannot_read(name, error)) from error
        if content.startswith(_HDF5_SIGNATURE):
            return  # written before files had digests
        digests = _lines(content)
        digests.pop(_UNCONSTRAINED, None)
        if digests.pop("sha256", "") != _digest(content[_DIGEST_BLOCK:]) or not digests.keys() <= set(_DESCRIPTIONS):
            raise BnnError(f"the content of {str(path)!r} does not match its digest; {self.cure}")
        texts = self.copied()
        for other in digests if among_others else ():
            if _digest(texts.get(other, b"")) != digests[other]:
                raise BnnError(f"{str(path)!r} was trained with another {other} than that of the run; {self.cure}")

    def unconstrained(self, name: str) -> bool:
        """Return whether the constraints of the network do not hold for a file of weights, as for imported ones."""
        with (self / name).open("rb") as stream:
            return _UNCONSTRAINED in _lines(stream.read(_DIGEST_BLOCK))

    @property
    def cure(self) -> str:
        """What to do about a missing or damaged file."""
        return f"run `{shlex.join(['bnnk', 'repair', str(self.directory)])}`, or restore it from a backup"

    def _text(self, name: str) -> str:
        try:
            return (self / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BnnError(self._cannot_read(name, error)) from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._text(name))
        except (ValueError, RecursionError) as error:
            raise BnnError(self._cannot_read(name, error)) from error
        if not isinstance(value, dict):
            raise BnnError(self._cannot_read(name, "it is not a JSON object"))
        return value

    def _cannot_read(self, name: str, reason: Exception | str) -> str:
        reason = getattr(reason, "strerror", None) or reason
        return f"cannot read {str(self / name)!r} ({reason}); {self.cure}"

    @contextlib.contextmanager
    def owned(self) -> Iterator[Run]:
        """Hold the directory's lock file while in the context, so that no other process writes to the run.

        A missing directory is created. It is removed at the end, with the lock file, if no run was started in it.

        Raises:
            InUseError: Another process holds the lock.
            BnnError: The directory cannot be written, or a link in it leaves the run.
        """
        created = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
        with files.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._refuse_links_inside_folders()
            lock = (self / LOCK).open("a+")
        with lock:
            self._lock(lock)
            try:
                yield self
            finally:
                if not self.begun:
                    (self / LOCK).unlink(missing_ok=True)
                    if created and self.directory.is_dir() and not any(self.directory.iterdir()):
                        for folder in created:
                            folder.rmdir()

    @property
    def in_use(self) -> bool:
        """Whether a process holds the directory's lock file."""
        try:
            with (self / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _refuse_links_inside_folders(self) -> None:
        """Verify the files of checkpoints and logs, which libraries open by their own names."""
        for name in CONTENTS:
            for path in (self / name).rglob("*"):
                self / str(path.relative_to(self.directory))

    def _lock(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise BnnError(files.cannot_write(self / LOCK, str(error))) from error
            fix = "wait for it or stop it, or give another --run DIR"
            raise InUseError(f"run {str(self.directory)!r} is in use by {files.owner(lock)}; {fix}") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()

    def clear(self) -> None:
        """Remove the files that a run writes, and no others."""
        with files.writing(self.directory):
            for name in CONTENTS:
                files.remove(files.temporary_name(self / name))
                if name != LOCK:
                    files.remove(self / name)

    def replace(self) -> None:
        """Move the files of a run to `<directory>.old-<N>` if it has trained weights; remove them otherwise."""
        if any((self / name).exists() for name in (CHECKPOINTS, WEIGHTS, BEST_WEIGHTS)):
            self.replaced = _unused(self.directory.resolve(), "old")
            with files.writing(self.replaced):
                self.replaced.mkdir()
                for name in reversed(CONTENTS):  # the experiment last: until then, the directory holds a run
                    if name != LOCK and (self / name).exists():
                        (self / name).rename(self.replaced / name)
        self.clear()

    def set_aside(self, name: str) -> Path | None:
        """Rename a damaged file to `<name>.damaged-<N>`, and return its new path; None if there is no such file."""
        path = self / name
        if not os.path.lexists(path):
            return None
        target = _unused(path, "damaged")
        with files.writing(target):
            return path.rename(target)

    def remove_replaced(self) -> None:
        """Remove the files of the run that `replace` moved away, if any."""
        if self.replaced:
            with files.writing(self.replaced):
                files.remove(self.replaced)
            self.replaced = None

    def refuse_other_files(self) -> None:
        """Verify that the directory holds a run or nothing, so that a run is not mixed with other files.

        Raises:
            BnnError: The directory holds other files and no run.
        """
        expected = {path.name for name in CONTENTS for path in (self / name, files.temporary_name(self / name))}
        others = sorted({path.name for path in self.directory.iterdir()} - expected)
        if others and not self.begun:
            names = ", ".join(others[:3])
            raise BnnError(f"{str(self.directory)!r} holds other files ({names}) and no run; give a new --run DIR")

    def append_metrics(self, row: dict[str, Any]) -> int:
        """Append a line to metrics.jsonl.

        Returns:
            The length of the file in bytes, including the new line.
        """
        with files.writing(self / METRICS), (self / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            return stream.tell()

    def truncate_metrics(self, length: int) -> None:
        """Truncate metrics.jsonl to a length in bytes, as recorded in a checkpoint."""
        if (self / METRICS).is_file():
            with files.writing(self / METRICS):
                os.truncate(self / METRICS, length)


def _unused(path: Path, word: str) -> Path:
    """Return `<path>.<word>-<N>` with the lowest N that does not exist."""
    names = (path.with_name(f"{path.name}.{word}-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))
