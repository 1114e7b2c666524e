"""From an experiment to a finished run directory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from bnn_keras import runs
from bnn_keras.build import (
    build_annealing,
    build_loss,
    build_metrics,
    build_model,
    build_optimizer,
    build_schedules,
)
from bnn_keras.counts import count
from bnn_keras.data import Images, evaluation_batches, open_dataset, training_batches
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.optimizers import set_hyperparameter
from bnn_keras.quantizers import anneal
from bnn_keras.runs import Run
from bnn_keras.training import checkpoints
from bnn_keras.training.callbacks import Measurements, SaveRun, Schedules, StopBetweenSteps
from bnn_keras.training.environment import environment
from bnn_keras.training.progress import ShowProgress


def train(
    experiment: Experiment,
    directory: str | Path | None = None,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    fresh: bool = False,
    plain: bool = False,
    command: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains an experiment to its end, going on where a training in the same directory stopped.

    The same seed gives the same weights, bit for bit, on the same machine, interrupted or not.

    Args:
        experiment: What to train.
        directory: The run directory; `runs.default_directory` where absent.
        data_dir: Where prepared data sets are; TFDS's own folder where absent.
        manual_dir: A folder with the files that TFDS would download.
        fresh: Start over: remove what an earlier training wrote into the directory.
        plain: Lines instead of a progress bar.
        command: The command line, for the record.
        console: Where progress is shown; standard error where absent.

    Returns:
        The content of result.json. A run that is finished is not trained again.

    Raises:
        BnnError: The directory holds a run of another experiment, or other files, or belongs to a live process, or
            cannot be written; the data cannot be had; the loss is no longer finite. What was there before stays.
    """
    run = Run(directory or runs.default_directory(experiment))
    console = console or Console(stderr=True)
    with run.owned():
        run.refuse_strangers()
        if run.begun and not fresh:
            _require_same(run, experiment)
            if run.result:
                return run.result
        images = open_dataset(experiment.data.name, data_dir, manual_dir)
        model = build_model(experiment)
        if fresh:
            run.clear()
        if not run.begun:
            runs.write_json(run / runs.ENVIRONMENT, environment(experiment, images, command))
            runs.write_text(run / runs.EXPERIMENT, experiment.to_toml())
        try:
            _Training(run, experiment, model, images, console, plain).train_stages()
        except tf.errors.ResourceExhaustedError as error:
            fix = "free memory or disk space, or lower the batch size with --batch-size"
            raise BnnError(f"out of space while training ({error.message.splitlines()[0]}); {fix}") from error
        runs.write_json(run / runs.RESULT, _result(run, experiment, model))
        return run.result or {}


def _require_same(run: Run, experiment: Experiment) -> None:
    differences = experiment.differences(run.experiment)
    if differences:
        raise BnnError(
            f"{str(run.directory)!r} holds a run of another experiment (asked for / there): {'; '.join(differences)}; "
            "give another --run DIR, or replace it with --fresh"
        )


@dataclasses.dataclass(frozen=True)
class _Training:
    """What all stages of a training share."""

    run: Run
    experiment: Experiment
    model: tf.keras.Model
    images: Images
    console: Console
    plain: bool

    def train_stages(self) -> None:
        """Trains what is not trained yet, from the newest checkpoint on."""
        checkpoint = checkpoints.latest(self.run)
        state = checkpoint.state if checkpoint else checkpoints.State()
        self.run.truncate_metrics(state.metrics_length)
        if state.epoch:
            self.console.print(f"going on after epoch {state.epoch} of {self.experiment.epochs}", highlight=False)
        begin = 0
        for index, stage in enumerate(self.experiment.stages):
            end = begin + stage.epochs
            if state.epoch < end:
                self.model.compile(
                    build_optimizer(stage.optimizer, stage.epochs),
                    build_loss(stage),
                    metrics=build_metrics(self.model),
                )
                if checkpoint:
                    checkpoint.restore(self.model, self.model.optimizer if state.epoch > begin else None)
                    checkpoint = None
                state = self._fit(index, begin, state)
            begin = end

    def _fit(self, index: int, begin: int, state: checkpoints.State) -> checkpoints.State:
        """Trains a stage, which began after `begin` epochs, from `state` to its end."""
        stage = self.experiment.stages[index]
        end = begin + stage.epochs
        examples = self.images.examples(self.images.row.train)
        steps = -(-examples // stage.batch_size)
        progress = ShowProgress(self.console, self.experiment.epochs, steps, examples, self.plain)
        save = SaveRun(self.run, state, index, steps)
        stop = StopBetweenSteps()
        try:
            self.model.fit(
                training_batches(self.images, self.experiment, stage.batch_size, state.epoch, end),
                steps_per_epoch=steps,
                initial_epoch=state.epoch,
                epochs=end,
                validation_data=evaluation_batches(self.images, self.experiment),
                verbose=0,
                callbacks=[
                    # Each adds to the logs of the epoch what those after it write.
                    Schedules(
                        build_schedules(stage.optimizer, stage.epochs),
                        functools.partial(set_hyperparameter, self.model.optimizer),
                        begin,
                    ),
                    Schedules(build_annealing(self.experiment), functools.partial(anneal, self.model)),
                    Measurements(examples),
                    tf.keras.callbacks.TensorBoard(self.run / runs.TENSORBOARD, write_graph=False, profile_batch=0),
                    save,
                    progress,
                    stop,
                ],
            )
        finally:
            progress.close()
            stop.close()
        return save.state


def _result(run: Run, experiment: Experiment, model: tf.keras.Model) -> dict[str, Any]:
    """Accuracies in percent; images/s without the first epoch after each start, which compiles; seconds of all."""
    rows = run.metrics
    timed = [row for row in rows if not row["first"]] or rows
    counts = count(model)
    published = experiment.published
    return {
        "experiment": experiment.name,
        "network": experiment.network.name,
        "dataset": experiment.data.name,
        "scheme": experiment.scheme.name,
        "bits": experiment.scheme.bits,
        "optimizer": experiment.optimizer,
        "seed": experiment.seed,
        "top1": rows[-1]["val_top1"],
        "top5": rows[-1]["val_top5"],
        "best_top1": max(row["val_top1"] for row in rows),
        "published": published.model_dump(exclude_none=True) if published else None,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": len(timed) / sum(1 / row["images_per_second"] for row in timed),
        **counts,
        "binary_share": counts["binary_parameters"] / counts["parameters"],
    }
