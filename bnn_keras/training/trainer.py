"""Train an experiment into a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import warnings
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
from bnn_keras.data.readers import decoding
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, Stage, check_experiment
from bnn_keras.location import DataLocation
from bnn_keras.losses import Distillation
from bnn_keras.models import load_teacher
from bnn_keras.optimizers import set_hyperparameter
from bnn_keras.quantizers import anneal
from bnn_keras.runs import Run
from bnn_keras.training import checkpoints
from bnn_keras.training.callbacks import ApplySchedules, MeasureEpoch, SaveRun, StopBetweenSteps, save_weights
from bnn_keras.training.distribution import Replicas, build_replicas
from bnn_keras.training.environment import collect_environment, require_same_images
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
    """Train an experiment, or resume an interrupted training in the same directory.

    On the same machine, the same seed gives bit-identical weights, whether or not the training was interrupted.

    Args:
        experiment: The experiment to train.
        directory: Path of the run directory; `runs.default_directory(experiment)` if None.
        data_dir: Folder of prepared datasets, TFDS's default folder if None; for "image_folder", the folder of images.
        manual_dir: Folder with the files that TFDS would download; None to download them.
        strategy: Distribution strategy, see `distribution.build_replicas`. The batch size is that of all replicas
            together. With several processes, only the chief writes the run directory, and all must be able to read it.
        precision: Precision that layers compute in: "float32", "mixed_bfloat16" or "mixed_float16" (with dynamic loss
            scaling). Variables and logits are float32.
        fresh: Start over. An existing run is kept as `<directory>.old-<N>` until the first epoch is finished, and then
            removed.
        plain: Print plain lines instead of a progress bar.
        command: Command line to record in environment.json; `sys.argv` if empty.
        console: Console to show progress on; standard error if None.

    Returns:
        The content of result.json. A finished run is not trained again.

    Raises:
        BnnError: `experiment` is not an Experiment; the directory holds a run of another experiment or other files, is
            in use by another process, or cannot be written; the dataset is not available or has a damaged image; a
            batch size is not divisible by the number of replicas; or a loss or a weight is not finite. The files of an
            existing run are kept.

    >>> import tempfile
    >>> from bnn_keras import resolve, train
    >>> overrides = ["data.examples=8"]
    >>> experiment = resolve("lenet5", dataset="fake", epochs=1, batch_size=8, overrides=overrides).experiment
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(experiment, folder, plain=True)
    >>> result["epochs"], result["parameters"]
    (1, 431220)
    """
    check_experiment(experiment)
    if precision not in PRECISIONS:
        raise BnnError(unknown("precision", precision, PRECISIONS))
    home = Run(directory or runs.default_directory(experiment))
    replicas = build_replicas(strategy)
    replicas.check_batch_sizes(experiment)
    with _writable_run(home, replicas) as run, _precision_policy(precision):
        run.refuse_other_files()
        if home.begun and not fresh:
            _require_same_experiment(home, experiment)
            intact = _weights_are_intact(home)
            if home.result and intact:
                return home.result
        dataset = _open_dataset(experiment, DataLocation(data_dir, manual_dir), replicas)
        training = _Training(run, experiment, dataset, replicas, _console(console, replicas), plain)
        networks = [training.build_network(stage) for stage in experiment.stages]
        checkpoint = None if fresh else checkpoints.latest(home)
        if not fresh:
            _require_complete(home, checkpoint)
        if checkpoint:
            _require_checkpoint_of_experiment(home, checkpoint, experiment)
        trained = checkpoint is not None and checkpoint.state.epoch > 0
        if trained:
            _require_precision(home, precision)
            require_same_images(home, dataset)
        replicas.barrier()  # every process has read the checkpoint before the chief replaces files
        if fresh:
            run.replace()
        if not (run.begun and trained):  # a run without epochs records anew what it is trained on
            environment = collect_environment(experiment, dataset, command)
            options = {"strategy": replicas.name, "replicas": replicas.count, "precision": precision}
            files.write_json(run / runs.ENVIRONMENT, {**environment, **options})
            files.write_text(run / runs.EXPERIMENT, experiment.to_toml())
        with _naming_the_replaced_run(run), _explaining_errors_of_tensorflow(), decoding(dataset.info.name):
            model = training.train_stages(networks, checkpoint)
        if replicas.chief:
            files.write_json(run / runs.RESULT, _result(run, experiment, model))
        replicas.barrier()
        return home.result or {}


@contextlib.contextmanager
def _naming_the_replaced_run(run: Run) -> Iterator[None]:
    """Add to an error in the first epoch where the run that was to be replaced is."""
    try:
        yield
    except BnnError as error:
        if run.replaced:
            raise BnnError(f"{error}; the run before is kept in {str(run.replaced)!r}") from error
        raise


@contextlib.contextmanager
def _explaining_errors_of_tensorflow() -> Iterator[None]:
    """Convert errors of TensorFlow that the user can fix into a `BnnError`."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        fix = "free memory or disk space, or set a smaller --batch-size"
        raise BnnError(f"out of memory or disk space ({error.message.splitlines()[0]}); {fix}") from error
    except tf.errors.UnavailableError as error:
        fix = "restart all processes to resume from the last checkpoint"
        raise BnnError(f"another process of this training ended ({error.message.splitlines()[0]}); {fix}") from error


