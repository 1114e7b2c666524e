"""Collect the content of environment.json: versions, hardware, git commit, command line, seed and dataset."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

import bnn_keras
from bnn_keras import runs
from bnn_keras.data import Dataset, check_record, record_of
from bnn_keras.experiment import Experiment
from bnn_keras.runs import Run

_PACKAGES = ("tensorflow", "tf-keras", "larq", "tensorflow-datasets", "numpy")


def collect_environment(experiment: Experiment, dataset: Dataset, command: Sequence[str]) -> dict[str, Any]:
    """Return versions, hardware, devices, git commit, command line, seed and dataset as a JSON document.

    Args:
        experiment: The experiment, for its seed.
        dataset: The dataset of the experiment.
        command: The command line; `sys.argv` if empty.
    """
    return {
        "bnn_keras": bnn_keras.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "hardware": _hardware(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "command": list(command) or sys.argv,
        "seed": experiment.seed,
        "dataset": record_of(dataset),
    }


def require_same_images(run: Run, dataset: Dataset) -> None:
    """Verify that a dataset has the classes and images that a run was trained on, as far as the run records them.

    Raises:
        BnnError: Version, classes or image files differ.
    """
    if (run / runs.ENVIRONMENT).is_file():
        check_record(dataset, run.environment.get("dataset") or {}, str(run.directory))


def _hardware() -> str:
    """Return the names of the GPUs with their number, or else the processor with its number of cores."""
    gpus = [
        tf.config.experimental.get_device_details(device).get("device_name", "GPU")
        for device in tf.config.list_physical_devices("GPU")
    ]
    if gpus:
        return ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus))
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} × {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Return the git commit of the package's checkout, or None if it does not run from one."""
    folder = Path(bnn_keras.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
