"""What happens in every epoch: schedules, measurements, files."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import files, runs
from bnn_keras.build import percent
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run
from bnn_keras.schedules import Schedule
from bnn_keras.training import checkpoints

Logs = dict[str, Any]
_PERCENTAGES = ("top1", "top5", "val_top1", "val_top5")


class Schedules(tf.keras.callbacks.Callback):
    """Sets values before each step, and puts those of the epoch's last step among its measurements.

    Args:
        schedules: Each value as a function of the epochs since `begin`, fractions included, by name.
        assign: Takes (name, value): a hyper-parameter of the optimizer, or what anneals in the model.
        steps: Steps per epoch.
        begin: The epoch that the schedules count from.
    """

    _supports_tf_logs = True  # Keras then leaves the logs of a step on the device

    def __init__(
        self, schedules: Mapping[str, Schedule], assign: Callable[[str, float], None], steps: int, begin: int = 0
    ):
        super().__init__()
        self.schedules = schedules
        self.assign = assign
        self.steps = steps
        self.begin = begin
        self.values: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Notes the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Sets what has changed."""
        for name, schedule in self.schedules.items():
            value = schedule(self.epoch - self.begin + batch / self.steps)
            if self.values.get(name) != value:
                self.assign(name, value)
                self.values[name] = value

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Puts the values among the epoch's measurements."""
        if logs is not None:
            logs.update(self.values)


class Measurements(tf.keras.callbacks.Callback):
    """Adds to an epoch's logs what Keras does not measure, and turns accuracies into percent.

    `images_per_second` counts training alone, `seconds` the epoch with its evaluation. `flip_ratio` is the share of
    binary weights whose sign at the end of the epoch is not what it was at its start.

    Args:
        examples: Training images per epoch.

    Raises:
        BnnError: The loss is no longer finite.
    """

    def __init__(self, examples: int):
        super().__init__()
        self.examples = examples

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remembers time and signs."""
        self.signs = self._signs()
        self.started = self.trained = time.perf_counter()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Stops the clock of the training."""
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds the measurements."""
        if logs is None:
            return
        if not math.isfinite(logs["loss"]):
            raise BnnError(
                f"the loss is {logs['loss']} in epoch {epoch + 1}; expected a finite number; lower the learning rate"
            )
        logs.update({name: percent(logs[name]) for name in _PERCENTAGES if name in logs})
        logs["images_per_second"] = self.examples / (self.trained - self.started)
        logs["seconds"] = time.perf_counter() - self.started
        if self.signs:
            flips = sum(np.count_nonzero(old != new) for old, new in zip(self.signs, self._signs(), strict=True))
            logs["flip_ratio"] = flips / sum(sign.size for sign in self.signs)

    def _signs(self) -> list[np.ndarray]:
        return [
            np.asarray(variable.quantizer(variable.latent_variable.read_value())) >= 0
            for variable in binary_variables(self.model)
        ]


class StopBetweenSteps(tf.keras.callbacks.Callback):
    """Turns Ctrl-C into a KeyboardInterrupt between two steps; a second one ends the training wherever it is.

    Python's own handler raises where the program happens to be: in the middle of a file, or in a destructor, which
    swallows it. Where SIGINT is ignored, or outside the main thread, nothing is changed.
    """

    _supports_tf_logs = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.installed = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Takes over SIGINT."""
        self.previous = signal.getsignal(signal.SIGINT)
        self.installed = self.previous != signal.SIG_IGN and threading.current_thread() is threading.main_thread()
        if self.installed:
            signal.signal(signal.SIGINT, self._ask)

    def close(self) -> None:
        """Gives SIGINT back, whatever ended the training."""
        if self.installed:
            signal.signal(signal.SIGINT, self.previous)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stops if asked."""
        if self.asked:
            raise KeyboardInterrupt

    on_test_batch_end = on_train_batch_end

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            signal.default_int_handler(number, frame)
        self.asked = True


class SaveRun(tf.keras.callbacks.Callback):
    """Writes the run's files after each epoch; the checkpoint last, so that it vouches for the others.

    Args:
        run: The run directory, owned.
        state: Where the training stands at the start.
        stage: Index of the stage.
        steps: Steps per epoch.
    """

    def __init__(self, run: Run, state: checkpoints.State, stage: int, steps: int):
        super().__init__()
        self.run = run
        self.state = state
        self.stage = stage
        self.steps = steps
        self.first = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Writes metrics, weights and checkpoint."""
        logs = logs or {}
        step = self.state.step + self.steps
        row = {"stage": self.stage, "epoch": epoch + 1, "step": step, "first": self.first}
        length = self.run.append_metrics({**row, **{name: float(value) for name, value in logs.items()}})
        self.first = False
        if logs["val_top1"] > self.state.best_top1:
            save_weights(self.model, self.run, runs.BEST_WEIGHTS)
        save_weights(self.model, self.run, runs.WEIGHTS)
        best = max(self.state.best_top1, float(logs["val_top1"]))
        self.state = checkpoints.State(epoch=epoch + 1, step=step, best_top1=best, metrics_length=length)
        checkpoints.save(self.run, self.state, self.model, self.model.optimizer)


def save_weights(model: tf.keras.Model, run: Run, name: str) -> None:
    """Writes a model's latent weights as HDF5, whole or not at all."""
    with files.replacing(run / name) as temporary:
        try:
            model.save_weights(temporary, save_format="h5")
        except RuntimeError as error:  # h5py's word for a full disk
            raise BnnError(files.cannot_write(run / name, str(error))) from error