@contextlib.contextmanager
def _precision_policy(precision: str) -> Iterator[None]:
    """Make layers built in the context compute in a precision, and restore Keras's global policy afterwards."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        # None, Keras's default, keeps following later changes of `floatx`.
        tf.keras.mixed_precision.set_global_policy(None if before.name == tf.keras.backend.floatx() else before)


@contextlib.contextmanager
def _writable_run(home: Run, replicas: Replicas) -> Iterator[Run]:
    """Yield the run that this process writes: `home` in the chief, a temporary directory in the other processes.

    All processes save, because saving a variable that differs between replicas averages it over all of them.
    """
    if replicas.chief:
        with home.owned() as run:
            yield run
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Run(temporary)


def _open_dataset(experiment: Experiment, location: DataLocation, replicas: Replicas) -> Dataset:
    """Open the dataset, in the chief first, so that only one process prepares it in a shared folder."""
    if not replicas.chief:
        replicas.barrier()
    dataset = open_data(experiment, location)
    if replicas.chief:
        replicas.barrier()
    return dataset


def _console(console: Console | None, replicas: Replicas) -> Console:
    return (console or Console(stderr=True)) if replicas.chief else Console(quiet=True)


def _require_same_experiment(run: Run, experiment: Experiment) -> None:
    differences = experiment.differences(run.experiment)
    if differences:
        raise BnnError(
            f"{str(run.directory)!r} holds a run of another experiment (requested / existing): "
            f"{'; '.join(differences)}; give another --run DIR"
        )


def _require_checkpoint_of_experiment(run: Run, checkpoint: checkpoints.Checkpoint, experiment: Experiment) -> None:
    """Verify that a checkpoint belongs to the experiment, for runs whose experiment file is gone."""
    if not run.begun and checkpoint.state.experiment not in ("", experiment.digest):
        raise BnnError(
            f"{str(checkpoint.folder)!r} is a checkpoint of another experiment than {experiment.name}, and "
            f"{str(run / runs.EXPERIMENT)!r} is missing; restore that file from a backup, or give another --run DIR"
        )


def _require_complete(run: Run, checkpoint: checkpoints.Checkpoint | None) -> None:
    """Verify that no metrics or checkpoints are gone, before the files of the epochs that follow are overwritten.

    A kill leaves at most the metrics and the weights of one epoch without its checkpoint.
    """
    state = checkpoint.state if checkpoint else checkpoints.State()
    fix = "restore from a backup what is missing, or give another --run DIR"
    epochs = [row.get("epoch") for row in run.metrics_until(state.metrics_length)]
    if epochs != list(range(1, state.epoch + 1)):
        raise BnnError(
            f"{str(run / runs.METRICS)!r} has {len(epochs)} rows; expected those of the {state.epoch} epochs before "
            f"the last checkpoint; {fix}"
        )
    written = run.measured_epochs
    orphaned = checkpoint is None and (run.result or (not written and (run / runs.WEIGHTS).exists()))
    if orphaned or written > state.epoch + (checkpoints.KEPT if checkpoint else 1):
        raise BnnError(
            f"{str(run / runs.CHECKPOINTS)!r} has no checkpoint after epoch {state.epoch}, but the run has metrics of "
            f"{written} epochs, and weights; {fix}"
        )


def _weights_are_intact(run: Run) -> bool:
    """Return whether the last weights of a run are intact, and warn if the best are not.

    The last weights are restored from a checkpoint; the best can be older than every checkpoint.
    """
    if (run / runs.BEST_WEIGHTS).is_file():
        try:
            run.verify_weights(runs.BEST_WEIGHTS)
        except BnnError as error:
            warnings.warn(str(error), stacklevel=2)
    return (run / runs.WEIGHTS).is_file() and not runs.has_changed(run / runs.WEIGHTS)


def _require_precision(run: Run, precision: str) -> None:
    """Verify the precision of a resumed training: the optimizer's state depends on it."""
    before = run.environment.get("precision", "float32")
    if before != precision:
        raise BnnError(
            f"{str(run.directory)!r} was started with precision {before!r}, but {precision!r} was requested; "
            f"resume with --precision {before}, or give another --run DIR"
        )


