"""Measurements that run in separate processes: files in turns, and each file alone. Called by `comparing`."""

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

_PROFILED_BATCH = 16  # images per profiled inference


def measure_in_turns(
    group: Sequence[Entrant], threads: int, batch_size: int, rounds: int, seconds: float
) -> list[list[list[float]] | None]:
    """Measure the files of a group in turns.

    Args:
        group: The files.
        threads: The number of threads.
        batch_size: Images per inference.
        rounds: The number of turns of each file.
        seconds: The length of a turn. An inference that has started is finished.

    Returns:
        For each file, for each round, the seconds of each inference; None for a file that does not accept this batch
        size.
    """
    _prepare(threads)
    times: list[list[list[float]] | None] = []
    turns: list[tuple[Infer, np.ndarray, list[list[float]]]] = []
    for entrant in group:
        runtime = RUNTIMES[entrant.runtime]
        if batch_size == 1 or runtime.batches:
            infer = runtime.open(entrant.file, entrant.floats, threads, batch_size)
            measured: list[list[float]] = []
            turns.append((infer, _images(entrant, batch_size), measured))
            times.append(measured)
        else:
            times.append(None)
    for infer, images, _ in turns:
        for _ in range(2):  # warm-up
            infer(images)
    for _ in range(rounds):
        for infer, images, measured in turns:
            measured.append(_turn(infer, images, seconds))
    return times


def measure_alone(entrant: Entrant, threads: int) -> tuple[int | None, float, float | None]:
    """Measure a file in a process of its own.

    Returns:
        The memory in bytes and the time in seconds for loading and the first inference, and the share of time in binary
        layers. None for what the system or the library does not report.
    """
    _prepare(threads)
    runtime, images = RUNTIMES[entrant.runtime], _images(entrant, 1)
    importlib.import_module(runtime.library)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _kilobytes("VmRSS")
    start = time.perf_counter()
    runtime.open(entrant.file, entrant.floats, threads, 1)(images)
    load = time.perf_counter() - start
    peak = _kilobytes("VmHWM")
    memory = None if before is None or peak is None else 1024 * max(0, peak - before)
    images = _images(entrant, _PROFILED_BATCH)
    return memory, load, runtime.binary_share and runtime.binary_share(entrant.file, entrant.floats, threads, images)


def _prepare(threads: int) -> None:
    """Configure TensorFlow, which is only possible before its first use."""
    tf.config.set_visible_devices([], "GPU")
    limit_threads(threads)


def _images(entrant: Entrant, batch_size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch_size, *entrant.shape)).astype(np.float32)


def _turn(infer: Infer, images: np.ndarray, seconds: float) -> list[float]:
    times: list[float] = []
    while sum(times) < seconds or not times:
        start = time.perf_counter()
        infer(images)
        times.append(time.perf_counter() - start)
    return times


def _kilobytes(key: str) -> int | None:
    """Return the value of a line of /proc/self/status in kB, or None if it does not exist."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
    return None
