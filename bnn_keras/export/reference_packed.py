"""The packed file of binary-wide-resnet: a state dict whose binary kernels are signs, eight to a byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras import interop


def tensors(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """Return the tensors of the file. Arguments and errors are those of `interop.state_dict`."""
    return interop.state_dict(model, packed=True)


def write(file: Path, model: tf.keras.Model, progress: interop.Progress) -> None:
    """Write the file, which has no progress. Arguments and errors are those of `interop.write_checkpoint`."""
    interop.write_checkpoint(file, model, packed=True)
