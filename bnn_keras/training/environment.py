"""Where, with what and on which data a run is made: the content of environment.json."""

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
from bnn_keras.data import Dataset
from bnn_keras.experiment import Experiment

_PACKAGES = ("tensorflow", "tf-keras", "larq", "tensorflow-datasets", "numpy")


def environment(experiment: Experiment, images: Dataset, command: Sequence[str]) -> dict[str, Any]:
    """Versions, hardware, devices, git commit, command line, seed, dataset."""
    return {
        "bnn_keras": bnn_keras.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "hardware": hardware(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "command": list(command) or sys.argv,
        "seed": experiment.seed,
        "dataset": {
            "name": images.info.name,
            "version": images.version,
            "train_examples": images.examples(images.info.train),
            "test_examples": images.examples(images.info.test),
            "labels": images.labels,
        },
    }


def hardware() -> str:
    """What computes, for people: the GPUs, else the processor with its number of cores."""
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
    """The commit of the checkout that the package runs from; None where it is installed otherwise."""
    folder = Path(bnn_keras.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
