"""How a training shows where it is: a bar on a terminal, else one line per epoch."""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

Logs = dict[str, Any]
SECONDS_BETWEEN_UPDATES = 0.2


class ShowProgress(tf.keras.callbacks.Callback):
    """Shows epoch, images/s, loss, accuracies and the time left.

    Args:
        console: Where to; a bar if it is a terminal, else plain lines.
        epochs: Epochs of all stages.
        steps: Steps per epoch, in this stage.
        examples: Training images per epoch.
        plain: Plain lines on a terminal too.
    """

    _supports_tf_logs = True  # Keras then leaves the logs of a step on the device until they are read

    def __init__(self, console: Console, epochs: int, steps: int, examples: int, plain: bool):
        super().__init__()
        self.console = console
        self.epochs = epochs
        self.steps = steps
        self.examples = examples
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn())
        bar = console.is_terminal and not plain
        self.progress = Progress(*columns, console=console, transient=True) if bar else None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts the clock and the bar."""
        self.begun: float | None = None
        self.epochs_timed = 0
        self.tested = ""
        if self.progress:
            self.task = self.progress.add_task("starting", total=self.epochs)
            self.progress.start()

    def close(self) -> None:
        """Removes the bar, whatever ended the training."""
        if self.progress:
            self.progress.stop()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Notes when the epoch began."""
        self.epoch = epoch
        self.epoch_begun = self.updated = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Moves the bar."""
        now = time.perf_counter()
        if not self.progress or now - self.updated < SECONDS_BETWEEN_UPDATES or not logs:
            return
        self.updated = now
        rate = self.examples * (batch + 1) / self.steps / (now - self.epoch_begun)
        line = f"epoch {self.epoch + 1}/{self.epochs}  {rate:,.0f} images/s  loss {float(logs['loss']):.4f}"
        left = self._left(self.epoch + (batch + 1) / self.steps, now)
        self.progress.update(
            self.task,
            completed=self.epoch + (batch + 1) / self.steps,
            description=f"{line}  top-1 {100 * float(logs['top1']):.2f} %{self.tested}{left}",
        )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Prints the epoch's line, or remembers its test accuracy for the bar."""
        now = time.perf_counter()
        if self.begun is None:  # the first epoch also compiles: rates are counted from its end
            self.begun, self.first_timed = now, epoch + 1
        logs = logs or {}
        self.tested = f"  test {logs['val_top1']:.2f} %"
        if not self.progress:
            self.console.print(
                f"epoch {epoch + 1}/{self.epochs}  {logs['images_per_second']:,.0f} images/s  loss {logs['loss']:.4f}  "
                f"top-1 {logs['top1']:.2f} %{self.tested}{self._left(epoch + 1, now)}",
                highlight=False,
                soft_wrap=True,
            )

    def _left(self, epochs_done: float, now: float) -> str:
        timed = epochs_done - self.first_timed if self.begun is not None else 0
        if timed <= 0:
            return ""
        seconds = (now - self.begun) / timed * (self.epochs - epochs_done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"  left {f'{hours}:{minutes:02d}' if hours else minutes}:{seconds:02d}"
