"""Checkpoints within an epoch: when to write one, signals that end a training, and how an epoch is resumed."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras.checkpoints import State
from bnn_keras.errors import BnnError
from bnn_keras.training.callbacks import MeasureEpoch, SaveRun
from bnn_keras.training.distribution import Replicas
from bnn_keras.training.progress import ShowProgress

Logs = dict[str, Any]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_INTERVAL = re.compile(rf"(\d+(?:\.\d+)?) ?([{''.join(_SECONDS)}])|(\d+) ?steps?")


@dataclasses.dataclass(frozen=True)
class Interval:
    """How often a checkpoint is written within an epoch.

    Attributes:
        seconds: Seconds since the last checkpoint.
        steps: Steps since the last checkpoint.

    >>> Interval.parse("15m"), Interval.parse("500steps")
    (Interval(seconds=900.0, steps=inf), Interval(seconds=inf, steps=500.0))
    """

    seconds: float = math.inf
    steps: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Return the interval that a text such as "15m" or "500steps" names.

        Raises:
            BnnError: The text names none.
        """
        match = _INTERVAL.fullmatch(text)
        number = float(match[1] or match[3]) if match else 0.0
        if not match or not number:
            raise BnnError(
                f"cannot save every {text!r}; expected a time such as 15m, 90s or 2h, or steps such as 500steps"
            )
        return cls(number * _SECONDS[match[2]]) if match[2] else cls(steps=number)


