"""Data sets (all of them TFDS builders) and the pipelines that feed a network with them."""

from bnn_keras.data.datasets import Images, find_dataset, open_dataset
from bnn_keras.data.pipelines import evaluation_batches, fit, normalise, training_batches

__all__ = [
    "Images",
    "evaluation_batches",
    "find_dataset",
    "fit",
    "normalise",
    "open_dataset",
    "training_batches",
]
