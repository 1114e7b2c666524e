"""Train an experiment into a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from bnn_keras import checkpoints, files, runs
from bnn_keras.build import (
    build_annealing,
    build_loss,
    build_metrics,
    build_model,
    build_optimizer,
    build_schedules,
    percent,
)
from bnn_keras.counts import count
from bnn_keras.data import (
    Dataset,
    evaluation_batches,
    evaluation_steps,
    hold_out,
    make_arrays,
    open_data,
    steps_per_epoch,
    training_batches,
)
from bnn_keras.data.readers import decoding
from bnn_keras.errors import BnnError, DivergedError, unknown
from bnn_keras.experiment import Experiment, Stage, check_experiment, with_absolute_paths
from bnn_keras.layers import precision_policy
from bnn_keras.location import DataLocation
from bnn_keras.losses import Distillation
from bnn_keras.models import load_teacher, load_weights
from bnn_keras.optimizers import decayed_variables, set_hyperparameter, verify_learning_rate_factors
from bnn_keras.runs import Run
from bnn_keras.sources import Source, default_directory, require_same_start
from bnn_keras.text import some
from bnn_keras.training.callbacks import (
    ApplySchedules,
    MeasureEpoch,
    ProfileSteps,
    SaveRun,
    WriteEpochs,
    save_weights,
)
from bnn_keras.training.changing import change as change_experiment
from bnn_keras.training.changing import require_changeable
from bnn_keras.training.diagnosing import Divergence, StopIfNotFinite, find_divergence
from bnn_keras.training.distribution import Replicas, build_replicas
from bnn_keras.training.environment import collect_environment, require_same_images
from bnn_keras.training.health import PROBED_IMAGES, MeasureHealth
from bnn_keras.training.progress import ShowProgress
from bnn_keras.training.repairing import require_intact
from bnn_keras.training.starting import Start
from bnn_keras.training.within_epochs import Interval, ResumeEpoch, SaveWithinEpochs
from bnn_keras.transfer import Transfer, take_weights

_EPOCHS = re.compile(r"stages\.\d+\.epochs: ")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def train(
    experiment: Experiment,
    directory: str | Path | None = None,
    *,
    start_from: str | Path | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    strategy: str = "auto",
    precision: str = "float32",
    jit: bool = False,
    profile: str | Path | None = None,
    fresh: bool = False,
    change: bool = False,
    save_every: str = runs.SAVE_EVERY,
    keep: int = runs.KEPT,
    plain: bool = False,
    command: Sequence[str] = (),
    console: Console | None = None,
    after_epoch: Callable[[Mapping[str, Any]], object] = lambda row: None,
) -> dict[str, Any]:
    """Train an experiment, or resume an interrupted training in the same directory.

    On the same machine, the same seed gives bit-identical weights, whether or not the training was interrupted.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP stop the training after the current step. The state is saved, and
    KeyboardInterrupt (SIGINT) or SystemExit with the code 128 + number is raised. A second signal ends the process.

    Args:
        experiment: The experiment to train.
        directory: Path of the run directory; `sources.default_directory(experiment, start_from)` if None.
        start_from: A run, trained or imported, one of its files of weights, a packed file, or the name of a model of
            the package, to start from; random weights if None. The weights are taken by name (`starting.Start.give`),
            and the last layer only if the classes are the same. A run that was started from other weights resumes
            without them.
        data_dir: Folder of prepared datasets, TFDS's default folder if None; for "image_folder", the folder of images.
        manual_dir: Folder with the files that TFDS would download; None to download them.
        strategy: Distribution strategy, see `distribution.build_replicas`. The batch size is that of all replicas
            together. With several processes, only the chief writes the run directory, and all must be able to read it.
        precision: Precision that layers compute in: "float32", "mixed_bfloat16" or "mixed_float16" (with dynamic loss
            scaling). Variables and logits are float32.
        jit: Compile the training and evaluation steps with XLA. This changes rounding.
        profile: Folder for a TensorBoard profile of ten training steps (`callbacks.ProfileSteps`); None for none.
        fresh: Start over. An existing run is kept as `<directory>.old-<N>` until the first epoch is finished, and then
            removed.
        change: Train the existing run further as `experiment`, which may differ from its own in epochs, label smoothing
            and hyper-parameters of the optimizer. environment.json notes what changed, and when.
        save_every: How often to write a checkpoint within an epoch: a time such as "15m", or steps such as "500steps".
        keep: Number of checkpoints to keep, apart from those of the last finished epoch and of the best one.
        plain: Print plain lines instead of a progress bar.
        command: Command line to record in environment.json; `sys.argv` if empty.
        console: Console to show progress on; standard error if None.
        after_epoch: Called with the row of metrics.jsonl after each epoch, when the run can be resumed from its end.
            An exception ends the training.

    Returns:
        The content of result.json. A finished run is not trained again.

    Raises:
        BnnError: `experiment` is not an Experiment; the directory holds a run of another experiment or other files, is
            in use by another process, or cannot be written; the dataset is not available or has a damaged image; a
            batch size is not divisible by the number of replicas; a loss or a weight is not finite; the weights of
            `start_from` are missing, damaged, of another network, or not those that the existing run was started from.
            The files of an existing run are kept.
        LostProcessError: Another process of the training ended, or cannot be reached.

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
    experiment = with_absolute_paths(experiment)
    interval = Interval.parse(save_every)
    if keep < 1:
        raise BnnError(f"keep is {keep}; expected at least 1 checkpoint")
    if precision not in PRECISIONS:
        raise BnnError(unknown("precision", precision, PRECISIONS))
    home = Run(directory or default_directory(experiment, start_from))
    source = None if start_from is None else Source.at(start_from)
    if source:
        source.require_other_than(home)
    replicas = build_replicas(strategy)
    replicas.check_batch_sizes(experiment)
    result = None if fresh else _finished(home, experiment, source, change)
    if result:
        return result
    profiling = [ProfileSteps(profile)] if profile and replicas.chief else []
    with replicas.noticing_losses(), _writable_run(home, replicas) as run, precision_policy(precision):
        run.refuse_other_files()
        checkpoint = None if fresh else checkpoints.latest(home)
        if not fresh:
            require_intact(home, checkpoint)
            if change:
                require_changeable(home, experiment, checkpoint)
            else:
                _require_same_experiment(home, experiment)
            require_same_start(home, source)
            source = source or _recorded_source(home)
        trained = checkpoint is not None and checkpoint.state.started_epochs > 0
        _require_remaining_epochs(home, experiment, checkpoint)
        imported = home.environment.get("imported") if home.begun and not fresh else None
        # Before the networks are built: loading sets the random seed of another experiment.
        start = Start.load(source) if source and not trained else None
        dataset = _open_dataset(experiment, DataLocation(data_dir, manual_dir), replicas)
        held_out = hold_out(dataset, experiment)
        arrays = _arrays(experiment, held_out, home if home.begun and not fresh else None, start)
        experiment = experiment.with_arrays(lambda: arrays)
        shown = _console(console, replicas)
        training = _Training(
            run, experiment, held_out, replicas, shown, plain, after_epoch, jit, profiling, interval, keep
        )
        networks = [training.build_network(stage) for stage in experiment.stages]
        started = {"start_from": training.start(networks[0], start)} if start else {}
        if trained:
            _require_precision(home, precision)
            require_same_images(home, dataset)
        replicas.barrier()  # every process has read the checkpoint before the chief replaces files
        if fresh:
            run.replace()
        if change and checkpoint and replicas.chief:
            change_experiment(run, experiment, checkpoint.state)
        if not (run.begun and trained):  # a run without epochs records anew what it is trained on
            environment = collect_environment(experiment, dataset, command)
            options = {"strategy": replicas.name, "replicas": replicas.count, "precision": precision, "jit": jit}
            digest = run.write_arrays(experiment)
            files.write_json(
                run / runs.ENVIRONMENT,
                {**environment, **options, **started, **digest, **({"imported": imported} if imported else {})},
            )
            run.copy_plugins(experiment)
            files.write_text(run / runs.EXPERIMENT, experiment.to_toml())
        with _naming_the_replaced_run(run), _explaining_errors_of_tensorflow(), decoding(dataset.info.name):
            model, state = training.train_stages(networks, checkpoint)
            replicas.barrier()  # the chief has written the best weights
            tested = training.test(model, dataset, home) if experiment.data.validation else {}
        if replicas.chief:
            run.write_result(_result(run, experiment, model, state, tested))
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