class Signals:
    """Note SIGINT, SIGTERM and SIGHUP for the next step, instead of ending at an arbitrary point of the program.

    Python's own handler of SIGINT raises at such a point: while a file is written, or in a destructor, which suppresses
    the exception. After the first signal, the second one ends the process as usual. Signals that are ignored, or that
    the program handles itself, are not noted, and none are outside of the main thread.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def install(self) -> None:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            usual = (signal.SIG_DFL, signal.default_int_handler)
            self.previous = {number: handler for number, handler in handlers.items() if handler in usual}
            for number in self.previous:
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        self.restore()


class SaveWithinEpochs(tf.keras.callbacks.Callback):
    """Write checkpoints between two steps: in an interval, and before a signal ends the training.

    All processes save, and stop, at the same step, whichever received the signal or noticed the time first. If the
    folder of the run was renamed, the training is saved there, and stops.

    Args:
        interval: The interval.
        save: Writes the run.
        measure: Measures the epoch.
        replicas: All replicas.
        steps: Steps per epoch.
        first_step: Steps of the first epoch that were taken before.
        tell: Prints a line.
    """

    _supports_tf_logs = True

    def __init__(
        self,
        interval: Interval,
        save: SaveRun,
        measure: MeasureEpoch,
        replicas: Replicas,
        steps: int,
        first_step: int,
        tell: Callable[[str], object],
    ):
        super().__init__()
        self.interval = interval
        self.save = save
        self.measure = measure
        self.replicas = replicas
        self.steps = steps
        self.saved_step = self.step = first_step
        self.tell = tell
        self.signals = Signals()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Install the signal handlers."""
        self.saved_time = time.monotonic()
        self.signals.install()

    def close(self) -> None:
        """Restore the previous signal handlers. Call this after the training, however it ended."""
        self.signals.restore()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Write a checkpoint if it is time, and stop after a signal."""
        self.step = batch + 1
        seconds, steps = time.monotonic() - self.saved_time, self.step - self.saved_step
        due, *stops = self._agree(seconds >= self.interval.seconds or steps >= self.interval.steps)
        if any(stops) or (due and self.step < self.steps):  # the end of the epoch has its own checkpoint
            self._save(measured(self.model, self.measure, self.replicas))
        self._stop(*stops)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Keep what was measured in training: evaluation uses the same metrics."""
        self.measured = measured(self.model, self.measure, self.replicas)

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stop after a signal; the steps of the epoch are not repeated."""
        _, *stops = self._agree(False)
        if any(stops):
            self._save(self.measured)
        self._stop(*stops)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Stop after a signal. The checkpoint of the epoch is written."""
        self.step, self.saved_step, self.saved_time = 0, 0, time.monotonic()
        _, *stops = self._agree(False)
        self._stop(*stops)

    def _agree(self, due: bool) -> list[bool]:
        """Return whether any process is due, whether the folder was renamed, and whether it received each signal."""
        received = (number == self.signals.received for number in SIGNALS)
        return self.replicas.agree(due, self.save.follow(), *received)

    def _save(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.save.within_epoch(self.step, self.measure.training_seconds, arrays)
        self.saved_step, self.saved_time = self.step, time.monotonic()

    def _stop(self, renamed: bool, *signals: bool) -> None:
        """Raise BnnError if the folder was renamed, KeyboardInterrupt after SIGINT, and SystemExit after others."""
        if not renamed and not any(signals):
            return
        self.save.wait()
        epoch = self.save.state.epoch
        place = f"step {self.step} of {self.steps} in epoch {epoch + 1}" if self.step else f"epoch {epoch}"
        if renamed:
            if not self.replicas.chief:  # which alone has the folder
                raise SystemExit(BnnError.exit_code)
            path = shlex.quote(str(self.save.run.directory))
            raise BnnError(
                f"the folder of the run was renamed to {path} while it was trained; stopped after {place}, saved; run "
                f"the same command again with --run {path} to continue"
            )
        number = SIGNALS[signals.index(True)]
        line = f"stopped by {number.name} after {place}, saved; run the same command again to continue"
        if number == signal.SIGINT:
            raise KeyboardInterrupt(line)
        self.tell(line)
        raise SystemExit(128 + number)


class ResumeEpoch(tf.keras.callbacks.Callback):
    """Continue an epoch at the step of a checkpoint within it.

    If all of its steps were taken, only their evaluation is repeated.

    Args:
        state: State of the checkpoint.
        arrays: What was measured until then (`measured`).
        measure: Measures the epoch.
        progress: Shows the epoch.
        steps: Steps per epoch.
        replicas: All replicas.
    """

    _supports_tf_logs = True

    def __init__(
        self,
        state: State,
        arrays: Mapping[str, np.ndarray],
        measure: MeasureEpoch,
        progress: ShowProgress,
        steps: int,
        replicas: Replicas,
    ):
        super().__init__()
        self.state = state
        self.arrays = arrays
        self.measure = measure
        self.progress = progress
        self.replicas = replicas
        self.only_evaluate = state.steps_of_epoch >= steps  # more, if this number of replicas drops the last batch
        self.first_step = min(state.steps_of_epoch, steps) - self.only_evaluate

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Let Keras begin at the step."""
        self.model._maybe_load_initial_counters_from_ckpt = lambda steps, epoch: (epoch, self.first_step)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restore what was measured, after the callbacks that measure have begun the epoch."""
        if epoch != self.state.epoch:
            return
        with self.replicas.strategy.scope():
            # Keras does this in the first step, after which the sums would be too late.
            self.model.compiled_loss.build(self.model.output)
            self.model.compiled_metrics.build(self.model.output, self.model.output)
        try:
            for index, variable in enumerate(_sums(self.model)):
                variable.assign(self.arrays[f"metrics/{index}"])
            self.replicas.restore_each("metrics", _sums(self.model), self.arrays)
            self.measure.signs = [
                np.unpackbits(self.arrays[f"signs/{index}"], count=signs.size).astype(bool).reshape(signs.shape)
                for index, signs in enumerate(self.measure.signs)
            ]
        except (LookupError, ValueError, TypeError) as error:
            raise BnnError(
                f"cannot resume within epoch {epoch + 1} ({error}): its measurements are of another network; restore "
                "the checkpoint from a backup, or give another --run DIR"
            ) from error
        self.measure.start -= self.state.seconds
        self.progress.epoch_start -= self.state.seconds

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Take no step if all were taken: Keras needs at least one in each epoch."""
        if self.only_evaluate:
            self.model.train_function = lambda iterator: self.model.get_metrics_result()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Take the steps of the next epochs."""
        if self.only_evaluate:
            self.only_evaluate = False
            self.model.make_train_function(force=True)


def measured(model: tf.keras.Model, measure: MeasureEpoch, replicas: Replicas) -> dict[str, np.ndarray]:
    """Return what was measured in an epoch so far: the metrics' sums, and the signs at the start of the epoch."""
    sums = {f"metrics/{index}": np.asarray(variable.numpy()) for index, variable in enumerate(_sums(model))}
    signs = {f"signs/{index}": np.packbits(signs) for index, signs in enumerate(measure.signs)}
    return sums | signs | replicas.save_each("metrics", _sums(model))


def _sums(model: tf.keras.Model) -> list[tf.Variable]:
    return [variable for metric in model.metrics for variable in metric.weights]
