"""ONNX, by tf2onnx. Every kernel is float."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor

OPSET = 17


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write an `.onnx` file that maps `images` (batch, height, width, channels) to `outputs`.

    Returns:
        All binary layers, which are stored and computed in float.

    Raises:
        BnnError: The converter crashed.
    """
    worker.call(f"{__name__}:write", str(job.graph), str(file))
    float_layers = dict.fromkeys(job.kernels, "the format has only float kernels")
    return FloatLayers(float_layers, float_layers)


def write(graph: str, file: str) -> None:
    """Convert a SavedModel to an `.onnx` file. Runs in the worker."""
    import tensorflow as tf
    import tf2onnx

    loaded = tf.saved_model.load(graph)
    function = loaded.signatures["serving_default"]
    graph_def = tf2onnx.tf_loader.from_function(
        function, [function.inputs[0].name], [output.name for output in function.outputs]
    )
    with tf.Graph().as_default() as tf_graph:
        tf.import_graph_def(graph_def, name="")
        model = tf2onnx.tfonnx.process_tf_graph(
            tf_graph,
            opset=OPSET,
            input_names=[function.inputs[0].name],
            output_names=[output.name for output in function.outputs],
        ).make_model("bnn-keras")
    Path(file).write_bytes(model.SerializeToString())


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a file with ONNX Runtime.

    Raises:
        BnnError: The file cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise BnnError(f"ONNX Runtime cannot read {str(file)!r} ({error}); export again") from error

    def predict(images: np.ndarray) -> np.ndarray:
        return session.run(None, {session.get_inputs()[0].name: images})[0]

    return predict
