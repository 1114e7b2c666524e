"""The export job: a trained network and the options that every format's `convert` receives."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import files
from bnn_keras.counts import count
from bnn_keras.experiment import Experiment
from bnn_keras.export.description import Description
from bnn_keras.export.freeze import binary_kernels, freeze
from bnn_keras.export.saved_graph import save_graph
from bnn_keras.kernels import Kernel
from bnn_keras.models import build_empty


@dataclasses.dataclass(frozen=True)
class ExportJob:
    """A trained network and how to export it.

    Attributes:
        model: The trained network.
        experiment: Its experiment; None for a model of the user.
        labels: Class names, in the order of the logits.
        floats: Type of all numbers that are not binary weights.
        softmax: Whether the exported model returns probabilities instead of logits.
        batch_size: Images per batch, for formats with a fixed batch size.
        calibration: Returns the images that calibrate the ranges of int8.
    """

    model: tf.keras.Model
    experiment: Experiment | None
    labels: Sequence[str]
    floats: str = "float32"
    softmax: bool = False
    batch_size: int = 1
    calibration: Callable[[], np.ndarray] = lambda: np.empty(0, np.float32)

    @property
    def description(self) -> Description:
        """What the network is, without its weights."""
        if self.experiment:
            return Description.of_experiment(self.experiment, list(self.labels))
        return Description(self.model.name, self.model.input_shape[1:], list(self.labels))

    @functools.cached_property
    def kernels(self) -> dict[str, Kernel]:
        """Binary kernels by layer name."""
        return binary_kernels(self.model)

    @functools.cached_property
    def counts(self) -> dict[str, Any]:
        """Counts of the network (`counts.count`). A frozen one has no quantizers: its experiment's is counted."""
        frozen = any(getattr(layer, "frozen", False) for layer in self.model.layers)
        return count(build_empty(self.experiment) if frozen and self.experiment else self.model)

    @functools.cached_property
    def graph(self) -> Path:
        """Folder with a SavedModel of the frozen network, the input of every converter.

        Binary dense layers are pointwise convolutions in it. `close` removes the folder, or the end of this object.
        """
        network = freeze(self.model, self.kernels, dense_as_convolutions=True)
        with files.writing_temporary():
            path = self._folder[0] / "graph"
            save_graph(network, path, self.softmax)
        return path

    @functools.cached_property
    def _folder(self) -> tuple[Path, Callable[[], object]]:
        """A temporary folder, and the function that removes it."""
        folder = tempfile.mkdtemp(prefix="bnn-keras-")
        return Path(folder), weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the temporary folder, if there is one."""
        if "_folder" in self.__dict__:
            self._folder[1]()
