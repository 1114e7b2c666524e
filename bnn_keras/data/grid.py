"""Draw a grid of images: test images, and training images as augmented in several epochs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bnn_keras.data.datasets import Dataset
from bnn_keras.data.pipelines import augmented_batches, denormalise, evaluation_batches
from bnn_keras.data.resizing import lazy_image
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.files import replacing

COLUMNS = 8
EPOCHS = 4
_INCHES_PER_IMAGE = 1.3
_MAX_LABEL_LENGTH = 16  # characters

LabelledImage = tuple[np.ndarray, int]


def draw_grid(dataset: Dataset, file: str | Path, experiment: Experiment | None = None) -> None:
    """Write a grid of images, titled with their class names.

    With an experiment, the first row shows test images as they are evaluated. Each further row shows the same training
    images as they are augmented in one epoch. Pixels are those before normalisation. Without an experiment, images are
    shown unchanged.

    Args:
        dataset: The dataset.
        file: Path of the image; its suffix selects the format (.png, .pdf, .svg, …).
        experiment: Sets image size and augmentation.

    Raises:
        BnnError: The file cannot be written, or matplotlib does not support the format.
    """
    path = Path(file)
    rows = preprocessed_rows(dataset, experiment) if experiment else unchanged_rows(dataset)
    figure = _figure(rows, dataset.labels)
    formats = FigureCanvasAgg(figure).get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise BnnError(
            f"cannot draw {str(path)!r}; expected a file named *.png, or one of {', '.join(sorted(formats))}"
        )
    with replacing(path) as temporary:
        figure.savefig(temporary)


def unchanged_rows(dataset: Dataset) -> dict[str, list[LabelledImage]]:
    """Return the first test and training images as stored, by the name of the row."""
    return {
        name: _first_images(dataset, split)
        for name, split in (("test", dataset.info.test), ("train", dataset.info.train))
    }


def _first_images(dataset: Dataset, split: str) -> list[LabelledImage]:
    channels = dataset.info.input_shape[-1]
    images = ((lazy_image(data, channels), label) for data, label in dataset.pairs(split).take(COLUMNS))
    return _to_arrays((image.crop(image.full_box()), label) for image, label in images)


def preprocessed_rows(dataset: Dataset, experiment: Experiment) -> dict[str, list[LabelledImage]]:
    """Return the first test images as evaluated and training images as augmented, by the name of the row.

    They are drawn before whitening.
    """
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"whiten": None})})
    batch, labels = next(iter(evaluation_batches(dataset, experiment, COLUMNS)))
    rows = {"test": _to_arrays(zip(denormalise(experiment)(batch), labels, strict=True))}
    indexed_pairs = dataset.pairs(dataset.info.train).take(COLUMNS).enumerate()
    epochs = tf.data.Dataset.range(EPOCHS)
    batches = epochs.flat_map(lambda epoch: augmented_batches(dataset, experiment, epoch, indexed_pairs, COLUMNS))
    images = _to_arrays(batches.unbatch())
    per_epoch = len(images) // EPOCHS
    for epoch in range(EPOCHS):
        rows[f"epoch {epoch + 1}"] = images[epoch * per_epoch : (epoch + 1) * per_epoch]
    return rows


def _to_arrays(pairs: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> list[LabelledImage]:
    return [(np.clip(np.round(image), 0, 255).astype(np.uint8), int(label)) for image, label in pairs]


def _figure(rows: dict[str, list[LabelledImage]], labels: list[str]) -> Figure:
    size = (_INCHES_PER_IMAGE * COLUMNS, 1.2 * _INCHES_PER_IMAGE * len(rows))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for axes_of_row, (name, images) in zip(grid, rows.items(), strict=True):
        axes_of_row[0].set_ylabel(name)
        for axes, (image, label) in zip(axes_of_row, images, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(labels[label][:_MAX_LABEL_LENGTH], fontsize=7)
    return figure
