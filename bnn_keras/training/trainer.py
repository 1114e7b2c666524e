"""From an experiment to a finished run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from bnn_keras import files, runs
from bnn_keras.build import (
    build_annealing,
    build_loss,
    build_metrics,
    build_model,
    build_optimizer,
    build_schedules,
)
from bnn_keras.counts import count
from bnn_keras.data import (
    Dataset,
    evaluation_batches,
    evaluation_steps,
    open_data,
    steps_per_epoch,
    training_batches,
)
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, Stage
from bnn_keras.location import DataLocation
from bnn_keras.losses import Distillation
from bnn_keras.models import load_teacher
from bnn_keras.optimizers import set_hyperparameter
from bnn_keras.quantizers import anneal
from bnn_keras.runs import Run
from bnn_keras.training import checkpoints
from bnn_keras.training.callbacks import Measurements, SaveRun, Schedules, StopBetweenSteps
from bnn_keras.training.distribution import Replicas, build_replicas
from bnn_keras.training.environment import environment
from bnn_keras.training.progress import ShowProgress

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def train(
    experiment: Experiment,
    directory: str | Path | None = None,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    strategy: str = "auto",
    precision: str = "float32",
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
        data_dir: Where prepared datasets are; TFDS's own folder where absent.
        manual_dir: A folder with the files that TFDS would download.
        strategy: On which devices (`distribution.build_replicas`). The batch size is that of all replicas together. Of
            several processes only the chief writes the run directory; all must see it.
        precision: What layers compute in: "float32", "mixed_bfloat16", "mixed_float16" (with a loss that is scaled as
            long as gradients stay finite). Variables and logits are float32.
        fresh: Start over: remove what an earlier training wrote into the directory.
        plain: Lines instead of a progress bar.
        command: The command line, for the record.
        console: Where progress is shown; standard error where absent.

    Returns:
        The content of result.json. A run that is finished is not trained again.

    Raises:
        BnnError: The directory holds a run of another experiment, or other files, or belongs to a live process, or
            cannot be written; the data cannot be had; batches do not divide among the replicas; the loss is no longer
            finite. What was there before stays.
    """
    if precision not in PRECISIONS:
        raise BnnError(unknown("precision", precision, PRECISIONS))
    home = Run(directory or runs.default_directory(experiment))
    replicas = build_replicas(strategy)
    replicas.check(experiment)
    with _written(home, replicas) as run, _computing_in(precision):
        run.refuse_strangers()
        if home.begun and not fresh:
            _require_same(home, experiment)
            if home.result:
                return home.result
        images = _opened(experiment, DataLocation(data_dir, manual_dir), replicas)
        training = _Training(run, experiment, images, replicas, _console(console, replicas), plain)
        networks = [training.network(stage) for stage in experiment.stages]
        checkpoint = None if fresh else checkpoints.latest(home)
        if checkpoint and checkpoint.state.epoch:
            _require_precision(home, precision)
        replicas.wait()  # until every process has read what the chief goes on to replace
        if fresh:
            run.clear()
        if not run.begun:
            found = environment(experiment, images, command)
            chosen = {"strategy": replicas.name, "replicas": replicas.count, "precision": precision}
            files.write_json(run / runs.ENVIRONMENT, {**found, **chosen})
            files.write_text(run / runs.EXPERIMENT, experiment.to_toml())
        try:
            model = training.train_stages(networks, checkpoint)
        except tf.errors.ResourceExhaustedError as error:
            fix = "free memory or disk space, or lower the batch size with --batch-size"
            raise BnnError(f"out of space while training ({error.message.splitlines()[0]}); {fix}") from error
        except tf.errors.UnavailableError as error:
            fix = "start all of them again: the training goes on from its last checkpoint"
            raise BnnError(f"a process of this training is gone ({error.message.splitlines()[0]}); {fix}") from error
        if replicas.chief:
            files.write_json(run / runs.RESULT, _result(run, experiment, model))
        replicas.wait()
        return home.result or {}


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    """Layers made in the context compute in that precision; afterwards in what `floatx` says, where it did before."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(None if before.name == tf.keras.backend.floatx() else before)


@contextlib.contextmanager
def _written(home: Run, replicas: Replicas) -> Iterator[Run]:
    """The directory that this process writes: the run's, owned, or one that vanishes where another is the chief.

    Variables that differ between replicas are averaged when they are saved, which takes all processes: so all save.
    """
    if replicas.chief:
        with home.owned() as run:
            yield run
    else:
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Run(elsewhere)


def _opened(experiment: Experiment, location: DataLocation, replicas: Replicas) -> Dataset:
    """The data; the chief goes first, so that one process alone prepares them where all see its folder."""
    if not replicas.chief:
        replicas.wait()
    images = open_data(experiment, location)
    if replicas.chief:
        replicas.wait()
    return images


def _console(console: Console | None, replicas: Replicas) -> Console:
    return (console or Console(stderr=True)) if replicas.chief else Console(quiet=True)


def _require_same(run: Run, experiment: Experiment) -> None:
    differences = experiment.differences(run.experiment)
    if differences:
        raise BnnError(
            f"{str(run.directory)!r} holds a run of another experiment (asked for / there): {'; '.join(differences)}; "
            "give another --run DIR, or replace it with --fresh"
        )


def _require_precision(run: Run, precision: str) -> None:
    """What an optimizer keeps depends on it."""
    before = run.environment.get("precision", "float32")
    if before != precision:
        raise BnnError(
            f"{str(run.directory)!r} was begun with precision {before!r}, asked for is {precision!r}; "
            f"go on with --precision {before}, or start over with --fresh"
        )


@dataclasses.dataclass(frozen=True)
class _Training:
    """What all stages of a training share."""

    run: Run
    experiment: Experiment
    images: Dataset
    replicas: Replicas
    console: Console
    plain: bool

    def network(self, stage: Stage) -> tf.keras.Model:
        """The network that a stage trains, with its teacher's part of the loss where it has one."""
        with self.replicas.strategy.scope():
            model = build_model(self.experiment, stage)
            taught = stage.distillation
            if taught:
                teacher = load_teacher(taught.teacher, self.experiment)
                layer = Distillation(teacher, taught.temperature, taught.weight, name="distillation")
                model = tf.keras.Model(model.input, layer((model.input, model.output)), name=model.name)
        return model

    def train_stages(
        self, networks: Sequence[tf.keras.Model], checkpoint: checkpoints.Checkpoint | None
    ) -> tf.keras.Model:
        """Trains what is not trained yet, from a checkpoint on; gives the network of the last stage, trained."""
        state = checkpoint.state if checkpoint else checkpoints.State()
        self.run.truncate_metrics(state.metrics_length)
        if state.epoch:
            self.console.print(f"going on after epoch {state.epoch} of {self.experiment.epochs}", highlight=False)
        begin, before = 0, None
        for index, (stage, model) in enumerate(zip(self.experiment.stages, networks, strict=True)):
            end = begin + stage.epochs
            if state.epoch < end or model is networks[-1]:
                with _standing_still(model, stage):
                    self._compile(model, stage)
                if before:
                    model.set_weights(before.get_weights())
                if checkpoint:
                    checkpoint.restore(model, model.optimizer if state.epoch > begin else None)
                    checkpoint = None
                before = model
            if state.epoch < end:
                if state.epoch == begin:
                    state = dataclasses.replace(state, best_top1=float("-inf"))  # that was another network's
                with _standing_still(model, stage):
                    state = self._fit(model, index, begin, state)
            begin = end
        return networks[-1]

    def _compile(self, model: tf.keras.Model, stage: Stage) -> None:
        share = 1 - stage.distillation.weight if stage.distillation else 1.0
        with self.replicas.strategy.scope():
            model.compile(
                build_optimizer(stage.optimizer, stage.epochs),
                build_loss(stage),
                metrics=build_metrics(model.output_shape[-1]),
                loss_weights=[share],
            )

    def _fit(self, model: tf.keras.Model, index: int, begin: int, state: checkpoints.State) -> checkpoints.State:
        """Trains a stage, which began after `begin` epochs, from `state` to its end."""
        stage = self.experiment.stages[index]
        end = begin + stage.epochs
        replicas = self.replicas
        steps = steps_per_epoch(self.images, stage, replicas.count, replicas.static)
        examples = min(steps * stage.batch_size, self.images.examples(self.images.info.train))
        progress = ShowProgress(self.console, self.experiment.epochs, steps, examples, self.plain)
        save = SaveRun(self.run, state, index, steps)
        stop = StopBetweenSteps()
        try:
            model.fit(
                replicas.distribute(
                    lambda context: training_batches(
                        self.images, self.experiment, stage, state.epoch, end, context, replicas.static
                    )
                ),
                steps_per_epoch=steps,
                initial_epoch=state.epoch,
                epochs=end,
                validation_data=replicas.distribute(
                    lambda context: evaluation_batches(self.images, self.experiment, context=context)
                ),
                validation_steps=evaluation_steps(self.images, replicas.count, replicas.processes),
                verbose=0,
                callbacks=[
                    # Each adds to the logs of the epoch what those after it write.
                    Schedules(
                        build_schedules(stage.optimizer, stage.epochs),
                        functools.partial(set_hyperparameter, model.optimizer),
                        steps,
                        begin,
                    ),
                    Schedules(build_annealing(self.experiment, stage), functools.partial(anneal, model), steps),
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


@contextlib.contextmanager
def _standing_still(model: tf.keras.Model, stage: Stage) -> Iterator[None]:
    """Layers that a stage does not train are not trainable while in the context."""
    if stage.trains == "batch_norm":
        for layer in model.layers:
            layer.trainable = isinstance(layer, tf.keras.layers.BatchNormalization)
    try:
        yield
    finally:
        model.trainable = True


def _result(run: Run, experiment: Experiment, model: tf.keras.Model) -> dict[str, Any]:
    """Accuracies in percent; images/s without the first epoch after each start, which compiles; seconds of all."""
    rows = run.metrics
    timed = [row for row in rows if not row["first"]] or rows
    final = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    counts = count(model)
    published = experiment.published
    return {
        "experiment": experiment.name,
        **experiment.chosen,
        "seed": experiment.seed,
        "top1": rows[-1]["val_top1"],
        "top5": rows[-1]["val_top5"],
        "best_top1": max(row["val_top1"] for row in final),
        "published": published.model_dump(exclude_none=True) if published else None,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": len(timed) / sum(1 / row["images_per_second"] for row in timed),
        **counts,
        "binary_share": counts["binary_parameters"] / counts["parameters"],
    }
