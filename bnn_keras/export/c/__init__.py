"""C99 for microcontrollers: one `.c` and one `.h` file without allocation or libraries.

Every binary kernel is stored in one bit per weight. Layers with binary inputs are computed with XNOR and popcount,
binary layers with real inputs with additions and subtractions. All others are float; or int8, with inputs that the
program rounds, by one scale for each image and layer.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bnn_keras
from bnn_keras.errors import BnnError
from bnn_keras.export.c.compiler import FAST, SANITIZED, Compilation, find_compiler
from bnn_keras.export.c.source import write_source
from bnn_keras.export.c.steps import plan
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.freeze import freeze
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor

MAX_BYTES = 8 << 20  # of constants
_SANITIZED_IMAGES = 32

_FIELDS = {"flash_bytes": "FLASH_BYTES", "ram_bytes": "RAM_BYTES"}


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write a `.c` file and the `.h` file beside it.

    Args:
        job: The network.
        file: The `.c` file to write.

    Returns:
        No layers: every binary layer is stored and computed in one bit per weight.

    Raises:
        BnnError: There is no C compiler to verify the file with, the name of the file cannot stand in C, or the network
            has layers that cannot be written as C, or too many weights.
    """
    find_compiler()
    if not re.fullmatch(r"[\w.+ -]+", file.name, re.ASCII):
        raise BnnError(f"{file.name!r} cannot be the name of a C file; use letters, digits and any of . _ + -")
    header = file.with_suffix(".h")
    planned = plan(freeze(job.model, job.kernels), job.kernels, job.floats)
    source, declarations = write_source(planned, job.description, header.name, bnn_keras.__version__)
    header.write_text(declarations, encoding="ascii")
    size = measure(file)["flash_bytes"]
    if size > MAX_BYTES:
        raise BnnError(
            f"the network has {size} bytes of constants; expected at most {MAX_BYTES} in C for a microcontroller: use "
            "another format"
        )
    file.write_text(source, encoding="ascii")
    return FloatLayers({}, {})


def measure(file: Path) -> dict[str, int]:
    """Return the fields of the sidecar with the sizes on a device.

    Returns:
        `flash_bytes` of constants, without code; `ram_bytes` of buffers, without the stack.
    """
    defines = _defines(file)
    return {field: defines[name] for field, name in _FIELDS.items()}


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that compiles a file, and runs it in a process of its own.

    The first images run with sanitizers, which stop the program at an access out of bounds and at undefined behaviour.
    Which memory it accesses does not depend on the image. The others run without them, 10 times as fast.

    Raises:
        BnnError: There is no C compiler, the file cannot be compiled, or the program fails; or `batch_size` is not 1.
    """
    if batch_size not in (None, 1):
        raise BnnError(f"{str(file)!r} has a batch size of 1, got {batch_size}; use --batch-size 1")
    classes = _defines(file)["CLASSES"]
    compilation = Compilation(file)
    compilation.program(SANITIZED)
    remaining = _SANITIZED_IMAGES

    def predict(images: np.ndarray) -> np.ndarray:
        nonlocal remaining
        first, others = images[:remaining], images[remaining:]
        remaining -= len(first)
        parts = [(part, options) for part, options in ((first, SANITIZED), (others, FAST)) if len(part)]
        return np.concatenate([_run(compilation.program(options), part, classes, file) for part, options in parts])

    return predict


def _run(program: Path, images: np.ndarray, classes: int, file: Path) -> np.ndarray:
    """Return the logits that a program (`program.c`) writes for images."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # nothing is allocated
    inputs = np.ascontiguousarray(images, np.float32).tobytes()
    result = subprocess.run([program], input=inputs, capture_output=True, check=False, env=environment)
    logits = np.frombuffer(result.stdout[: 4 * len(images) * classes], np.float32)
    if result.returncode or logits.size != len(images) * classes:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise BnnError(f"the program of {str(file)!r} fails ({reason.strip():.200}); export again")
    return logits.reshape(len(images), classes)


def load_fast(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that computes the logits of images with a shared library in this process, without sanitizers.

    Raises:
        BnnError: There is no C compiler, or the file cannot be compiled.
    """
    classes = _defines(file)["CLASSES"]
    compilation = Compilation(file)
    function = ctypes.CDLL(str(compilation.library())).bnn_predict

    def infer(images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images, np.float32)
        logits = np.empty((len(images), classes), np.float32)
        for image, row in zip(images, logits, strict=True):
            function(ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(row.ctypes.data))
        return logits

    return infer


def _defines(file: Path) -> dict[str, int]:
    """Return the numbers that the `.h` file of a network defines.

    Raises:
        BnnError: It is missing, or is not one of a network.
    """
    header = file.with_suffix(".h")
    try:
        text = header.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise BnnError(f"cannot read {str(header)!r} ({error}); keep it beside {file.name}, or export again") from error
    found = {name: int(value) for name, value in re.findall(r"^#define BNN_(\w+) (\d+)$", text, re.MULTILINE)}
    if "CLASSES" not in found:
        raise BnnError(f"{str(header)!r} does not define BNN_CLASSES; export again")
    return found
