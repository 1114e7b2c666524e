"""What the formats share: the frozen network with all that a file of it needs, and the SavedModel converters read."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export.freeze import binary_kernels, freeze
from bnn_keras.export.packed_reader import Kernel

INPUT, OUTPUT = "images", "outputs"

Predictor = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network, and how it shall leave.

    Attributes:
        model: The network.
        experiment: What it is.
        labels: Names of its classes.
        floats: Type of numbers that are not binary.
        softmax: Whether the file gives probabilities instead of logits.
        batch_size: Images of a batch, where the file settles that.
        calibration: Images to find the ranges of int8 with.
    """

    model: tf.keras.Model
    experiment: Experiment
    labels: Sequence[str]
    floats: str = "float32"
    softmax: bool = False
    batch_size: int = 1
    calibration: Callable[[], np.ndarray] = lambda: np.empty(0, np.float32)

    @functools.cached_property
    def kernels(self) -> dict[str, Kernel]:
        """The binary kernels, by the names of their layers."""
        return binary_kernels(self.model)

    @functools.cached_property
    def graph(self) -> Path:
        """A SavedModel of the frozen network, in the form that engines for binary networks know; there for this object.

        Dense layers are convolutions in it.
        """
        folder = tempfile.mkdtemp(prefix="bnn-keras-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "graph"
        save_graph(freeze(self.model, self.kernels, dense_as_convolutions=True), path, self.softmax)
        return path


def save_graph(network: tf.keras.Model, folder: Path, softmax: bool = False) -> None:
    """Writes a SavedModel with one signature: `images` (batch, height, width, channels) → `outputs` (batch, classes).

    Args:
        network: The frozen network.
        folder: The folder to write.
        softmax: Give probabilities instead of logits.
    """
    module = tf.Module()
    module.variables_of_network = network.variables

    def outputs(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(images, training=False)
        return {OUTPUT: tf.nn.softmax(logits) if softmax else logits}

    images = tf.TensorSpec((None, *network.input_shape[1:]), name=INPUT)
    module.serve = tf.function(outputs, input_signature=[images])
    # Quantizers' gradients hold variables that are no weights; nobody trains what is saved here.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=module.serve, options=options)


def layers_with(kernels: dict[str, Kernel], constants: Sequence[tuple[np.ndarray, str]]) -> dict[str, str]:
    """The layers whose binary kernels are among a file's constants, though filters' signs and scales may have changed.

    Args:
        kernels: Binary kernels by the names of their layers.
        constants: Kernels, (filters, height, width, inputs) or (units, inputs), and why they are float.

    Returns:
        The reasons by the names of the layers.
    """
    found = {_key(constant.reshape(len(constant), -1)): reason for constant, reason in constants}
    keys = {
        name: _key(np.moveaxis(kernel.signs, -1, 0).reshape(kernel.signs.shape[-1], -1))
        for name, kernel in kernels.items()
    }
    return {name: found[key] for name, key in keys.items() if key in found}


def _key(filters: np.ndarray) -> bytes:
    negative = np.signbit(filters)
    return str(filters.shape).encode() + np.packbits(negative ^ negative[:, :1]).tobytes()


def in_batches(predict: Predictor, batch_size: int) -> Predictor:
    """A predictor for any number of images, from one for batches of one size; the last batch is filled up."""

    def run(images: np.ndarray) -> np.ndarray:
        results = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            missing = batch_size - len(batch)
            full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
            results.append(np.asarray(predict(full))[: len(batch)])
        return np.concatenate(results)

    return run


def with_keras(function: Callable[..., tf.Tensor]) -> Predictor:
    """A predictor from a model or a function of TensorFlow."""
    compiled = tf.function(lambda images: function(images), reduce_retracing=True)
    return lambda images: compiled(tf.constant(images)).numpy()


def limit_threads(threads: int | None) -> None:
    """Sets TensorFlow's threads, which goes only before anything of it runs.

    Raises:
        BnnError: TensorFlow runs already with another number.
    """
    if threads is None or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise BnnError(
            f"cannot limit TensorFlow to {threads} thread(s): it runs already; ask before its first use, in a program "
            "of its own"
        ) from error
