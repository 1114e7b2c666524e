"""What runs in processes of its own: turns of files, and each file alone. `comparing` has it called there."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras.benchmark.engines import RUNTIMES, Entrant, Infer
from bnn_keras.export.threads import limit_threads

_PROFILED_BATCH = 16  # images of each inference that shares of time are of


def take_turns(
    group: Sequence[Entrant], threads: int, batch_size: int, rounds: int, seconds: float
) -> list[list[list[float]] | None]:
    """Seconds of each inference, of each round, of each file; None for one that takes no such batches."""
    _begin(threads)
    opened: list[tuple[Infer, np.ndarray] | None] = []
    for entrant in group:
        runtime = RUNTIMES[entrant.runtime]
        if batch_size == 1 or runtime.batches:
            opened.append(
                (runtime.open(entrant.file, entrant.floats, threads, batch_size), _images(entrant, batch_size))
            )
        else:
            opened.append(None)
    for one in opened:
        for _ in range(2 if one else 0):  # the first inference is no measure of the others
            one[0](one[1])
    taken = [[_turn(*one, seconds) if one else [] for one in opened] for _ in range(rounds)]
    return [list(turns) if one else None for one, turns in zip(opened, zip(*taken, strict=True), strict=True)]


def alone(entrant: Entrant, threads: int) -> tuple[int | None, float | None]:
    """Memory for loading and the first inference, and the share of time in binary layers."""
    _begin(threads)
    runtime, images = RUNTIMES[entrant.runtime], _images(entrant, 1)
    importlib.import_module(runtime.library)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts
    before = _kilobytes("VmRSS")
    runtime.open(entrant.file, entrant.floats, threads, 1)(images)
    peak = _kilobytes("VmHWM")
    memory = None if before is None or peak is None else 1024 * max(0, peak - before)
    images = _images(entrant, _PROFILED_BATCH)
    return memory, runtime.binary_share and runtime.binary_share(entrant.file, entrant.floats, threads, images)


def _begin(threads: int) -> None:
    """Settles for TensorFlow what it takes before its first use alone."""
    tf.config.set_visible_devices([], "GPU")
    limit_threads(threads)


def _images(entrant: Entrant, batch_size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch_size, *entrant.shape)).astype(np.float32)


def _turn(infer: Infer, images: np.ndarray, seconds: float) -> list[float]:
    times: list[float] = []
    while sum(times) < seconds or not times:
        begun = time.perf_counter()
        infer(images)
        times.append(time.perf_counter() - begun)
    return times


def _kilobytes(key: str) -> int | None:
    """A line of this process's /proc/self/status; None where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
    return None
