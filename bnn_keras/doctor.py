"""Check this machine: Python, packages, extras, Keras, devices, datasets, free disk, and a training with an export."""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from rich.console import Console

from bnn_keras import catalog
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import resolve
from bnn_keras.export import export_run
from bnn_keras.training import train

_PACKAGES = ("tensorflow", "tf-keras", "larq", "tensorflow-datasets", "numpy")
# The packages of each extra of ours that is needed for a function; "cuda" is a matter of the devices.
_EXTRAS = {
    "tflite": ("larq-compute-engine",),
    "openvino": ("openvino",),
    "int8": ("nncf", "openvino"),
    "onnx": ("tf2onnx", "onnxruntime"),
    "qonnx": ("qonnx", "tf2onnx", "onnxruntime"),
    "torch": ("torch",),
    "sweep": ("optuna",),
}
_GPU, _LARQ_ZOO = "gpu", "larq-zoo"
_NEEDS = (_GPU, _LARQ_ZOO, *_EXTRAS)
_ENOUGH_DISK = 1e9  # bytes: the run of a small network takes some megabytes, prepared CIFAR-10 150
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
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


def examine(data_dir: str | None = None, needs: Collection[str] = ()) -> list[Finding]:
    """Check Python, packages, Keras, devices, datasets and free disk.

    Args:
        data_dir: Folder of prepared datasets; TFDS's default folder if None.
        needs: What must be there: extras of this package, "larq-zoo", "gpu", and names of datasets. All else that is
            missing is optional.

    Raises:
        BnnError: A name in `needs` is unknown.

    Example:
        >>> from bnn_keras.doctor import examine
        >>> next(finding.mark for finding in examine() if finding.name == "tensorflow")
        '✓'
    """
    for name in needs:
        if name not in (*_NEEDS, *catalog.DATASETS):
            raise BnnError(unknown("need", name, (*_NEEDS, *catalog.DATASETS)))
    extra_of: dict[str, str] = {}
    for extra, packages in sorted(_EXTRAS.items(), key=lambda item: item[0] not in needs):
        for package in packages:
            extra_of.setdefault(package, extra)
    gpus = tf.config.list_physical_devices("GPU")
    return [
        _python(),
        *(_package(name) for name in _PACKAGES),
        _keras(),
        _devices(),
        *([_gpu(device) for device in gpus] or [_no_gpu(optional=_GPU not in needs)]),
        *(_dataset(row, data_dir, optional=row.name not in needs) for row in catalog.DATASETS.values()),
        _package(_LARQ_ZOO, "pip install larq-zoo", optional=_LARQ_ZOO not in needs),
        *(
            _package(name, f"pip install 'bnn-keras[{extra}]'", optional=extra not in needs)
            for name, extra in extra_of.items()
        ),
        *(_free_disk(name, folder) for name, folder in _folders(data_dir).items()),
    ]


def self_test() -> Finding:
    """Train LeNet-5 for a step on generated images, export it as a packed file, and verify that file. Takes seconds.

    >>> from bnn_keras.doctor import self_test
    >>> self_test().mark
    '✓'
    """
    name, begin = "self-test", time.perf_counter()
    tiny = ["data.examples=32"]
    with tempfile.TemporaryDirectory(prefix="bnnk-") as folder:
        try:
            experiment = resolve("lenet5", dataset="fake", epochs=1, batch_size=16, overrides=tiny).experiment
            train(experiment, Path(folder, "run"), strategy="single", console=Console(quiet=True))
            sidecar = export_run(Path(folder, "run"), "packed", Path(folder, "net.safetensors"), verify_images=8)
        except Exception as error:  # whatever it is, it belongs into the line
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            cure = "see the traceback with `bnnk --debug train lenet5 --dataset fake --epochs 1`"
            return Finding(name, found, False, cure=cure)
    seconds = time.perf_counter() - begin
    found = (
        f"LeNet-5 trained, packed and opened again: {sidecar['agreement']:.0f} % of predictions agree, {seconds:.1f} s"
    )
    return Finding(name, found)


def _python() -> Finding:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", platform.python_version(), ok, cure="" if ok else "use Python 3.10, 3.11 or 3.12")


def _package(name: str, cure: str = "", optional: bool = False) -> Finding:
    """Check that a package is installed."""
    try:
        return Finding(name, metadata.version(name), optional=optional)
    except metadata.PackageNotFoundError:
        return Finding(name, "absent", False, optional, cure or f"pip install {name}")


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


def _no_gpu(optional: bool) -> Finding:
    """Say why TensorFlow sees no GPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        found, cure = f"hidden by CUDA_VISIBLE_DEVICES={hidden}", "unset CUDA_VISIBLE_DEVICES"
    elif not _NVIDIA_DRIVER.exists():
        found, cure = (
            "none: this system has no NVIDIA driver",
            "training runs on the CPU; for a GPU, install its driver",
        )
    elif not tf.test.is_built_with_cuda():
        found, cure = f"not seen: TensorFlow {tf.__version__} is built without CUDA", "pip install 'bnn-keras[cuda]'"
    else:
        found = "not seen: the driver is there, NVIDIA's libraries are missing or older than TensorFlow needs"
        cure = "pip install 'bnn-keras[cuda]'; `bnnk --debug doctor` shows the messages of TensorFlow"
    return Finding("GPU", found, False, optional, cure)


def _folders(data_dir: str | None) -> dict[str, Path]:
    """Return the folders where runs and prepared datasets are stored by default, by what is stored."""
    return {"runs": Path(), "datasets": Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))}


def _free_disk(name: str, folder: Path) -> Finding:
    """Check the free space in a folder, which may not exist yet."""
    folder = folder.expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    ok = free >= _ENOUGH_DISK
    cure = "" if ok else f"free at least {_ENOUGH_DISK / 1e9:g} GB, or use another folder"
    return Finding(f"free disk for {name}", f"{free / 1e9:.1f} GB in {folder}", ok, optional=True, cure=cure)


def _dataset(row: catalog.DatasetRow, data_dir: str | None, optional: bool) -> Finding:
    if row.module:
        importlib.import_module(row.module)
    builder = tfds.builder(row.name, data_dir=data_dir)
    if builder.info.splits:
        return Finding(f"dataset {row.name}", f"prepared in {builder.data_path}")
    if row.module:
        return Finding(f"dataset {row.name}", "ships with the package", optional=True)
    cure = f"`bnnk datasets prepare {row.name}`; without a network, with --manual-dir DIR"
    return Finding(f"dataset {row.name}", "not prepared", False, optional, cure)
