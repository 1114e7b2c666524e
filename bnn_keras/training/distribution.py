"""On which devices a training runs, and who of several processes writes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable

import tensorflow as tf

from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment

TPU_ADDRESSES = ("TPU_NAME", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR")


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The copies of a network that train together.

    Attributes:
        strategy: TensorFlow's distribution of them.
        name: What was chosen: single, mirrored, multiworker, tpu.
    """

    strategy: tf.distribute.Strategy
    name: str

    @property
    def count(self) -> int:
        """Number of copies, over all processes."""
        return self.strategy.num_replicas_in_sync

    @property
    def processes(self) -> int:
        """Number of processes, each with an input pipeline of its own."""
        resolver = self.strategy.cluster_resolver if self.name == "multiworker" else None
        return sum(map(len, resolver.cluster_spec().as_dict().values())) if resolver else 1

    @property
    def chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.strategy.extended.should_checkpoint

    @property
    def static(self) -> bool:
        """Whether every batch must have the same size."""
        return self.name == "tpu"

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.name == "multiworker":
            self.strategy.reduce("SUM", self.strategy.run(lambda: tf.constant(1.0)), axis=None)

    def distribute(self, batches: Callable[[tf.distribute.InputContext], tf.data.Dataset]) -> tf.data.Dataset:
        """Batches for each copy, from a function that makes those of one process."""
        return self.strategy.distribute_datasets_from_function(batches)

    def check(self, experiment: Experiment) -> None:
        """Raises a BnnError where a batch does not divide evenly among the copies."""
        for stage in experiment.stages:
            size = stage.batch_size
            if size % self.count:
                below, above = size - size % self.count, size - size % self.count + self.count
                valid = " or ".join(str(one) for one in (below, above) if one)
                raise BnnError(
                    f"batch size {size} does not divide among {self.count} replicas ({self.name}); the next that does "
                    f"is {valid}: set it with --batch-size"
                )


def build_replicas(name: str = "auto") -> Replicas:
    """The distribution of that name.

    Args:
        name: "single": one device. "mirrored": every GPU of this machine (every logical CPU where there is none).
            "multiworker": every process that TF_CONFIG names, or of a step of Slurm. "tpu": the TPU of TPU_NAME, or
            this machine's. "auto": multiworker where TF_CONFIG names several processes, tpu where an environment
            variable gives its address, mirrored where there are several GPUs, else single.

    Raises:
        BnnError: The name is unknown, or what it needs is missing.
    """
    if name not in ("auto", *_STRATEGIES):
        raise BnnError(unknown("strategy", name, ["auto", *_STRATEGIES]))
    chosen = _automatic() if name == "auto" else name
    return Replicas(_STRATEGIES[chosen](), chosen)


def _automatic() -> str:
    if len(_processes()) > 1:
        return "multiworker"
    if any(os.environ.get(address) for address in TPU_ADDRESSES):
        return "tpu"
    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "single"


def _processes() -> list[str]:
    """Addresses of the processes that TF_CONFIG names."""
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        cluster = json.loads(text).get("cluster", {})
        return [address for job in ("chief", "worker") for address in cluster.get(job, [])]
    except (ValueError, AttributeError) as error:
        raise BnnError(
            f"cannot read TF_CONFIG={text!r} ({error}); expected JSON with cluster and task: see docs/scaling.md"
        ) from error


def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multiworker() -> tf.distribute.Strategy:
    try:
        if _processes():
            return tf.distribute.MultiWorkerMirroredStrategy()
        if "SLURM_STEP_NUM_TASKS" in os.environ:
            # Slurm has given each task its GPUs already; these numbers only let the resolver count to the last task.
            tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
            gpus = {"gpus_per_node": tasks, "gpus_per_task": 1, "auto_set_gpu": False}
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**gpus)
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise BnnError(f"cannot join the other processes ({reason}); start all of them afresh") from error
    raise BnnError(
        "strategy 'multiworker' needs TF_CONFIG, which names every process, or a step of Slurm: see docs/scaling.md"
    )


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME") or "local")
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise BnnError(f"no TPU to be had ({reason}); give its address in TPU_NAME, or another --strategy") from error
    return tf.distribute.TPUStrategy(resolver)


_STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {
    "single": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}
