"""Where, with what and on which data a run is made: the content of environment.json."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

import bnn_keras
from bnn_keras.data import Images
from bnn_keras.experiment import Experiment

_PACKAGES = ("tensorflow", "tf-keras", "larq", "tensorflow-datasets", "numpy")


def environment(experiment: Experiment, images: Images, command: Sequence[str]) -> dict[str, Any]:
    """Versions, devices, git commit, command line, seed, data set."""
    return {
        "bnn_keras": bnn_keras.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "command": list(command) or sys.argv,
        "seed": experiment.seed,
        "dataset": {
            "name": images.row.name,
            "version": str(images.builder.version),
            "train_examples": images.examples(images.row.train),
            "test_examples": images.examples(images.row.test),
            "labels": images.labels,
        },
    }


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
