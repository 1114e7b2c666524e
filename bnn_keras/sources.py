"""The weights that a training starts from: those of a run, or of a packed file. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnn_keras import pretrained, runs
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, Resolution, parse, resolve, resolve_with_images_of
from bnn_keras.packed_reader import read_packed
from bnn_keras.runs import Run


@dataclasses.dataclass(frozen=True)
class Source:
    """Trained weights: a file of a run, or a packed file.

    Attributes:
        path: The file.
        run: The run that it is of, trained or imported; None for a packed file.

    >>> print(Source.at("runs/float").path, Source.at("runs/float/weights_best.h5").name)
    runs/float/weights.h5 float-best
    """

    path: Path
    run: Run | None = None

    @classmethod
    def at(cls, source: str | Path) -> Source:
        """Return the weights at a path, which may not exist, or those of a model of the package.

        A run directory stands for its last weights.

        Raises:
            BnnError: The path is a file that is not packed and does not have the name of a run's weights.
        """
        path = pretrained.locate(source)
        if path.name in (runs.WEIGHTS, runs.BEST_WEIGHTS) and not path.is_dir():
            return cls(path, Run(path.parent))
        if path.is_file():
            try:
                read_packed(path)
            except (OSError, ValueError) as error:
                raise BnnError(
                    f"cannot start from {str(path)!r}: expected a run directory, {runs.WEIGHTS} or "
                    f"{runs.BEST_WEIGHTS} of one, or a packed file ({error}); convert a checkpoint of a reference to a "
                    "run with `bnnk import`"
                ) from error
            return cls(path)
        return cls(path / runs.WEIGHTS, Run(path))

    @property
    def name(self) -> str:
        """Name of the run directory, with "-best" for the best weights; name of a packed file without its suffix."""
        if self.run is None:
            return self.path.stem
        name = self.run.directory.resolve().name
        return f"{name}-best" if self.path.name == runs.BEST_WEIGHTS else name

    @property
    def experiment(self) -> Experiment:
        """The experiment that trained the weights.

        Raises:
            BnnError: There is no run, or its experiment cannot be read, or a packed file has no experiment.
        """
        with self.explaining_errors():
            if self.run is not None:
                if not self.run.directory.exists():
                    raise BnnError(pretrained.not_found(self.run.directory))
                return Run.read(self.run.directory).experiment
            content = read_packed(self.path)
            if not content.experiment:
                raise BnnError("it holds a model without an experiment; give a run, or the export of one")
            return parse(content.experiment, f"in {str(self.path)!r}").with_arrays(lambda: content.arrays)

    def to_document(self) -> dict[str, Any]:
        """Return path, SHA-256 and experiment of the weights, as recorded in environment.json."""
        experiment = self.experiment
        digest = _sha256(self.path)
        return {
            "path": str(self.path.resolve()),
            "sha256": digest,
            "experiment": experiment.name,
            **experiment.chosen,
        }

    def is_recorded_in(self, run: Run) -> bool:
        """Return whether a run was started from these weights. They may have been removed since, or moved."""
        recorded = run.start
        if recorded is None:
            return False
        digest = _sha256(self.path)
        return recorded["sha256"] == digest if digest else recorded["path"] == str(self.path.resolve())

    def require_other_than(self, run: Run) -> None:
        """Verify that the weights are not those of a run itself, which the training would overwrite.

        Raises:
            BnnError: They are.
        """
        if self.run and self.run.directory.resolve() == run.directory.resolve():
            raise BnnError(f"cannot start {str(run.directory)!r} from its own weights; give another --run DIR")

    @contextlib.contextmanager
    def explaining_errors(self) -> Iterator[None]:
        """Name the weights in an error about them."""
        try:
            yield
        except BnnError as error:
            raise BnnError(f"cannot start from {str(self.path)!r}: {error}") from error


def _sha256(path: Path) -> str | None:
    """Return the digest of a file, or None if it does not exist."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def default_directory(experiment: Experiment, start_from: str | Path | None = None) -> Path:
    """Return the default run directory of a training: another one for each source of its first weights.

    >>> print(default_directory(resolve("lenet5").experiment, "runs/float"))
    runs/xnor_net-lenet5_mnist_5k-xnor-1w1a-adam_torch-seed1-from-float
    """
    directory = runs.default_directory(experiment)
    return directory.with_name(f"{directory.name}-from-{Source.at(start_from).name}") if start_from else directory


def resolve_start(
    network: str,
    start_from: str | Path | None,
    directory: str | Path | None = None,
    fresh: bool = False,
    **options: Any,
) -> tuple[Resolution, Path]:
    """Return the experiment that `resolve` selects, for the weights that the training starts from.

    Weights are trained on images that were rotated and normalized in one way: `network.rotated`, `data.mean` and
    `data.std` become those of the run that the weights are of, unless `overrides` sets them (`resolve_with_images_of`).
    A run that was started from other weights keeps its own, whether or not `start_from` is given again.

    Args:
        network: Name of the network.
        start_from: A run, one of its files of weights, a packed file, or the name of a model of the package; None for
            random weights.
        directory: The run directory; `default_directory` if None.
        fresh: Whether the training starts over.
        **options: Those of `resolve`.

    Returns:
        The experiment with a note, and the run directory.

    Raises:
        BnnError: As `resolve`; or there is no run to start from.
    """
    resolution = resolve(network, **options)
    directory = Path(directory or default_directory(resolution.experiment, start_from))
    images_of = None if fresh else _started_experiment(Run(directory))
    if images_of is None and start_from:
        images_of = Source.at(start_from).experiment
    if images_of is not None:
        resolution = resolve_with_images_of(images_of, network, **options)
    return resolution, directory


def _started_experiment(run: Run) -> Experiment | None:
    """Return the experiment of a run that was started from other weights; None if there is no such run."""
    with contextlib.suppress(BnnError):  # `train` reports all damaged files of a run
        return run.experiment if run.begun and run.start else None
    return None


def require_same_start(run: Run, source: Source | None) -> None:
    """Verify that a run was started from the given weights. Without any, every run is accepted.

    Raises:
        BnnError: The run was started from other weights, or from random ones.
    """
    if source is None or not run.begun or source.is_recorded_in(run):
        return
    recorded = run.start
    before = (
        f"the weights {recorded['sha256'][:8]}… of {recorded['path']!r}" if recorded else "no weights of another run"
    )
    digest = _sha256(source.path)
    given = f"{digest[:8]}… of {str(source.path)!r}" if digest else f"{str(source.path)!r}, which does not exist"
    raise BnnError(
        f"{str(run.directory)!r} was started from {before}, not from {given}; leave --from out to resume it, or give "
        "another --run DIR"
    )
