"""Training, proving and deploying binarized neural networks in Keras, on top of Larq.

Importing this package is cheap: TensorFlow is imported with the first function that needs it.
Larq needs Keras 2, so the package makes TensorFlow use `tf-keras`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from bnn_keras.errors import BnnError

__version__ = "0.1.0"

_PUBLIC = {
    "Experiment": "bnn_keras.experiment",
    "load_experiment": "bnn_keras.experiment",
    "resolve": "bnn_keras.experiment",
    "build_model": "bnn_keras.build",
    "train": "bnn_keras.training",
    "import_checkpoint": "bnn_keras.training",
    "evaluate": "bnn_keras.evaluation",
    "predict": "bnn_keras.evaluation",
    "load_run": "bnn_keras.models",
    "export_run": "bnn_keras.export",
}

__all__ = ["BnnError", "__version__", *_PUBLIC]


def _use_keras_2() -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    module = tensorflow.keras.layers.Layer.__module__
    if not module.startswith("tf_keras"):
        raise BnnError(
            f"TensorFlow has already loaded Keras 3 (tf.keras.layers.Layer is from {module!r}), and Larq needs Keras 2 "
            "(tf-keras); import bnn_keras before the first use of tf.keras, or set TF_USE_LEGACY_KERAS=1 in the "
            "environment"
        )
    # `tf.keras` is Keras 2 now, but TensorFlow settled where `import tensorflow.keras` looks when it was loaded.
    keras_2 = os.path.join(os.path.dirname(sys.modules["tf_keras"].__file__ or ""), "api", "_v2")
    if keras_2 not in tensorflow.__path__:
        tensorflow.__path__.insert(0, keras_2)


_use_keras_2()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
