"""From a run directory to accuracy and predictions. The run directory alone says what to do."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog, runs
from bnn_keras.build import build_loss, build_metrics, percent
from bnn_keras.data import describe, evaluation_batches, fit, normalise, open_data, open_dataset
from bnn_keras.errors import BnnError
from bnn_keras.models import load_run
from bnn_keras.runs import Run

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def evaluate(
    directory: str | Path,
    dataset: str | None = None,
    *,
    best: bool = False,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> dict[str, Any]:
    """Accuracy of a run on a test split.

    Args:
        directory: The run directory.
        dataset: Another data set than the run's, with images and classes of the same shape.
        best: Take the best weights instead of the last.
        data_dir: Where prepared data sets are; TFDS's own folder where absent.
        manual_dir: A folder with the files that TFDS would download.

    Returns:
        `top1` and `top5` in percent, `loss`, `images`, `dataset`, `run`, `weights`.

    Raises:
        BnnError: The run or the data cannot be had, or they do not fit.
    """
    experiment, model = load_run(directory, best)
    name = dataset or experiment.data.name
    own = experiment.data.row
    row = describe(dataset, data_dir) if dataset else own
    if (row.input_shape, row.classes) != (own.input_shape, own.classes):
        raise BnnError(
            f"data set {name!r} has images {_shape(row)} in {row.classes} classes; the run expects {_shape(own)} in "
            f"{own.classes}; choose a data set of that shape"
        )
    images = open_dataset(dataset, data_dir, manual_dir) if dataset else open_data(experiment, data_dir, manual_dir)
    model.compile(loss=build_loss(), metrics=build_metrics(model))
    measured = model.evaluate(evaluation_batches(images, experiment), verbose=0, return_dict=True)
    return {
        "run": str(directory),
        "weights": "best" if best else "last",
        "dataset": name,
        "images": images.examples(images.row.test),
        "loss": measured["loss"],
        "top1": percent(measured["top1"]),
        "top5": percent(measured["top5"]),
    }


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a run.

    Attributes:
        inputs: Names of the images.
        labels: Names of the classes.
        logits: The network's outputs, (images, classes).
    """

    inputs: list[str]
    labels: list[str]
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits."""
        return tf.nn.softmax(self.logits).numpy()

    def ranked(self, top: int) -> list[tuple[str, list[tuple[str, float]]]]:
        """For each image its name and the `top` likeliest classes, (label, probability), likeliest first."""
        probabilities = self.probabilities
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top]
        return [
            (name, [(self.labels[index], float(row[index])) for index in likeliest])
            for name, row, likeliest in zip(self.inputs, probabilities, order, strict=True)
        ]


def write_logits(predictions: Predictions, file: str | Path) -> None:
    """Writes the logits as a `.npy` of float32, (images, classes).

    Raises:
        BnnError: The file cannot be written.
    """
    path = Path(file)
    with runs.replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, predictions.logits)


def predict(directory: str | Path, source: str | Path, *, best: bool = False) -> Predictions:
    """What a run makes of images.

    Args:
        directory: The run directory.
        source: An image file, a folder of them, or a `.npy` of NHWC images (or one HWC image). Images and uint8 arrays
            go through the run's evaluation preprocessing, an image of another size is resized first; float arrays are
            fed as they are.
        best: Take the best weights instead of the last.

    Raises:
        BnnError: The run or the images cannot be read, or have another shape than the network takes.
    """
    path = Path(source)
    experiment, model = load_run(directory, best)
    shape = tuple(model.input_shape[1:])
    if path.suffix == ".npy":
        batch = _read_array(path, shape)
        names = [f"{path.name}[{index}]" for index in range(len(batch))]
    else:
        files = _image_files(path)
        batch = np.stack([fit(_read_image(file, shape[-1]), experiment).numpy() for file in files])
        names = [str(file) for file in files]
    if batch.dtype == np.uint8:
        batch = normalise(experiment)(batch)
    logits = model.predict(tf.data.Dataset.from_tensor_slices(batch).batch(128), verbose=0)
    labels = Run.read(directory).environment["dataset"]["labels"]
    return Predictions(names, labels, logits)


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BnnError(f"cannot read {str(path)!r} as a NumPy array ({error}); give a .npy file of images") from error
    if array.shape == shape:
        array = array[None]
    if array.ndim != 4 or array.shape[1:] != shape or not len(array):
        expected = ("N", *shape)
        raise BnnError(f"{str(path)!r} has shape {array.shape}; expected ({', '.join(map(str, expected))}); reshape it")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise BnnError(f"{str(path)!r} holds {array.dtype}; expected uint8 pixels or floats as the network takes them")
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise BnnError(f"no file or folder {str(path)!r}; give an image, a folder of images or a .npy file")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise BnnError(f"folder {str(path)!r} has no images; expected files named *{', *'.join(IMAGE_SUFFIXES)}")
    return files


def _shape(row: catalog.Dataset) -> str:
    return " × ".join("any" if size is None else str(size) for size in row.input_shape)


def _read_image(path: Path, channels: int) -> tf.Tensor:
    """An image as uint8, with the network's number of channels."""
    try:
        return tf.io.decode_image(tf.io.read_file(str(path)), channels=channels, expand_animations=False)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message.splitlines()[0]).strip(
            " ."
        )  # less TensorFlow's own
        raise BnnError(
            f"cannot read {str(path)!r} as an image ({reason}); give a PNG, JPEG, BMP or GIF file"
        ) from error
