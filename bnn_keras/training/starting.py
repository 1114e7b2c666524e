"""The trained network that a training starts from, and the weights that it gives to another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import larq
import tensorflow as tf

from bnn_keras import runs
from bnn_keras.constraints import apply_constraints
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export.packed import load_latent
from bnn_keras.models import load_run
from bnn_keras.sources import Source
from bnn_keras.transfer import Transfer, assign_weights, head, kernels, weights_by_name


@dataclasses.dataclass(frozen=True)
class Start:
    """A trained network that another training starts from.

    Attributes:
        source: Where its weights are.
        experiment: Its experiment.
        model: The network.
        labels: Names of its classes, in the order of the logits.
    """

    source: Source
    experiment: Experiment
    model: tf.keras.Model
    labels: Sequence[str]

    @classmethod
    def load(cls, source: Source) -> Start:
        """Load a network that a training starts from. That of a packed file has the latent weights of `load_latent`.

        Raises:
            BnnError: There is no run, its weights are missing or damaged, or a packed file has no experiment.
        """
        with source.explaining_errors():
            if source.run is None:
                return cls(source, *load_latent(source.path))
            experiment, model = load_run(source.run.directory, best=source.path.name == runs.BEST_WEIGHTS)
            return cls(source, experiment, model, source.run.environment["dataset"]["labels"])

    def give(self, model: tf.keras.Model, experiment: Experiment, labels: Sequence[str]) -> Transfer:
        """Copy the weights to a network, by name.

        Without the same classes, the last layer keeps its initial weights (`transfer.head`). Binary kernels without
        latent weights, which Bop flips, take the signs. Then constraints are applied.

        Args:
            model: The network.
            experiment: Its experiment.
            labels: Names of its classes.

        Returns:
            The names of the weights that were not copied.

        Raises:
            BnnError: Only one of the networks rotates its images, no two kernels have the same name, or weights of the
                same name have other shapes.
        """
        rotated = self.experiment.network.rotated
        values = weights_by_name(self.model)
        if list(labels) != list(self.labels):
            last = set(head(model))
            values = {name: value for name, value in values.items() if name not in last}
        with self.source.explaining_errors():
            if experiment.network.rotated != rotated:
                raise BnnError(
                    f"the weights are of a network with network.rotated={str(rotated).lower()}, the new one has "
                    f"{str(not rotated).lower()}; set network.rotated={str(rotated).lower()}"
                )
            if values.keys().isdisjoint(kernels(model)):
                raise BnnError(
                    f"{self.experiment.network.name} has no kernel with the name of one of {experiment.network.name}, "
                    "other than in the last layer; choose weights of the same network"
                )
            transfer = assign_weights(model, values)
        for kernel in binary_variables(model):
            if isinstance(kernel.quantizer, larq.quantizers.NoOp) and kernel.name not in transfer.fresh:
                kernel.assign(tf.where(kernel < 0, -tf.ones_like(kernel), tf.ones_like(kernel)))
        apply_constraints(model)
        return transfer
