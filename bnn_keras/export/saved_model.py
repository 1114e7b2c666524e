"""TensorFlow's SavedModel, for TensorFlow Serving: every kernel in float."""

from __future__ import annotations

import shutil
from pathlib import Path

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.export.graphs import OUTPUT, Predictor, Source, limit_threads, with_keras


def convert(source: Source, file: Path) -> dict[str, str]:
    """Writes a folder, whose signature `serving_default` takes `images` and gives `outputs`.

    Returns:
        Names of the binary layers that stayed float, all, and why.
    """
    shutil.copytree(source.graph, file)
    return dict.fromkeys(source.kernels, "the format has float kernels alone")


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Predicts with a folder.

    Raises:
        BnnError: It cannot be read.
    """
    limit_threads(threads)
    try:
        loaded = tf.saved_model.load(str(file))
        signature = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError) as error:
        raise BnnError(f"cannot read {str(file)!r} as a SavedModel ({error}); export it again") from error
    signature.owner = loaded  # which holds the variables
    return with_keras(lambda images: signature(images=images)[OUTPUT])
