"""TensorFlow's SavedModel, for TensorFlow Serving. Every kernel is float."""

from __future__ import annotations

import shutil
from pathlib import Path

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor, with_keras
from bnn_keras.export.saved_graph import OUTPUT
from bnn_keras.export.threads import limit_threads


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write a folder whose signature `serving_default` maps `images` to `outputs`.

    Returns:
        All binary layers, which are stored and computed in float.
    """
    shutil.copytree(job.graph, file)
    float_layers = dict.fromkeys(job.kernels, "the format has only float kernels")
    return FloatLayers(float_layers, float_layers)


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a folder with TensorFlow.

    Raises:
        BnnError: The folder is not a SavedModel.
    """
    limit_threads(threads)
    try:
        loaded = tf.saved_model.load(str(file))
        signature = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError) as error:
        raise BnnError(f"cannot read {str(file)!r} as a SavedModel ({error}); export again") from error
    signature.owner = loaded  # keeps the variables alive
    return with_keras(lambda images: signature(images=images)[OUTPUT])