def _arrays(
    experiment: Experiment, dataset: Dataset, existing: Run | None, start: Start | None
) -> Mapping[str, np.ndarray]:
    """Return the arrays of the preprocessing.

    They are those of the existing run, or those of the run that the training starts from if the preprocessing is the
    same, as for mean and deviation. Otherwise they are made.
    """
    if existing:
        return existing.experiment.arrays
    data = experiment.data
    if start and (data.arrays, data.mean_image) == (start.experiment.data.arrays, start.experiment.data.mean_image):
        return experiment.with_arrays(lambda: start.experiment.arrays).arrays
    return make_arrays(experiment, lambda: dataset)


def _console(console: Console | None, replicas: Replicas) -> Console:
    return (console or Console(stderr=True)) if replicas.chief else Console(quiet=True)


def _recorded_source(run: Run) -> Source | None:
    """Return the weights that a run was started from, or None."""
    return Source.at(run.start["path"]) if run.begun and run.start else None


def _finished(run: Run, experiment: Experiment, source: Source | None, change: bool) -> dict[str, Any] | None:
    """Return the result of a finished run, or None if it is not finished, or a file is damaged. Only reads files.

    If the run may `change`, one of another experiment is not finished.
    """
    if not (run / runs.RESULT).exists():
        return None
    undamaged, _ = checkpoints.verified(run)
    try:
        require_intact(run, undamaged[0] if undamaged else None)
    except BnnError:
        return None
    if change and experiment.differences(run.experiment):
        return None
    _require_same_experiment(run, experiment)
    require_same_start(run, source)
    return run.result


