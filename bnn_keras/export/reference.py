"""The file of the reference's own trainer: latent weights and the progress of the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras import interop


def tensors(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """Return the tensors of the reference's state dict. Arguments and errors are those of `interop.state_dict`."""
    return interop.state_dict(model)


def write(file: Path, model: tf.keras.Model, progress: interop.Progress) -> None:
    """Write the file. Arguments and errors are those of `interop.write_checkpoint`."""
    interop.write_checkpoint(file, model, progress)
