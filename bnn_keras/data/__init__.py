"""Datasets (TFDS, folders of images, arrays, generated images) and input pipelines."""

from bnn_keras.data.datasets import (
    Dataset,
    available_data,
    describe,
    find_data,
    find_dataset,
    hold_out,
    open_data,
    open_dataset,
    open_test_data,
    training_examples,
)
from bnn_keras.data.mean_image import mean_image_of, read_mean_image
from bnn_keras.data.pipelines import evaluation_batches, evaluation_steps, normalise, steps_per_epoch, training_batches
from bnn_keras.data.preprocessing import make_arrays
from bnn_keras.data.records import check_labels, check_record, record_of
from bnn_keras.data.resizing import resize_and_crop
from bnn_keras.data.user_images import image_batches, prediction_batch

__all__ = [
    "Dataset",
    "available_data",
    "check_labels",
    "check_record",
    "describe",
    "evaluation_batches",
    "evaluation_steps",
    "find_data",
    "find_dataset",
    "hold_out",
    "image_batches",
    "make_arrays",
    "mean_image_of",
    "normalise",
    "open_data",
    "open_dataset",
    "open_test_data",
    "prediction_batch",
    "read_mean_image",
    "record_of",
    "resize_and_crop",
    "steps_per_epoch",
    "training_batches",
    "training_examples",
]
