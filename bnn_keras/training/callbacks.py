"""Keras callbacks of a training: apply schedules, measure each epoch, write the run's files."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog, checkpoints, files, runs
from bnn_keras.build import annealing_of, percent
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError, DivergedError
from bnn_keras.experiment import SchemeConfig
from bnn_keras.runs import Run
from bnn_keras.schedules import Schedule
from bnn_keras.training.distribution import Replicas

Logs = dict[str, Any]
_PERCENTAGES = ("top1", "top5", "val_top1", "val_top5")


class ApplySchedules(tf.keras.callbacks.Callback):
    """Set scheduled values before each step, and log the values of each epoch's last step.

    Args:
        schedules: Functions of the number of epochs since `begin`, fractions included, by the name of their value.
        assign: Called with (name, value) when a value changes. It sets an optimizer hyper-parameter, or an annealed
            value of the model.
        steps: Steps per epoch; infinite to ignore steps.
        begin: Epoch at which the schedules start.
    """

    _supports_tf_logs = True  # lets Keras leave the logs of each step on the device

    def __init__(
        self, schedules: Mapping[str, Schedule], assign: Callable[[str, float], None], steps: float, begin: int = 0
    ):
        super().__init__()
        self.schedules = schedules
        self.assign = assign
        self.steps = steps
        self.begin = begin
        self.values: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Store the index of the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Set the values that differ from those of the last step."""
        for name, schedule in self.schedules.items():
            value = schedule(self.epoch - self.begin + batch / self.steps)
            if self.values.get(name) != value:
                self.assign(name, value)
                self.values[name] = value

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the values to the epoch's logs."""
        if logs is not None:
            logs.update(self.values)


class Anneal(ApplySchedules):
    """Change the annealed values of a model's scheme during `fit`, such as t and k of IR-Net.

    Use it to train a model of `binarize`, or of `build_model`, with Keras's own `fit`. It does nothing for schemes
    without annealed values.

    Args:
        schedules: Functions of the epoch by the name of their value. Default: those of the scheme's paper, over the
            epochs of `fit`.

    Raises:
        BnnError: When the training starts: the model has no attribute `scheme`, or the default schedules of its scheme
            are unknown.

    Example:
        >>> import bnn_keras
        >>> inputs = tf.keras.Input((4,))
        >>> outputs = tf.keras.layers.Dense(1)(tf.keras.layers.Dense(3)(inputs))
        >>> model = bnn_keras.binarize(tf.keras.Model(inputs, outputs), "irnet", skip=["last"], verbose=False)
        >>> model.compile(loss="mse")
        >>> data = np.random.default_rng(0).normal(size=(8, 4)), np.zeros(8)
        >>> history = model.fit(*data, epochs=2, verbose=0, callbacks=[bnn_keras.Anneal()])
        >>> [round(t, 4) for t in history.history["t"]]
        [0.1, 1.0]
    """

    def __init__(self, schedules: Mapping[str, Schedule] | None = None):
        super().__init__(schedules or {}, self._assign, steps=1)
        self.given = schedules is not None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Choose the schedules for the number of epochs."""
        scheme = getattr(self.model, "scheme", None)
        if scheme is None:
            raise BnnError(
                f"model {self.model.name!r} has no attribute `scheme` whose values could be annealed; take a model of "
                "bnn_keras.binarize or bnn_keras.build_model"
            )
        if not self.given and scheme.annealed:
            if scheme.name not in catalog.SCHEMES:
                raise BnnError(f"scheme {scheme.name!r} is not in the catalog; give Anneal the schedules of its values")
            chosen = SchemeConfig.model_validate({"name": scheme.name, "bits": scheme.bits})
            self.schedules = annealing_of(chosen, self.params["epochs"])
        self.steps = self.params["steps"] or math.inf  # unknown in the first epoch of some datasets

    def _assign(self, name: str, value: float) -> None:
        self.model.scheme.annealed.assign(**{name: value})


class MeasureEpoch(tf.keras.callbacks.Callback):
    """Add throughput, duration and flip ratio to the epoch's logs, and convert accuracies to percent.

    `images_per_second` covers the training steps only, `seconds` the epoch including evaluation. `flip_ratio` is the
    fraction of binary weights whose sign differs between the start and the end of the epoch.

    Args:
        examples: Training images per epoch.

    Attributes:
        signs: Signs of the binary weights at the start of the epoch, and at its end after `on_epoch_end`.
        flips: Numbers of signs of each variable that differ between the two.

    Raises:
        DivergedError: A loss or a weight is not finite.
    """

    def __init__(self, examples: int):
        super().__init__()
        self.examples = examples
        self.flips: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Store the time and the signs of the binary weights."""
        self.signs = self._signs()
        self.start = time.perf_counter()
        self.training_end: float | None = None

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Store the time at which the epoch's training steps end."""
        self.training_end = time.perf_counter()

    @property
    def training_seconds(self) -> float:
        """Seconds of the epoch's training steps so far."""
        return (self.training_end or time.perf_counter()) - self.start

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the measurements to the epoch's logs."""
        if logs is None:
            return
        require_finite(self.model, logs, epoch)
        logs.update({name: percent(logs[name]) for name in _PERCENTAGES if name in logs})
        logs["images_per_second"] = self.examples / self.training_seconds
        logs["seconds"] = time.perf_counter() - self.start
        if self.signs:
            before, self.signs = self.signs, self._signs()
            self.flips = [np.count_nonzero(old != new) for old, new in zip(before, self.signs, strict=True)]
            logs["flip_ratio"] = sum(self.flips) / sum(sign.size for sign in self.signs)

    def _signs(self) -> list[np.ndarray]:
        return [
            np.asarray(variable.quantizer(variable.latent_variable.read_value())) >= 0
            for variable in binary_variables(self.model)
        ]


