"""A picture of what a network is given: test images, and training images as they come in several epochs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bnn_keras.data.datasets import Dataset
from bnn_keras.data.pictures import picture_of
from bnn_keras.data.pipelines import denormalise, evaluation_batches, training_pairs
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.files import replacing

COLUMNS = 8
EPOCHS = 4
_INCHES = 1.3  # of an image
_LETTERS = 16  # of a class's name

Shown = tuple[np.ndarray, int]


def draw_grid(images: Dataset, file: str | Path, experiment: Experiment | None = None) -> None:
    """Writes a grid of images with the names of their classes.

    With an experiment: test images as they are evaluated, and below them the same training images as they are augmented
    in each of the first epochs; pixels before normalisation. Without one: images as they are.

    Args:
        images: The dataset.
        file: The picture; its suffix says in which format (.png, .pdf, .svg, …).
        experiment: Says size and augmentation.

    Raises:
        BnnError: The file cannot be written, or matplotlib has no such format.
    """
    path = Path(file)
    figure = _figure(seen(images, experiment) if experiment else as_they_are(images), images.labels)
    formats = FigureCanvasAgg(figure).get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise BnnError(
            f"cannot draw {str(path)!r}; expected a file named *.png, or one of {', '.join(sorted(formats))}"
        )
    with replacing(path) as temporary:
        figure.savefig(temporary)


def as_they_are(images: Dataset) -> dict[str, list[Shown]]:
    """Rows of images with their labels, as the dataset has them, by the name of the row."""
    return {name: _first(images, split) for name, split in (("test", images.info.test), ("train", images.info.train))}


def _first(images: Dataset, split: str) -> list[Shown]:
    channels = images.info.input_shape[-1]
    pairs = images.pairs(split).take(COLUMNS)
    return _arrays((picture_of(data, channels).whole(), label) for data, label in pairs)


def seen(images: Dataset, experiment: Experiment) -> dict[str, list[Shown]]:
    """Rows of images with their labels, as the network will see them, by the name of the row."""
    batch, labels = next(iter(evaluation_batches(images, experiment, COLUMNS)))
    rows = {"test": _arrays(zip(denormalise(experiment)(batch), labels, strict=True))}
    examples = images.pairs(images.info.train).take(COLUMNS).enumerate()
    for epoch in range(EPOCHS):
        pairs = training_pairs(images, experiment, tf.constant(epoch, tf.int64), examples)
        rows[f"epoch {epoch + 1}"] = _arrays(pairs)
    return rows


def _arrays(pairs: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> list[Shown]:
    return [(np.clip(np.round(image), 0, 255).astype(np.uint8), int(label)) for image, label in pairs]


def _figure(rows: dict[str, list[Shown]], labels: list[str]) -> Figure:
    figure = Figure(figsize=(_INCHES * COLUMNS, 1.2 * _INCHES * len(rows)), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for line, (name, shown) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axes, (image, label) in zip(line, shown, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(labels[label][:_LETTERS], fontsize=7)
    return figure
