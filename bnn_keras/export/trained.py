"""The trained network of a run, of a packed file, or of a model of the package."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tensorflow as tf

from bnn_keras import pretrained
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export.job import ExportJob
from bnn_keras.export.packed import load_packed
from bnn_keras.models import load_run
from bnn_keras.runs import Run


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        model: The network: latent weights of a run, frozen ones of a packed file.
        experiment: Its experiment; None for a packed file of `export_model`.
        labels: Class names, in the order of the logits.
        weights: "last" or "best" for a run, "packed" for a packed file.
        run: The run, if it is one.
    """

    model: tf.keras.Model
    experiment: Experiment | None
    labels: list[str]
    weights: str
    run: Run | None = None

    @property
    def job(self) -> ExportJob:
        """The job to export it, which describes it."""
        return ExportJob(self.model, self.experiment, self.labels)


def load_trained(source: str | Path, best: bool = False) -> Trained:
    """Load the network of a run, of a packed file, or of a model of the package by its name.

    Raises:
        BnnError: There is no such source, it is damaged, or `best` is given for a packed file.

    Example:
        >>> from bnn_keras import pretrained
        >>> name = next(iter(pretrained.cards()))
        >>> load_trained(name).weights
        'packed'
    """
    path = pretrained.find(source)
    if path.is_file():
        require_no_best(source, best)
        experiment, labels, model = load_packed(path)
        return Trained(model, experiment, labels, "packed")
    run = Run.read(path)
    experiment, model = load_run(path, best)
    return Trained(model, experiment, run.environment["dataset"]["labels"], "best" if best else "last", run)


def require_no_best(source: str | Path, best: bool) -> None:
    """Verify that the best weights are not asked of an exported file.

    Raises:
        BnnError: They are.
    """
    if best:
        raise BnnError(f"{str(source)!r} is an exported file, which has one set of weights; leave --best out")
