"""The engines that are compared, what runs their files, and the files that take part."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.export import tflite, worker
from bnn_keras.export.job import ExportJob
from bnn_keras.export.saved_graph import save_graph

# Inferences that shares of time are of: OpenVINO counts in whole microseconds.
_PROFILED = 20

Infer = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A library that runs files.

    Attributes:
        library: What to import for it.
        open: (file, floats, threads, batch size) → images → outputs.
        batches: Whether it takes several images at a time.
        binary_share: (file, floats, threads, images) → share of the time that it computes binary layers; None where
            the library does not tell.
    """

    library: str
    open: Callable[[str, str, int, int], Infer]
    batches: bool = True
    binary_share: Callable[[str, str, int, np.ndarray], float] | None = None


def _open_format(name: str, file: str, floats: str, threads: int, batch_size: int) -> Infer:
    return importlib.import_module(catalog.FORMATS[name].module).load(Path(file), floats, None, threads)


def _open_tflite_float(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    interpreter = tf.lite.Interpreter(file, num_threads=threads)
    (images,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(images["index"], [batch_size, *images["shape"][1:]])
    interpreter.allocate_tensors()

    def infer(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    return infer


def _open_tflite(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    return tflite.interpreter(file, threads).predict


def _open_openvino(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    compiled = _openvino(file, floats, threads, batch_size)
    return lambda images: compiled(images)[0]


def _openvino(file: str, floats: str, threads: int, batch_size: int, **properties: Any) -> Any:
    """A compiled model; it takes batches of this size, whatever the file has settled."""
    import openvino as ov

    from bnn_keras.export.openvino import compiled_model

    model = ov.Core().read_model(file)
    model.reshape([batch_size, *list(model.inputs[0].partial_shape)[1:]])
    return compiled_model(model, threads, floats, **properties)


def _binary_share_of_openvino(file: str, floats: str, threads: int, images: np.ndarray) -> float:
    """The share of convolutions with one-bit kernels and inputs; making their inputs' signs is not in it."""
    import openvino as ov

    from bnn_keras.export.openvino import is_sign_convolution

    model = ov.Core().read_model(file)
    binary = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "BinaryConvolution" or is_sign_convolution(node)
    }
    compiled = _openvino(file, floats, threads, len(images), PERF_COUNT=True)
    # What runs as one node is named as one of the layers that are in it; the runtime's graph knows them all.
    merged = {
        node.get_friendly_name(): set(node.get_rt_info()["originalLayersNames"].astype(str).split(","))
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()

    def binary_and_all(inferences: int) -> np.ndarray:
        for _ in range(inferences):
            request.infer([images])
        took = {node.node_name: node.real_time.total_seconds() for node in request.get_profiling_info()}
        return np.array([sum(took[name] for name in took if merged.get(name, {name}) & binary), sum(took.values())])

    first = binary_and_all(1)
    # What it gives are means since the beginning; the first inference is no measure of the others.
    seconds = _PROFILED * binary_and_all(_PROFILED - 1) - first
    return float(seconds[0] / seconds[1])


RUNTIMES = {
    "saved_model": Runtime("tensorflow", functools.partial(_open_format, "saved_model")),
    "packed": Runtime("tensorflow", functools.partial(_open_format, "packed")),
    "onnx": Runtime("onnxruntime", functools.partial(_open_format, "onnx")),
    "tflite_float": Runtime("tensorflow.lite", _open_tflite_float),
    "tflite": Runtime("larq_compute_engine.tflite.python.interpreter", _open_tflite, batches=False),
    "openvino": Runtime("bnn_keras.export.openvino", _open_openvino, binary_share=_binary_share_of_openvino),
}


@dataclasses.dataclass(frozen=True)
class Engine:
    """A way to run a trained network.

    Attributes:
        runtime: What runs its file (`RUNTIMES`).
        file: The file's name.
        write: Writes the file; the binary layers that are float in it.
        format: The format whose packages it needs.
    """

    runtime: str
    file: str
    write: Callable[[ExportJob, Path], Collection[str]]
    format: str


def _write_keras(source: ExportJob, file: Path) -> Collection[str]:
    save_graph(source.model, file)
    return list(source.kernels)


def _write_tflite_float(source: ExportJob, file: Path) -> Collection[str]:
    worker.call("bnn_keras.export.tflite:convert_float", source.graph, file)
    return list(source.kernels)


def _write_openvino_float(source: ExportJob, file: Path) -> Collection[str]:
    worker.call("bnn_keras.export.openvino:write", str(source.graph), str(file), 1, None, False)
    return list(source.kernels)


def _write_openvino(source: ExportJob, file: Path) -> Collection[str]:
    return importlib.import_module(catalog.FORMATS["openvino"].module).convert(source, file)


ENGINES = {
    "keras": Engine("saved_model", "keras", _write_keras, "saved_model"),
    "tflite_float": Engine("tflite_float", "float.tflite", _write_tflite_float, "saved_model"),
    "tflite_lce": Engine("tflite", "lce.tflite", tflite.convert, "tflite"),
    "openvino_float": Engine("openvino", "float.xml", _write_openvino_float, "openvino"),
    "openvino_binary": Engine("openvino", "binary.xml", _write_openvino, "openvino"),
}


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A file that takes part.

    Attributes:
        source: What the user called it.
        weights: "last" or "best" of a run, "file", or "random".
        network: Its network; files of one network are compared with each other.
        engine: What runs it: one of `ENGINES`, or a format.
        runtime: The library that does.
        file: Where it is.
        floats: Type of what is not binary.
        bytes: Its size; for Keras that of all numbers in float32.
        shape: Height, width, channels of its images.
        binary_layers: How many binary layers the network has.
        packed_layers: How many of them the engine computes in one bit.
    """

    source: str
    weights: str
    network: str
    engine: str
    runtime: str
    file: str
    floats: str
    bytes: int
    shape: tuple[int, ...]
    binary_layers: int | None = None
    packed_layers: int | None = None
