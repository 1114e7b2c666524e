"""Description of an exported network: what a file says about itself."""

from __future__ import annotations

import dataclasses

from bnn_keras.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Description:
    """What a trained network is, without its weights.

    Attributes:
        name: Name of the network.
        input_shape: Shape of one input, usually (height, width, channels).
        labels: Class names, in the order of the logits.
        experiment: The experiment that trained it, with the preprocessing of its images. None for a model of the user,
            which takes prepared inputs.

    >>> from bnn_keras import resolve
    >>> Description.of_experiment(resolve("lenet5").experiment, list("0123456789")).input_shape
    (28, 28, 1)
    """

    name: str
    input_shape: tuple[int, ...]
    labels: list[str]
    experiment: Experiment | None = None

    @classmethod
    def of_experiment(cls, experiment: Experiment, labels: list[str]) -> Description:
        """Return the description of the network of an experiment."""
        return cls(experiment.network.name, experiment.input_shape, labels, experiment)
