"""Distribute a training over devices and processes with `tf.distribute`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from bnn_keras.data.readers import reason_of
from bnn_keras.errors import BnnError, LostProcessError, unknown
from bnn_keras.experiment import Experiment

# What TensorFlow raises in the other processes of a training when one ends.
_LOST_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
TPU_ADDRESSES = ("TPU_NAME", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR")


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas of a network that train together.

    Attributes:
        strategy: TensorFlow's distribution strategy.
        name: Name of the strategy: single, mirrored, multiworker or tpu.
    """

    strategy: tf.distribute.Strategy
    name: str

    @property
    def count(self) -> int:
        """Number of replicas, over all processes."""
        return self.strategy.num_replicas_in_sync

    @property
    def processes(self) -> int:
        """Number of processes. Each has its own input pipeline."""
        resolver = self.strategy.cluster_resolver if self.name == "multiworker" else None
        return sum(map(len, resolver.cluster_spec().as_dict().values())) if resolver else 1

    @property
    def chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.strategy.extended.should_checkpoint

    @property
    def static_shapes(self) -> bool:
        """Whether every batch must have the same size."""
        return self.name == "tpu"

    @property
    def eager(self) -> bool:
        """Whether functions can run on replicas without being compiled."""
        return self.name != "tpu"

    def barrier(self) -> None:
        """Block until every process calls this method."""
        if self.name == "multiworker":
            self.strategy.reduce("SUM", self.strategy.run(lambda: tf.constant(1.0)), axis=None)

    @contextlib.contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Convert the errors that TensorFlow raises after another process has ended.

        Raises:
            LostProcessError: Another process has ended.
        """
        try:
            yield
        except _LOST_ERRORS as error:
            if self.name != "multiworker":
                raise
            fix = "restart all processes to resume from the last checkpoint"
            raise LostProcessError(f"another process of this training ended ({reason_of(error)}); {fix}") from error

    def agree(self, *flags: bool) -> list[bool]:
        """Return which flags are set in any process. Every process must call this method in the same step."""
        if self.name != "multiworker":
            return list(flags)
        return [bool(count) for count in self._sum_over_replicas(tf.constant(flags, tf.float32)).numpy()]

    @functools.cached_property
    def _sum_over_replicas(self) -> Callable[[tf.Tensor], tf.Tensor]:
        return tf.function(lambda values: self.strategy.reduce("SUM", self.strategy.run(tf.identity, (values,)), None))

    def on_first(self, function: Callable[[], Mapping[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """Run a function on all replicas, without any communication, and return what the first one here returns."""
        results = self.strategy.run(function)
        return {name: self.strategy.experimental_local_results(value)[0] for name, value in results.items()}

    def save_each(self, name: str, variables: Iterable[tf.Variable]) -> dict[str, np.ndarray]:
        """Return what each of several replicas has in the variables that differ between them.

        These are statistics of batch norms, of which reading gives the mean, and sums of metrics, of which it gives the
        sum. A training that goes on with what was read differs by rounding. Every process must call this method in the
        same step.

        Args:
            name: Name of the variables together.
            variables: All variables; those that are equal on all replicas are left out.

        Returns:
            float32 (replicas, values) by name; nothing for a single replica.
        """
        differing = _differing(variables)
        if self.count == 1 or not differing:
            return {}

        def values() -> tf.Tensor:
            return tf.concat([tf.cast(tf.reshape(variable, [-1]), tf.float32) for variable in differing], 0)[None]

        gathered = tf.function(lambda: self.strategy.gather(self.strategy.run(values), 0))
        return {f"replicas/{name}": gathered().numpy()}

    def restore_each(self, name: str, variables: Iterable[tf.Variable], arrays: Mapping[str, np.ndarray]) -> None:
        """Give each replica what it had, after all replicas were given what was read.

        Nothing is changed if another number of replicas saved the arrays.

        Args:
            name: Name of the variables together.
            variables: All variables.
            arrays: What `save_each` returned, among others.

        Raises:
            ValueError: The values are of other variables.
        """
        values, differing = arrays.get(f"replicas/{name}", np.zeros(0)), _differing(variables)
        if len(values) != self.count or not differing:
            return

        def assign() -> None:
            row = tf.constant(values)[tf.distribute.get_replica_context().replica_id_in_sync_group]
            parts = tf.split(row, [variable.shape.num_elements() for variable in differing])
            for variable, part in zip(differing, parts, strict=True):
                variable.assign(tf.cast(tf.reshape(part, variable.shape), variable.dtype))

        tf.function(lambda: self.strategy.run(assign))()

    def distribute(self, batches: Callable[[tf.distribute.InputContext], tf.data.Dataset]) -> tf.data.Dataset:
        """Return a distributed dataset, given a function that returns the batches of one input pipeline."""
        return self.strategy.distribute_datasets_from_function(batches)

    def check_batch_sizes(self, experiment: Experiment) -> None:
        """Verify that the batch size of every stage is divisible by the number of replicas.

        Raises:
            BnnError: A batch size is not divisible.
        """
        for stage in experiment.stages:
            size = stage.batch_size
            if size % self.count:
                below, above = size - size % self.count, size - size % self.count + self.count
                valid = " or ".join(str(nearest) for nearest in (below, above) if nearest)
                raise BnnError(
                    f"batch size {size} is not divisible by {self.count} replicas ({self.name}); "
                    f"set --batch-size to {valid}"
                )


def _differing(variables: Iterable[tf.Variable]) -> list[tf.Variable]:
    return [variable for variable in variables if variable.synchronization is tf.VariableSynchronization.ON_READ]


def build_replicas(name: str = "auto") -> Replicas:
    """Return the replicas of a distribution strategy.

    Args:
        name: "single": one device. "mirrored": all GPUs of this machine, or all logical CPUs if it has no GPU.
            "multiworker": the processes listed in TF_CONFIG, or the tasks of a Slurm step. "tpu": the TPU at TPU_NAME,
            or the TPU of this machine. "auto": "multiworker" if TF_CONFIG lists several processes, "tpu" if an
            environment variable gives the address of one, "mirrored" if there are several GPUs, else "single".

    Raises:
        BnnError: The name is unknown, or the devices or processes are not available.
    """
    chosen = choose_strategy(name)
    return Replicas(_STRATEGIES[chosen](), chosen)


def choose_strategy(name: str) -> str:
    """Return the name of a strategy; for "auto", of the one that `build_replicas` chooses.

    Raises:
        BnnError: The name is unknown, or TF_CONFIG cannot be read.

    Example:
        >>> choose_strategy("mirrored")
        'mirrored'
    """
    if name not in ("auto", *_STRATEGIES):
        raise BnnError(unknown("strategy", name, ["auto", *_STRATEGIES]))
    if name != "auto":
        return name
    if len(_processes()) > 1:
        return "multiworker"
    if any(os.environ.get(address) for address in TPU_ADDRESSES):
        return "tpu"
    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "single"


def _processes() -> list[str]:
    """Return the addresses of the processes listed in TF_CONFIG."""
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        cluster = json.loads(text).get("cluster", {})
        return [address for job in ("chief", "worker") for address in cluster.get(job, [])]
    except (ValueError, AttributeError) as error:
        raise BnnError(
            f"cannot read TF_CONFIG={text!r} ({error}); expected JSON with cluster and task; see docs/scaling.md"
        ) from error


def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multiworker() -> tf.distribute.Strategy:
    try:
        if _processes():
            return tf.distribute.MultiWorkerMirroredStrategy()
        if "SLURM_STEP_NUM_TASKS" in os.environ:
            # Slurm has already assigned the GPUs. These numbers only make the resolver include every task.
            tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
            gpus = {"gpus_per_node": tasks, "gpus_per_task": 1, "auto_set_gpu": False}
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**gpus)
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"cannot connect to the other processes ({reason}); restart all of them") from error
    raise BnnError(
        "strategy 'multiworker' needs TF_CONFIG, which lists every process, or a Slurm step; see docs/scaling.md"
    )


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME") or "local")
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise BnnError(
            f"no TPU is available ({reason}); set TPU_NAME to its address, or choose another --strategy"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


_STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {
    "single": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}
