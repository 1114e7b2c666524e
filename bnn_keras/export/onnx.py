"""ONNX, by tf2onnx: every kernel in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.graphs import Predictor, Source

OPSET = 17


def convert(source: Source, file: Path) -> dict[str, str]:
    """Writes an `.onnx` that takes `images` (batch, height, width, channels) and gives `outputs`.

    Returns:
        Names of the binary layers that stayed float, all, and why.

    Raises:
        BnnError: The converter crashed.
    """
    worker.call(f"{__name__}:write", str(source.graph), str(file))
    return dict.fromkeys(source.kernels, "the format has float kernels alone")


def write(graph: str, file: str) -> None:
    """Writes the `.onnx` of a SavedModel."""
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
    """Predicts with a file by ONNX Runtime.

    Raises:
        BnnError: It cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise BnnError(f"ONNX Runtime cannot read {str(file)!r} ({error}); export it again") from error

    def predict(images: np.ndarray) -> np.ndarray:
        return session.run(None, {session.get_inputs()[0].name: images})[0]

    return predict