@dataclasses.dataclass(frozen=True)
class _Training:
    """A training, with what all of its stages share."""

    run: Run
    experiment: Experiment
    dataset: Dataset
    replicas: Replicas
    console: Console
    plain: bool

    def build_network(self, stage: Stage) -> tf.keras.Model:
        """Build the network of a stage, with the distillation loss if the stage has a teacher."""
        with self.replicas.strategy.scope():
            model = build_model(self.experiment, stage)
            distillation = stage.distillation
            if distillation:
                teacher = load_teacher(distillation.teacher, self.experiment)
                layer = Distillation(teacher, distillation.temperature, distillation.weight, name="distillation")
                model = tf.keras.Model(model.input, layer((model.input, model.output)), name=model.name)
        return model

    def train_stages(
        self, networks: Sequence[tf.keras.Model], checkpoint: checkpoints.Checkpoint | None
    ) -> tf.keras.Model:
        """Train the remaining epochs of all stages, starting from a checkpoint.

        Args:
            networks: The network of each stage.
            checkpoint: The checkpoint to resume from, or None to start at epoch 0.

        Returns:
            The trained network of the last stage.
        """
        state = checkpoint.state if checkpoint else checkpoints.State()
        state = dataclasses.replace(state, experiment=self.experiment.digest)
        self.run.truncate_metrics(state.metrics_length)
        if self.run.replaced:
            kept = f"keeping the run before in {self.run.replaced} until the first epoch is finished"
            self.console.print(kept, highlight=False, soft_wrap=True)
        if state.epoch:
            self.console.print(f"resuming after epoch {state.epoch} of {self.experiment.epochs}", highlight=False)
        begin, previous = 0, None
        for index, (stage, model) in enumerate(zip(self.experiment.stages, networks, strict=True)):
            end = begin + stage.epochs
            if state.epoch < end or model is networks[-1]:
                with _frozen_layers(model, stage):
                    self._compile(model, stage)
                if previous:
                    model.set_weights(previous.get_weights())
                if checkpoint:
                    checkpoint.restore(model, model.optimizer if state.epoch > begin else None)
                    save_weights(model, self.run, runs.WEIGHTS)  # those in the run may be damaged or newer
                    checkpoint = None
                previous = model
            if state.epoch < end:
                if state.epoch == begin:
                    state = dataclasses.replace(state, best_top1=float("-inf"))  # was of the last stage
                with _frozen_layers(model, stage):
                    state = self._fit(model, index, begin, state)
            begin = end
        return networks[-1]

    def _compile(self, model: tf.keras.Model, stage: Stage) -> None:
        label_weight = 1 - stage.distillation.weight if stage.distillation else 1.0
        with self.replicas.strategy.scope():
            model.compile(
                build_optimizer(stage.optimizer, stage.epochs),
                build_loss(stage),
                metrics=build_metrics(model.output_shape[-1]),
                loss_weights=[label_weight],
            )

    def _fit(self, model: tf.keras.Model, index: int, begin: int, state: checkpoints.State) -> checkpoints.State:
        """Train the remaining epochs of a stage, and return the state at its end.

        Args:
            model: The compiled network of the stage.
            index: Index of the stage.
            begin: Epochs of the stages before.
            state: State to start from.
        """
        stage = self.experiment.stages[index]
        end = begin + stage.epochs
        replicas = self.replicas
        steps = steps_per_epoch(self.dataset, stage, replicas.count, replicas.static_shapes)
        examples = min(steps * stage.batch_size, self.dataset.examples(self.dataset.info.train))
        progress = ShowProgress(self.console, self.experiment.epochs, steps, examples, self.plain)
        save = SaveRun(self.run, state, index, steps)
        stop = StopBetweenSteps()
        try:
            model.fit(
                replicas.distribute(
                    lambda context: training_batches(
                        self.dataset, self.experiment, stage, state.epoch, end, context, replicas.static_shapes
                    )
                ),
                steps_per_epoch=steps,
                initial_epoch=state.epoch,
                epochs=end,
                validation_data=replicas.distribute(
                    lambda context: evaluation_batches(self.dataset, self.experiment, context=context)
                ),
                validation_steps=evaluation_steps(self.dataset, replicas.count, replicas.processes),
                verbose=0,
                callbacks=[
                    # The order matters: each callback adds to the epoch's logs, which the next ones read.
                    ApplySchedules(
                        build_schedules(stage.optimizer, stage.epochs),
                        functools.partial(set_hyperparameter, model.optimizer),
                        steps,
                        begin,
                    ),
                    ApplySchedules(build_annealing(self.experiment, stage), functools.partial(anneal, model), steps),
                    MeasureEpoch(examples),
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
def _frozen_layers(model: tf.keras.Model, stage: Stage) -> Iterator[None]:
    """Freeze the layers that a stage does not train while in the context."""
    if stage.trains == "batch_norm":
        for layer in model.layers:
            layer.trainable = isinstance(layer, tf.keras.layers.BatchNormalization)
    try:
        yield
    finally:
        model.trainable = True


def _result(run: Run, experiment: Experiment, model: tf.keras.Model) -> dict[str, Any]:
    """Return the content of result.json.

    Accuracies are in percent. `seconds` is the time of all epochs. `images_per_second` leaves out the first epoch after
    each start, which also compiles the model.
    """
    rows = run.metrics
    timed = [row for row in rows if not row["first"]] or rows
    last_stage = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    counts = count(model)
    published = experiment.published
    return {
        "experiment": experiment.name,
        **experiment.chosen,
        "seed": experiment.seed,
        "top1": rows[-1]["val_top1"],
        "top5": rows[-1]["val_top5"],
        "best_top1": max(row["val_top1"] for row in last_stage),
        "published": published.model_dump(exclude_none=True) if published else None,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": len(timed) / sum(1 / row["images_per_second"] for row in timed),
        **counts,
        "binary_share": counts["binary_parameters"] / counts["parameters"],
    }