def _require_same_experiment(run: Run, experiment: Experiment) -> None:
    differences = experiment.differences(run.experiment) if run.begun else []
    if not differences:
        return
    fix = "give another --run DIR"
    if all(_EPOCHS.match(difference) for difference in differences):
        name = shlex.quote(str(run.directory))
        fix = (
            f"train it further with --continue {name}, start a new run from its weights with --from {name} --run DIR, "
            "or start over with --fresh"
        )
    found = "; ".join(differences)
    raise BnnError(f"{str(run.directory)!r} holds a run of another experiment (requested / existing): {found}; {fix}")


def _require_remaining_epochs(run: Run, experiment: Experiment, checkpoint: checkpoints.Checkpoint | None) -> None:
    """Verify that an imported training, of which no epoch was trained here, has epochs left."""
    state = checkpoint.state if checkpoint else checkpoints.State()
    if state.imported == state.started_epochs >= experiment.epochs:
        raise BnnError(
            f"{str(run.directory)!r} was imported with all of its {experiment.epochs} epochs finished; to train it "
            "further, import the checkpoint again with --set stages.0.epochs=N, or with --weights-only to begin anew"
        )


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
    """A training, with what all of its stages share. The best epoch is chosen on the test split of `dataset`."""

    run: Run
    experiment: Experiment
    dataset: Dataset
    replicas: Replicas
    console: Console
    plain: bool
    after_epoch: Callable[[Mapping[str, Any]], object]
    jit: bool = False
    profiling: Sequence[tf.keras.callbacks.Callback] = ()
    interval: Interval = dataclasses.field(default_factory=Interval)
    keep: int = runs.KEPT

    def build_network(self, stage: Stage) -> tf.keras.Model:
        """Build the network of a stage, with the distillation loss if the stage has a teacher.

        Raises:
            BnnError: The network or the teacher cannot be built, or a pattern of the optimizer matches no weight.
        """
        with self.replicas.strategy.scope():
            model = build_model(self.experiment, stage)
            weights, latent_free = model.trainable_variables, self.experiment.latent_free
            decayed_variables(weights, stage.optimizer.weight_decay_of, latent_free)  # verifies the patterns
            verify_learning_rate_factors(weights, stage.optimizer.learning_rate_factors or {}, latent_free)
            distillation = stage.distillation
            if distillation:
                teacher = load_teacher(distillation.teacher, self.experiment)
                layer = Distillation(teacher, distillation.temperature, distillation.weight, name="distillation")
                student = tf.keras.Model(model.input, layer((model.input, model.output)), name=model.name)
                student.scheme = model.scheme
                return student
        return model

    def start(self, model: tf.keras.Model, start: Start) -> dict[str, Any]:
        """Give the weights of another training to the network of the first stage, and print which.

        Returns:
            Where the weights are from, and which ones were not taken, for environment.json.
        """
        with self.replicas.strategy.scope():
            transfer = start.give(model, self.experiment, self.dataset.labels)
        other, taken = start.experiment, len(model.weights) - len(transfer.fresh)
        trained = f"{other.name}, {other.scheme.name} {other.scheme.bits}"
        lines = [
            f"starting from {start.source.path} ({trained}): {taken} of {len(model.weights)} weights are taken by name",
            f"new, with initial values: {some(transfer.fresh)}; dropped: {some(transfer.dropped)}",
        ]
        normalized, needed = ((data.mean, data.std) for data in (self.experiment.data, other.data))
        if normalized != needed:
            lines.append(f"mean and deviation of images are {normalized}, but {needed} in the training of the weights")
        for line in lines:
            self.console.print(line, highlight=False, soft_wrap=True)
        return {**start.source.to_document(), **dataclasses.asdict(transfer)}

    def train_stages(
        self, networks: Sequence[tf.keras.Model], checkpoint: checkpoints.Checkpoint | None
    ) -> tuple[tf.keras.Model, checkpoints.State]:
        """Train the remaining epochs of all stages, starting from a checkpoint.

        Args:
            networks: The network of each stage.
            checkpoint: The checkpoint to resume from, or None to start at epoch 0.

        Returns:
            The trained network of the last stage, and the state at its end.
        """
        state = checkpoint.state if checkpoint else checkpoints.State()
        if not checkpoint:
            self.run.truncate_metrics(0)
        if self.run.replaced:
            kept = f"keeping the run before in {self.run.replaced} until the first epoch is finished"
            self.console.print(kept, highlight=False, soft_wrap=True)
        if state.started_epochs:
            steps = f"step {state.steps_of_epoch} in epoch {state.epoch + 1}" if state.steps_of_epoch else ""
            place = f"{steps or f'epoch {state.epoch}'} of {self.experiment.epochs}"
            self.console.print(f"resuming after {place}", highlight=False)
        begin, previous, arrays = 0, None, checkpoint.arrays if checkpoint else {}
        for index, (stage, model) in enumerate(zip(self.experiment.stages, networks, strict=True)):
            end = begin + stage.epochs
            if (
                state.started_epochs <= end or model is networks[-1]
            ):  # at the end of a stage, the next one takes its weights
                self._compile(model, stage)
                if previous:
                    self._tell(index, take_weights(model, previous))
                if checkpoint:
                    checkpoint.restore(model, model.optimizer if state.started_epochs > begin else None)
                    self.replicas.restore_each("weights", model.weights, arrays)
                    self._save_again(model, state)
                    checkpoint = None
                previous = model
            if state.epoch < end:
                if index and state.epoch == begin:
                    state = dataclasses.replace(state, best_top1=float("-inf"), best_epoch=0)  # was of the last stage
                state = self._fit(model, index, begin, state, arrays)
            begin = end
        return networks[-1], state

    def _save_again(self, model: tf.keras.Model, state: checkpoints.State) -> None:
        """Save what was restored: files of the run may be of a later epoch, and those of an import need new digests."""
        self.run.truncate_metrics(state.metrics_length)
        if state.steps_of_epoch:
            return  # the weights are of an epoch that is not finished
        texts = self.run.copied()
        save_weights(model, self.run, runs.WEIGHTS, texts)
        if not state.epoch:  # environment.json is new
            save_weights(model, self.run, runs.BEST_WEIGHTS, texts)
            checkpoints.save(self.run, state, model, model.optimizer, texts)

    def _tell(self, index: int, transfer: Transfer) -> None:
        """Print which weights a stage does not take from the stage before, if any."""
        parts = {"new, with initial values": transfer.fresh, "dropped": transfer.dropped}
        lists = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
        if lists:
            line = f"stage {index + 1} takes the weights of stage {index} by name; {'; '.join(lists)}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def test(self, model: tf.keras.Model, dataset: Dataset, home: Run) -> dict[str, Any]:
        """Measure the accuracy on test images that no epoch was chosen on, after the last epoch and the best one.

        Args:
            model: The trained, compiled network.
            dataset: The dataset with its own test split.
            home: The run directory of the chief.

        Returns:
            `top1`, `top5` and `best_top1` in percent; `best_top1` is None if the best weights are missing.
        """
        last = self._accuracies(model, dataset)
        if not (home / runs.BEST_WEIGHTS).exists():
            return {"top1": last["top1"], "top5": last["top5"], "best_top1": None}
        home.verify_weights(runs.BEST_WEIGHTS)
        load_weights(model, home, runs.BEST_WEIGHTS)
        return {"top1": last["top1"], "top5": last["top5"], "best_top1": self._accuracies(model, dataset)["top1"]}

    def _accuracies(self, model: tf.keras.Model, dataset: Dataset) -> dict[str, float]:
        measured = model.evaluate(
            self.replicas.distribute(lambda context: evaluation_batches(dataset, self.experiment, context=context)),
            steps=evaluation_steps(dataset, self.replicas.count, self.replicas.processes),
            verbose=0,
            return_dict=True,
        )
        return {name: percent(measured[name]) for name in ("top1", "top5")}

    def _compile(self, model: tf.keras.Model, stage: Stage) -> None:
        label_weight = 1 - stage.distillation.weight if stage.distillation else 1.0
        with self.replicas.strategy.scope():
            model.compile(
                build_optimizer(stage.optimizer, stage.epochs),
                build_loss(stage),
                metrics=build_metrics(model.output_shape[-1]),
                loss_weights=[label_weight],
                jit_compile=self.jit,
            )

    def _fit(
        self,
        model: tf.keras.Model,
        index: int,
        begin: int,
        state: checkpoints.State,
        arrays: Mapping[str, np.ndarray],
    ) -> checkpoints.State:
        """Train the remaining epochs of a stage, and return the state at its end.

        Args:
            model: The compiled network of the stage.
            index: Index of the stage.
            begin: Epochs of the stages before.
            state: State to start from.
            arrays: What was measured in the epoch so far, if the state is within one.
        """
        stage = self.experiment.stages[index]
        end = begin + stage.epochs
        replicas = self.replicas
        steps = steps_per_epoch(self.dataset, stage, replicas.count, replicas.static_shapes)
        examples = min(steps * stage.batch_size, self.dataset.examples(self.dataset.info.train))
        images = self.experiment.best_chosen_on
        batches = functools.partial(self._batches, stage, end)
        progress = ShowProgress(self.console, self.experiment.epochs, steps, examples, images, self.plain)
        save = SaveRun(self.run, state, index, steps, replicas, self.after_epoch, self.keep)
        measure = MeasureEpoch(examples)
        resume = [ResumeEpoch(state, arrays, measure, progress, steps, replicas)] if state.steps_of_epoch else []
        first, tell = state.steps_of_epoch, functools.partial(self.console.print, highlight=False, soft_wrap=True)
        within_epochs = SaveWithinEpochs(self.interval, save, measure, replicas, steps, first, tell)
        try:
            model.fit(
                batches(state.epoch, first),
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
                    *self._schedules(model, stage, steps, begin),
                    StopIfNotFinite(),
                    measure,
                    MeasureHealth(measure, self._probed, replicas, steps, begin),
                    WriteEpochs(self.run / runs.TENSORBOARD, write_graph=False, profile_batch=0),
                    save,
                    progress,
                    *self.profiling,
                    *resume,
                    within_epochs,
                ],
            )
        except DivergedError as error:
            save.close()
            raise self._located(error, index, begin, steps) from error
        finally:
            progress.close()
            within_epochs.close()
            save.close()
            for profile in self.profiling:
                profile.close()
        return save.state

    def _batches(self, stage: Stage, end: int, epoch: int, step: int) -> tf.data.Dataset:
        """Return the batches of a stage from a step on, for all replicas."""
        replicas = self.replicas
        return replicas.distribute(
            lambda context: training_batches(
                self.dataset, self.experiment, stage, epoch, end, context, replicas.static_shapes, step
            )
        )

    def _probed(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a few training images and their labels, which measure the health of layers."""
        train = self.dataset.info.train
        return next(iter(evaluation_batches(self.dataset, self.experiment, PROBED_IMAGES, split=train)))

    def _schedules(
        self, model: tf.keras.Model, stage: Stage, steps: int, begin: int
    ) -> tuple[tf.keras.callbacks.Callback, ...]:
        """Return the callbacks that change hyper-parameters and annealed values before each step."""
        return (
            ApplySchedules(
                build_schedules(stage.optimizer, stage.epochs),
                functools.partial(set_hyperparameter, model.optimizer),
                steps,
                begin,
            ),
            ApplySchedules(build_annealing(self.experiment, stage), functools.partial(_anneal, model), steps),
        )

    def _located(self, error: DivergedError, index: int, begin: int, steps: int) -> DivergedError:
        """Return the error of a stage with the step and the layer in which it began, and how to go on."""
        checkpoint = checkpoints.latest(self.run)
        reason, *_ = str(error).split("; ")
        line = f"{reason}; repeating the steps since the last checkpoint to find where it began"
        self.console.print(line, highlight=False, soft_wrap=True)
        found = self._find_divergence(checkpoint, index, begin, steps)
        parts = [reason, "expected a finite number"]
        if found:
            place = f"step {found.step + 1} of {steps} in epoch {found.epoch + 1}"
            parts.append(f"{found.what} is the first that is not finite, in {place}")
        fix = "lower the learning rate"
        if checkpoint:
            command = shlex.join(["bnnk", "train", "--continue", str(self.run.directory), "--set"])
            key = f"stages.{index}.optimizer.learning_rate"
            fix = f"{fix}, and go on from {checkpoint.folder.name} with `{command} {key}=…`"
        return DivergedError("; ".join([*parts, fix]))

    def _find_divergence(
        self, checkpoint: checkpoints.Checkpoint | None, index: int, begin: int, steps: int
    ) -> Divergence | None:
        """Repeat the steps of a stage from a checkpoint, or from the initial weights, until they diverge.

        None is returned with several replicas, none of which has the whole batch, and if the first weights of the stage
        are neither in the checkpoint nor the initial ones.
        """
        state = checkpoint.state if checkpoint else checkpoints.State()
        from_start = index == 0 and (checkpoint is not None or self.run.start is None)
        if self.replicas.name != "single" or not (state.started_epochs > begin or from_start):
            return None
        stage = self.experiment.stages[index]
        model = self.build_network(stage)
        self._compile(model, stage)
        if checkpoint:
            checkpoint.restore(model, model.optimizer if state.started_epochs > begin else None)
        end = begin + stage.epochs
        return find_divergence(
            model,
            functools.partial(self._batches, stage, end),
            divmod(state.epoch * steps + state.steps_of_epoch, steps),
            end,
            steps,
            self._schedules(model, stage, steps, begin),
        )


def _anneal(model: tf.keras.Model, name: str, value: float) -> None:
    model.scheme.annealed.assign(**{name: value})


def _result(
    run: Run, experiment: Experiment, model: tf.keras.Model, state: checkpoints.State, tested: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of result.json.

    `tested` replaces the accuracies of `metrics.jsonl` if those are of validation images. Accuracies are in percent.
    `seconds` is the time of all epochs. `images_per_second` leaves out the first epoch after each start, which also
    compiles the model.
    """
    rows = run.metrics
    timed = [row for row in rows if not row["first"]] or rows
    best = state.best_top1
    counts = count(model)
    published = experiment.published
    return {
        "experiment": experiment.name,
        **experiment.chosen,
        "seed": experiment.seed,
        "top1": rows[-1]["val_top1"],
        "top5": rows[-1]["val_top5"],
        "best_top1": best,
        "best_chosen_on": experiment.best_chosen_on,
        **({"validation_top1": rows[-1]["val_top1"], "best_validation_top1": best} if tested else {}),
        **tested,
        "published": published.model_dump(exclude_none=True) if published else None,
        "epochs": state.epoch,
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": len(timed) / sum(1 / row["images_per_second"] for row in timed),
        **counts,
        "binary_share": counts["binary_parameters"] / counts["parameters"],
    }
