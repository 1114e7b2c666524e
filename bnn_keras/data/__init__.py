"""Data sets (TFDS builders, folders of images, made-up ones) and the pipelines that feed a network with them."""

from bnn_keras.data.datasets import Images, describe, find_data, find_dataset, open_data, open_dataset
from bnn_keras.data.pictures import fit
from bnn_keras.data.pipelines import evaluation_batches, evaluation_steps, normalise, steps_per_epoch, training_batches

__all__ = [
    "Images",
    "describe",
    "evaluation_batches",
    "evaluation_steps",
    "find_data",
    "find_dataset",
    "fit",
    "normalise",
    "open_data",
    "open_dataset",
    "steps_per_epoch",
    "training_batches",
]
