"""Check this machine: Python, packages, Keras, devices and datasets, and which optional packages are missing."""

from __future__ import annotations

import dataclasses
import importlib
import platform
import sys
from importlib import metadata
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from bnn_keras import catalog

_PACKAGES = ("tensorflow", "tf-keras", "larq", "tensorflow-datasets", "numpy")
# Optional packages, and how to install them.
_OPTIONAL_PACKAGES = {
    "larq-zoo": "pip install larq-zoo",
    "larq-compute-engine": "pip install 'bnn-keras[tflite]'",
    "openvino": "pip install 'bnn-keras[openvino]'",
    "nncf": "pip install 'bnn-keras[int8]'",
    "tf2onnx": "pip install 'bnn-keras[onnx]'",
    "onnxruntime": "pip install 'bnn-keras[onnx]'",
    "qonnx": "pip install 'bnn-keras[qonnx]'",
    "torch": "pip install 'bnn-keras[torch]'",
    "optuna": "pip install 'bnn-keras[sweep]'",
}
# TensorFlow 2.19's wheels have no kernels for GPUs of this compute capability and above.
_UNSUPPORTED_COMPUTE_CAPABILITY = (12, 0)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: What was checked.
        found: What was found.
        ok: Whether the result is sufficient.
        optional: Whether the toolkit works without it.
        cure: How to fix it; empty if nothing is to be done.
    """

    name: str
    found: str
    ok: bool = True
    optional: bool = False
    cure: str = ""

    @property
    def mark(self) -> str:
        """✓ if ok, – if optional and missing, else ✗."""
        return "✓" if self.ok else "–" if self.optional else "✗"

    def to_document(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return dataclasses.asdict(self)


def examine(data_dir: str | None = None) -> list[Finding]:
    """Check Python, packages, Keras, devices and datasets.

    Args:
        data_dir: Folder of prepared datasets; TFDS's default folder if None.

    Example:
        >>> from bnn_keras.doctor import examine
        >>> next(finding.mark for finding in examine() if finding.name == "tensorflow")
        '✓'
    """
    return [
        _python(),
        *(_package(name) for name in _PACKAGES),
        _keras(),
        _devices(),
        *(_gpu(device) for device in tf.config.list_physical_devices("GPU")),
        *(_dataset(row, data_dir) for row in catalog.DATASETS.values()),
        *(_package(name, cure) for name, cure in _OPTIONAL_PACKAGES.items()),
    ]


def _python() -> Finding:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", platform.python_version(), ok, cure="" if ok else "use Python 3.10, 3.11 or 3.12")


def _package(name: str, optional_cure: str | None = None) -> Finding:
    """Check that a package is installed. It is optional if `optional_cure` is given."""
    optional = optional_cure is not None
    try:
        return Finding(name, metadata.version(name), optional=optional)
    except metadata.PackageNotFoundError:
        return Finding(name, "absent", False, optional, optional_cure or f"pip install {name}")


def _keras() -> Finding:
    module = tf.keras.layers.Layer.__module__
    ok = module.startswith("tf_keras")
    return Finding("Keras behind TensorFlow", module, ok, cure="" if ok else "set TF_USE_LEGACY_KERAS=1")


def _device_name(device: tf.config.PhysicalDevice) -> str:
    return f"{device.device_type} {device.name.split(':')[-1]}"


def _devices() -> Finding:
    return Finding("devices", ", ".join(map(_device_name, tf.config.list_physical_devices())))


def _gpu(device: tf.config.PhysicalDevice) -> Finding:
    """Check that TensorFlow has kernels for a GPU."""
    details = tf.config.experimental.get_device_details(device)
    model = details.get("device_name", "unknown model")
    capability = details.get("compute_capability")
    if capability is None:  # not an NVIDIA GPU
        return Finding(_device_name(device), model)
    version = ".".join(map(str, capability))
    found = f"{model}, compute capability {version}"
    if tuple(capability) < _UNSUPPORTED_COMPUTE_CAPABILITY:
        return Finding(_device_name(device), found)
    cure = (
        f"TensorFlow {tf.__version__} has no kernels for compute capability {version}; use a GPU with compute "
        "capability below 12.0, or the CPU with CUDA_VISIBLE_DEVICES=-1"
    )
    return Finding(_device_name(device), found, False, cure=cure)


def _dataset(row: catalog.DatasetRow, data_dir: str | None) -> Finding:
    if row.module:
        importlib.import_module(row.module)
    builder = tfds.builder(row.name, data_dir=data_dir)
    if builder.info.splits:
        return Finding(f"dataset {row.name}", f"prepared in {builder.data_path}")
    if row.module:
        return Finding(f"dataset {row.name}", "ships with the package", optional=True)
    cure = "downloaded when first used; without a network, set --manual-dir DIR"
    return Finding(f"dataset {row.name}", "not prepared", optional=True, cure=cure)