def require_finite(model: tf.keras.Model, logs: Logs, epoch: int) -> None:
    """Verify that the logs of an epoch and the weights of a network are finite.

    The loss is measured before each step: if the last step diverges, only the weights and the test loss show it.

    Raises:
        DivergedError: One of them is not.
    """
    values = {f"the {name}": value for name, value in logs.items()}
    for variable, value in zip(model.weights, model.get_weights(), strict=True):
        values[f"the weight {variable.name}"] = np.abs(value).max()
    for name, value in values.items():
        if not math.isfinite(value):
            reason = f"{name} is {float(value)} in epoch {epoch + 1}"
            raise DivergedError(f"{reason}; expected a finite number; lower the learning rate")


class WriteEpochs(tf.keras.callbacks.TensorBoard):
    """Write the logs of each epoch for TensorBoard.

    Keras's own callback also builds a summary of each step, and drops it if only epochs are written. That takes as long
    as 3 % of a step of LeNet-5. Arguments are those of `tf.keras.callbacks.TensorBoard`.
    """

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Do nothing."""


class ProfileSteps(tf.keras.callbacks.Callback):
    """Write a profile of ten training steps for TensorBoard, once.

    The ten steps follow the first ten of the first epoch, which compile the network and fill buffers. In an epoch of
    fewer than twenty steps they are its last ten.

    Args:
        directory: Folder of the profile; created if it does not exist.

    Raises:
        BnnError: The folder cannot be created.
    """

    _supports_tf_logs = True
    STEPS = 10

    def __init__(self, directory: str | Path):
        super().__init__()
        self.directory = Path(directory)
        self.running = self.finished = False
        with files.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Start the profiler before the first of the ten steps."""
        if not self.finished and batch == max(0, min(self.STEPS, self.params["steps"] - self.STEPS)):
            tf.profiler.experimental.start(str(self.directory))
            self.running = self.finished = True
            self.last = batch + self.STEPS - 1

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stop the profiler after the last of the ten steps."""
        if self.running and batch == min(self.last, self.params["steps"] - 1):
            self.close()

    def close(self) -> None:
        """Stop the profiler if it runs. Call this after the training, however it ended."""
        if self.running:
            self.running = False
            tf.profiler.experimental.stop()


class SaveRun(tf.keras.callbacks.Callback):
    """Write the run's files after each epoch, in the order metrics, weights, checkpoint, and checkpoints within epochs.

    The checkpoint is last: if it exists, the other files of its epoch are complete. The run that this one replaces is
    removed after the first epoch.

    Args:
        run: The run directory, owned by this process.
        state: State of the training at the start of the stage.
        stage: Index of the stage.
        steps: Steps per epoch.
        replicas: All replicas. Checkpoints within epochs of a single one are written by a thread. Variables that differ
            between replicas can be read in the main thread only.
        after_epoch: Called with the row of `metrics.jsonl` after the checkpoint of its epoch.
        keep: Number of checkpoints to keep, see `checkpoints.save`.
    """

    def __init__(
        self,
        run: Run,
        state: checkpoints.State,
        stage: int,
        steps: int,
        replicas: Replicas,
        after_epoch: Callable[[Mapping[str, Any]], object] = lambda row: None,
        keep: int = runs.KEPT,
    ):
        super().__init__()
        self.run = run
        self.after_epoch = after_epoch
        self.keep = keep
        self.state = dataclasses.replace(state, step=state.step - state.steps_of_epoch, steps_of_epoch=0, seconds=0.0)
        self.stage = stage
        self.steps = steps
        self.first = True
        self.replicas = replicas
        by_thread = replicas.name == "single"
        self.threads = concurrent.futures.ThreadPoolExecutor(1, "checkpoint") if by_thread else None
        self.written: concurrent.futures.Future | None = None
        self.descriptor = os.open(run.directory, os.O_RDONLY)  # that of the folder, whatever its name

    def follow(self) -> bool:
        """Return whether the folder of the run was renamed. What is written from now on is written into it.

        Raises:
            BnnError: The folder was removed, or cannot be found without Linux's /proc.
        """
        link = Path(f"/proc/self/fd/{self.descriptor}")  # on Linux
        folder = os.stat(self.descriptor)
        if self.run.directory.exists() and os.path.samestat(self.run.directory.stat(), folder):
            return False
        if not link.exists() or not folder.st_nlink:
            raise BnnError(
                f"the folder {str(self.run.directory)!r} was renamed or removed while the run was trained, and nothing "
                "more can be saved; move it back, or restore it from a backup, and run the same command again"
            )
        self.run = Run(link.resolve())
        return True

    def within_epoch(self, steps: int, seconds: float, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint within the epoch; return when all variables are read.

        Args:
            steps: Steps taken in the epoch.
            seconds: Seconds that they took.
            arrays: What was measured in them.

        Raises:
            DivergedError: A weight is not finite.
            BnnError: This checkpoint, or the one before, cannot be written.
        """
        require_finite(self.model, {}, self.state.epoch)
        step = self.state.step + steps
        state = dataclasses.replace(self.state, step=step, steps_of_epoch=steps, seconds=seconds)
        arrays = {**arrays, **self.replicas.save_each("weights", self.model.weights)}
        arguments = (self.run, state, self.model, self.model.optimizer, self.run.copied(), arrays, self.keep)
        self.wait()
        if not self.threads:
            checkpoints.save(*arguments)
            return
        read = threading.Event()
        self.written = self.threads.submit(checkpoints.save, *arguments, on_read=read.set)
        self.written.add_done_callback(lambda _: read.set())
        read.wait()

    def wait(self) -> None:
        """Wait until the checkpoint that a thread writes is complete.

        Raises:
            BnnError: It cannot be written.
        """
        written, self.written = self.written, None
        if written:
            written.result()

    def close(self) -> None:
        """Wait for the thread, and close the folder. Call this after the training, however it ended."""
        if self.threads:
            self.threads.shutdown()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write metrics, weights and checkpoint."""
        self.wait()
        logs = logs or {}
        step = self.state.step + self.steps
        measured = {name: float(value) for name, value in logs.items()}
        row = {"stage": self.stage, "epoch": epoch + 1, "step": step, "first": self.first, **measured}
        length = self.run.append_metrics(row)
        self.first = False
        texts = self.run.copied()
        if logs["val_top1"] > self.state.best_top1:
            save_weights(self.model, self.run, runs.BEST_WEIGHTS, texts)
            self.state = dataclasses.replace(self.state, best_top1=float(logs["val_top1"]), best_epoch=epoch + 1)
        save_weights(self.model, self.run, runs.WEIGHTS, texts)
        self.state = dataclasses.replace(self.state, epoch=epoch + 1, step=step, metrics_length=length)
        arrays = self.replicas.save_each("weights", self.model.weights)
        checkpoints.save(self.run, self.state, self.model, self.model.optimizer, texts, arrays, self.keep)
        self.run.remove_replaced()
        self.after_epoch(row)


def save_weights(
    model: tf.keras.Model, run: Run, name: str, texts: Mapping[str, bytes], constrained: bool = True
) -> None:
    """Write the latent weights of a model to an HDF5 file of a run, atomically, with digests.

    Args:
        model: The model.
        run: The run.
        name: Name of the file.
        texts: Contents of the text files of the run, by name.
        constrained: Whether the constraints of the model hold. Otherwise they are applied whenever the file is
            loaded.

    Raises:
        BnnError: The file cannot be written.
    """
    with files.replacing(run / name) as temporary:
        try:
            model.save_weights(temporary, save_format="h5")
        except RuntimeError as error:  # h5py raises RuntimeError if the disk is full
            raise BnnError(files.cannot_write(run / name, str(error))) from error
        runs.prepend_digests(temporary, texts, constrained)
