"""Engines to compare, the runtimes that run their files, and the files of a comparison."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.export import tflite, worker
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.job import ExportJob
from bnn_keras.export.saved_graph import save_graph

# Number of profiled inferences. OpenVINO reports whole microseconds, so a single inference is too short.
_PROFILED_INFERENCES = 20

Infer = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A library that runs exported files.

    Attributes:
        library: The module to import.
        open: A function (file, floats, threads, batch size) → inference function from images to outputs.
        batches: Whether it accepts more than one image at a time.
        binary_share: A function (file, floats, threads, images) → share of the inference time spent in binary layers;
            None if the library has no profiler.
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
    from bnn_keras.export.openvino import inference

    return inference(_openvino(file, floats, threads, batch_size))


def _openvino(file: str, floats: str, threads: int, batch_size: int, **properties: Any) -> Any:
    """Compile a model for a batch size, whatever batch size the file has."""
    import openvino as ov

    from bnn_keras.export.openvino import compiled_model

    model = ov.Core().read_model(file)
    model.reshape([batch_size, *list(model.inputs[0].partial_shape)[1:]])
    return compiled_model(model, threads, floats, **properties)


def _binary_share_of_openvino(file: str, floats: str, threads: int, images: np.ndarray) -> float:
    """Return the share of time of convolutions with one-bit kernels and inputs, without the signs of their inputs."""
    import openvino as ov

    from bnn_keras.export.openvino import is_sign_convolution

    model = ov.Core().read_model(file)
    binary = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "BinaryConvolution" or is_sign_convolution(node)
    }
    compiled = _openvino(file, floats, threads, len(images), PERF_COUNT=True)
    # A fused node has the name of one of its layers; the runtime model lists all of them.
    fused = {
        node.get_friendly_name(): set(node.get_rt_info()["originalLayersNames"].astype(str).split(","))
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()

    def binary_and_all(inferences: int) -> np.ndarray:
        for _ in range(inferences):
            request.infer([images])
        times = {node.node_name: node.real_time.total_seconds() for node in request.get_profiling_info()}
        return np.array([sum(times[name] for name in times if fused.get(name, {name}) & binary), sum(times.values())])

    first = binary_and_all(1)
    # OpenVINO reports the mean over all inferences so far. Subtract the first one, which is a warm-up.
    seconds = _PROFILED_INFERENCES * binary_and_all(_PROFILED_INFERENCES - 1) - first
    return float(seconds[0] / seconds[1])


def _open_c(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    from bnn_keras.export import c

    return c.load_fast(Path(file))


RUNTIMES = {
    "saved_model": Runtime("tensorflow", functools.partial(_open_format, "saved_model")),
    "packed": Runtime("tensorflow", functools.partial(_open_format, "packed")),
    "onnx": Runtime("onnxruntime", functools.partial(_open_format, "onnx")),
    "tflite_float": Runtime("tensorflow.lite", _open_tflite_float),
    "tflite": Runtime("larq_compute_engine.tflite.python.interpreter", _open_tflite, batches=False),
    "c": Runtime("bnn_keras.export.c", _open_c, batches=False),
    "openvino": Runtime("bnn_keras.export.openvino", _open_openvino, binary_share=_binary_share_of_openvino),
}


@dataclasses.dataclass(frozen=True)
class Engine:
    """A way to run a trained network.

    Attributes:
        runtime: The key of its runtime in `RUNTIMES`.
        file: The name of the file to write.
        write: A function that writes the file and returns its binary layers that are not in one bit.
        format: The format whose packages the engine needs.
        float32_size: Whether the reported size is that of all variables in float32 instead of the file's.
    """

    runtime: str
    file: str
    write: Callable[[ExportJob, Path], FloatLayers]
    format: str
    float32_size: bool = False


def _write_keras(source: ExportJob, file: Path) -> FloatLayers:
    save_graph(source.model, file)
    return _all_float(source)


def _write_tflite_float(source: ExportJob, file: Path) -> FloatLayers:
    worker.call("bnn_keras.export.tflite:convert_float", source.graph, file)
    return _all_float(source)


def _write_openvino_float(source: ExportJob, file: Path) -> FloatLayers:
    worker.call("bnn_keras.export.openvino:write", str(source.graph), str(file), 1, None, False)
    return _all_float(source)


def _all_float(source: ExportJob) -> FloatLayers:
    float_layers = dict.fromkeys(source.kernels, "the engine has only float layers")
    return FloatLayers(float_layers, float_layers)


def _write_format(name: str, source: ExportJob, file: Path) -> FloatLayers:
    return importlib.import_module(catalog.FORMATS[name].module).convert(source, file)


ENGINES = {
    "keras": Engine("saved_model", "keras", _write_keras, "saved_model", float32_size=True),
    "tflite_float": Engine("tflite_float", "float.tflite", _write_tflite_float, "saved_model"),
    "tflite_lce": Engine("tflite", "lce.tflite", tflite.convert, "tflite"),
    "openvino_float": Engine("openvino", "float.xml", _write_openvino_float, "openvino"),
    "openvino_binary": Engine("openvino", "binary.xml", functools.partial(_write_format, "openvino"), "openvino"),
    "c": Engine("c", "network.c", functools.partial(_write_format, "c"), "c"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrant:
    """A file of a comparison.

    Attributes:
        source: The run, file or network that the user named.
        weights: "last" or "best" for a run, "packed" for a model of the package, "file" for an exported file, "random"
            for a network.
        network: The name of the network. Files of the same network are compared with each other.
        engine: The name of the engine (`ENGINES`), or of the format for an exported file.
        runtime: The key of the runtime in `RUNTIMES`.
        file: The path of the file.
        floats: The type of all numbers that are not binary.
        bytes: The size in bytes; for the engine `keras`, that of all variables in float32, and of C files that of the
            constants.
        shape: Height, width and channels of the images.
        binary_layers: The number of binary layers of the network, if known.
        packed_layers: The number of binary layers that the file stores in one bit per weight, if known.
        computed_layers: The number of binary layers that the engine computes in one bit, if known.
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
    computed_layers: int | None = None
