"""Show the progress of a training: a progress bar on a terminal, otherwise one line per epoch."""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

Logs = dict[str, Any]
SECONDS_BETWEEN_UPDATES = 0.2


class ShowProgress(tf.keras.callbacks.Callback):
    """Show epoch, images/s, loss, accuracies and the time left.

    Args:
        console: Output; a progress bar if it is a terminal, otherwise plain lines.
        epochs: Epochs, over all stages.
        steps: Steps per epoch of this stage.
        examples: Training images per epoch.
        images: Images that are measured after each epoch: "test" or "validation".
        plain: Print plain lines on a terminal, too.
    """

    _supports_tf_logs = True  # lets Keras leave the logs of each step on the device until they are read

    def __init__(self, console: Console, epochs: int, steps: int, examples: int, images: str, plain: bool):
        super().__init__()
        self.console = console
        self.epochs = epochs
        self.steps = steps
        self.examples = examples
        self.images = images
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn())
        bar = console.is_terminal and not plain
        self.progress = Progress(*columns, console=console, transient=True) if bar else None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start the progress bar."""
        self.timing_start: float | None = None
        self.measured = ""
        if self.progress:
            self.task = self.progress.add_task("starting", total=self.epochs)
            self.progress.start()

    def close(self) -> None:
        """Remove the progress bar. Call this after the training, however it ended."""
        if self.progress:
            self.progress.stop()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Store the index and the start time of the epoch."""
        self.epoch = epoch
        self.epoch_start = self.updated = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Update the progress bar."""
        now = time.perf_counter()
        if not self.progress or now - self.updated < SECONDS_BETWEEN_UPDATES or not logs:
            return
        self.updated = now
        rate = self.examples * (batch + 1) / self.steps / (now - self.epoch_start)
        line = f"epoch {self.epoch + 1}/{self.epochs}  {rate:,.0f} images/s  loss {float(logs['loss']):.4f}"
        epochs_done = self.epoch + (batch + 1) / self.steps
        accuracies = f"top-1 {100 * float(logs['top1']):.2f} %{self.measured}"
        self.progress.update(
            self.task,
            completed=epochs_done,
            description=f"{line}  {accuracies}{self._time_left(epochs_done, now)}",
        )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the line of the epoch, or store its measured accuracy for the progress bar."""
        now = time.perf_counter()
        if self.timing_start is None:  # excludes the first epoch, which also compiles the model
            self.timing_start, self.first_timed = now, epoch + 1
        logs = logs or {}
        self.measured = f"  {self.images} {logs['val_top1']:.2f} %"
        if not self.progress:
            self.console.print(
                f"epoch {epoch + 1}/{self.epochs}  {logs['images_per_second']:,.0f} images/s  loss {logs['loss']:.4f}  "
                f"top-1 {logs['top1']:.2f} %{self.measured}{self._time_left(epoch + 1, now)}",
                highlight=False,
                soft_wrap=True,
            )

    def _time_left(self, epochs_done: float, now: float) -> str:
        if self.timing_start is None or epochs_done <= self.first_timed:
            return ""
        seconds_per_epoch = (now - self.timing_start) / (epochs_done - self.first_timed)
        minutes, seconds = divmod(round(seconds_per_epoch * (self.epochs - epochs_done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"  left {f'{hours}:{minutes:02d}' if hours else minutes}:{seconds:02d}"
