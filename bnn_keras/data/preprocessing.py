"""Arrays of the preprocessing: a mean image, or mean and matrix of whitening."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bnn_keras.data.datasets import Dataset
from bnn_keras.data.mean_image import read_mean_image
from bnn_keras.data.whitening import fit_whitening
from bnn_keras.experiment import Experiment
from bnn_keras.experiment.schema import MEAN_IMAGE


def make_arrays(experiment: Experiment, open_dataset: Callable[[], Dataset]) -> Mapping[str, np.ndarray]:
    """Return the arrays of an experiment's preprocessing, as a training starts with.

    Args:
        experiment: The experiment.
        open_dataset: Returns the dataset whose training images `data.whiten` is fitted to.

    Returns:
        The arrays of `Experiment.arrays`. With `data.mean_image`, they are read from that file.

    Raises:
        BnnError: The file of the mean image cannot be read, or has another shape than the images.

    Example:
        >>> from bnn_keras import resolve
        >>> from bnn_keras.data import make_arrays, open_data
        >>> keys = ["data.examples=6", "data.shape=[4, 4, 1]", "data.mean=[0.0]", f"data.std=[{1 / 255}]"]
        >>> keys += ["data.classes=10", "data.augmentation.pad=0", "data.whiten=gcn_zca"]
        >>> experiment = resolve("lenet5", dataset="fake", overrides=keys).experiment
        >>> {name: array.shape for name, array in make_arrays(experiment, lambda: open_data(experiment)).items()}
        {'whitening_mean': (16,), 'whitening_matrix': (136,)}
    """
    if experiment.data.whiten:
        arrays: Mapping[str, np.ndarray] = fit_whitening(open_dataset()).arrays
    elif experiment.data.mean_image:
        arrays = {MEAN_IMAGE: read_mean_image(experiment.data.mean_image)}
    else:
        return {}
    return experiment.with_arrays(lambda: arrays).arrays  # verifies the shapes
