"""Train, verify and deploy binarized neural networks in Keras, on top of Larq.

Importing this package does not import TensorFlow. The public names and subpackages below are imported on first use.
Larq needs Keras 2, so the import sets `TF_USE_LEGACY_KERAS=1`, which makes TensorFlow use `tf-keras`. It also sets
`TF_ENABLE_ONEDNN_OPTS=1` unless it is set: TensorFlow uses oneDNN's faster convolutions by itself on some CPUs only.

>>> import bnn_keras
>>> experiment = bnn_keras.resolve("lenet5", epochs=2).experiment
>>> experiment.name
'xnor_net/lenet5_mnist_5k'
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from bnn_keras.errors import BnnError

if TYPE_CHECKING:  # The names of _PUBLIC and _SUBPACKAGES for editors and type checkers.
    from bnn_keras import constraints, interop, layers, optimizers, quantizers, schemes
    from bnn_keras.binarizing import binarize
    from bnn_keras.build import build_model
    from bnn_keras.evaluation import evaluate, predict
    from bnn_keras.experiment import Experiment, load_experiment, resolve
    from bnn_keras.export import export_model, export_run
    from bnn_keras.models import load_run
    from bnn_keras.plugins import load_plugin
    from bnn_keras.training import Anneal, import_checkpoint, repair, train

__version__ = "0.1.0"

__all__ = [
    "Anneal",
    "BnnError",
    "Experiment",
    "__version__",
    "binarize",
    "build_model",
    "constraints",
    "evaluate",
    "export_model",
    "export_run",
    "import_checkpoint",
    "interop",
    "layers",
    "load_experiment",
    "load_plugin",
    "load_run",
    "optimizers",
    "predict",
    "quantizers",
    "repair",
    "resolve",
    "schemes",
    "train",
]

# Public names and their modules, imported on first use.
_PUBLIC = {
    "Experiment": "bnn_keras.experiment",
    "load_experiment": "bnn_keras.experiment",
    "resolve": "bnn_keras.experiment",
    "build_model": "bnn_keras.build",
    "binarize": "bnn_keras.binarizing",
    "train": "bnn_keras.training",
    "Anneal": "bnn_keras.training",
    "import_checkpoint": "bnn_keras.training",
    "repair": "bnn_keras.training",
    "evaluate": "bnn_keras.evaluation",
    "predict": "bnn_keras.evaluation",
    "load_run": "bnn_keras.models",
    "load_plugin": "bnn_keras.plugins",
    "export_run": "bnn_keras.export",
    "export_model": "bnn_keras.export",
}
_SUBPACKAGES = ("constraints", "interop", "layers", "optimizers", "quantizers", "schemes")


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
    # `tf.keras` is Keras 2 now, but `import tensorflow.keras` still uses the path set when TensorFlow was loaded.
    keras_2 = os.path.join(os.path.dirname(sys.modules["tf_keras"].__file__ or ""), "api", "_v2")
    if keras_2 not in tensorflow.__path__:
        tensorflow.__path__.insert(0, keras_2)


_use_keras_2()
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # no effect if TensorFlow is loaded


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
