"""What this machine has, and what it lacks for what."""

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

_PACKAGES = ("tensorflow", "tf-keras", "larq", "larq-zoo", "tensorflow-datasets", "numpy")
_EXTRAS = {
    "larq-compute-engine": "tflite",
    "openvino": "openvino",
    "nncf": "int8",
    "tf2onnx": "onnx",
    "onnxruntime": "onnx",
    "torch": "torch",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: What it is.
        found: What was found.
        ok: Whether that will do.
        optional: Whether one can work without it.
        cure: What to do about it.
    """

    name: str
    found: str
    ok: bool = True
    optional: bool = False
    cure: str = ""

    @property
    def mark(self) -> str:
        """✓, ✗, or – for something optional that is absent."""
        return "✓" if self.ok else "–" if self.optional else "✗"

    def to_document(self) -> dict[str, Any]:
        """The finding as plain values."""
        return dataclasses.asdict(self)


def examine(data_dir: str | None = None) -> list[Finding]:
    """Looks at Python, packages, Keras, devices, datasets and extras.

    Args:
        data_dir: Where prepared datasets are; TFDS's own folder where absent.
    """
    return [
        _python(),
        *(_package(name) for name in _PACKAGES),
        _keras(),
        _devices(),
        *(_dataset(row, data_dir) for row in catalog.DATASETS.values()),
        *(_extra(package, extra) for package, extra in _EXTRAS.items()),
    ]


def _python() -> Finding:
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", platform.python_version(), fits, cure="" if fits else "use Python 3.10, 3.11 or 3.12")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    version = _version(name)
    cure = "" if version else f"pip install {name}"
    return Finding(name, version or "absent", bool(version), optional=name == "larq-zoo", cure=cure)


def _keras() -> Finding:
    module = tf.keras.layers.Layer.__module__
    fits = module.startswith("tf_keras")
    return Finding("Keras behind TensorFlow", module, fits, cure="" if fits else "set TF_USE_LEGACY_KERAS=1")


def _devices() -> Finding:
    names = [f"{device.device_type} {device.name.split(':')[-1]}" for device in tf.config.list_physical_devices()]
    return Finding("devices", ", ".join(names))


def _dataset(row: catalog.DatasetRow, data_dir: str | None) -> Finding:
    if row.module:
        importlib.import_module(row.module)
    builder = tfds.builder(row.name, data_dir=data_dir)
    if builder.info.splits:
        return Finding(f"dataset {row.name}", f"prepared in {builder.data_path}")
    cure = "" if row.module else "downloaded when first used; without a network: --manual-dir DIR"
    return Finding(f"dataset {row.name}", "ships with the package" if row.module else "not prepared", True, True, cure)


def _extra(package: str, extra: str) -> Finding:
    version = _version(package)
    cure = "" if version else f"pip install 'bnn-keras[{extra}]'"
    return Finding(package, version or "absent", bool(version), optional=True, cure=cure)
