"""Global contrast normalization and ZCA whitening, as images of CIFAR-10 are prepared for Network in Network.

Source: pylearn2, scripts/datasets/make_cifar10_gcn_whitened.py with datasets/cifar10.py and datasets/preprocessing.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras.data.datasets import Dataset
from bnn_keras.errors import BnnError
from bnn_keras.experiment.schema import MAX_WHITENED, WHITENING_MATRIX, WHITENING_MEAN
from bnn_keras.files import replacing

SCALE = 55.0  # norm of a normalized image
FILTER_BIAS = 0.1  # added to the variance along each principal component
WHITENING = "whitening.npz"
_BATCH = 1_000  # images
_LEAST_NORM = 1e-8  # of an image with contrast, divided by SCALE


def normalize_contrast(images: np.ndarray) -> np.ndarray:
    """Normalize the contrast of each image: x ← 55 · (x − m) / ‖x − m‖₂, with the mean m of all values of the image.

    An image of one colour becomes 0.

    Args:
        images: Images, (images, …).

    Returns:
        float64, in the shape of `images`.

    Example:
        >>> import numpy as np
        >>> from bnn_keras.data.whitening import normalize_contrast
        >>> normalize_contrast(np.array([[10, 30], [7, 7]], np.uint8)).round(2).tolist()
        [[-38.89, 38.89], [0.0, 0.0]]
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True) / SCALE
    return (flat / np.where(norms < _LEAST_NORM, 1, norms)).reshape(images.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """Global contrast normalization, then ZCA whitening fitted on training images: y = (x − mean) · matrix.

    With the covariance C of the n normalized training images (divided by n) and C + 0.1 · I = V · diag(λ) · Vᵀ, the
    matrix is V · diag(1 / √λ) · Vᵀ. Images are flattened; the order of their values makes no difference.

    Attributes:
        mean: Mean of the normalized training images, float64 (values,).
        matrix: The matrix, float64 (values, values).

    Example:
        >>> import numpy as np
        >>> from bnn_keras.data.whitening import Whitening
        >>> images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
        >>> whitened = Whitening.fit([images[:20], images[20:]])(images)
        >>> whitened.shape, whitened.dtype.name
        ((50, 4, 4, 3), 'float32')
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, batches: list[np.ndarray] | Iterator[np.ndarray]) -> Whitening:
        """Fit mean and matrix to training images, which are read batch by batch."""
        count, total, products = 0, np.zeros(()), np.zeros(())
        for batch in batches:
            images = normalize_contrast(batch).reshape(len(batch), -1)
            count, total, products = count + len(images), total + images.sum(0), products + images.T @ images
        mean = total / count
        covariance = products / count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance + FILTER_BIAS * np.eye(len(mean)))
        return cls(mean, (vectors / np.sqrt(values)) @ vectors.T)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Whitening:
        """Return the whitening that `arrays` describes."""
        mean = arrays[WHITENING_MEAN].astype(np.float64)
        upper = np.zeros(2 * mean.shape)
        upper[np.tri(len(mean), dtype=bool).T] = arrays[WHITENING_MATRIX]
        return cls(mean, upper + np.triu(upper, 1).T)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a run keeps, float32: the mean, and the upper triangle of the matrix, row by row."""
        upper = self.matrix[np.tri(len(self.mean), dtype=bool).T]
        return {WHITENING_MEAN: self.mean.astype(np.float32), WHITENING_MATRIX: upper.astype(np.float32)}

    @property
    def layer(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function that whitens a batch of images, as a call does, with operations of TensorFlow."""
        with tf.init_scope():  # constants outside of the graph, which would hold one more copy
            mean, matrix = tf.constant(self.mean), tf.constant(self.matrix)

        def whiten_batch(images: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(tf.cast(images, tf.float64), [-1, len(self.mean)])
            flat -= tf.reduce_mean(flat, 1, keepdims=True)
            norms = tf.norm(flat, axis=1, keepdims=True) / SCALE
            flat /= tf.where(norms < _LEAST_NORM, tf.ones_like(norms), norms)
            return tf.cast(tf.reshape((flat - mean) @ matrix, tf.shape(images)), tf.float32)

        return whiten_batch

    @classmethod
    def load(cls, file: str | Path) -> Whitening:
        """Read the file `whitening.npz` that `whiten` writes.

        Raises:
            BnnError: It cannot be read.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["mean"], arrays["matrix"])
        except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
            raise BnnError(
                f"cannot read {str(file)!r} ({error}); expected {WHITENING} in a folder of `bnnk datasets whiten`"
            ) from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return whitened images, float32, in the shape of `images`.

        Raises:
            BnnError: An image has another number of values.
        """
        flat = normalize_contrast(images).reshape(len(images), -1)
        if flat.shape[1] != len(self.mean):
            raise BnnError(
                f"an image of shape {images.shape[1:]} has {flat.shape[1]} values; expected {len(self.mean)}, as the "
                "images that the whitening was fitted to: choose a dataset with images of that size"
            )
        return ((flat - self.mean) @ self.matrix).reshape(images.shape).astype(np.float32)


def fit_whitening(dataset: Dataset) -> Whitening:
    """Fit the whitening to the training images of a dataset."""
    return Whitening.fit(images for images, _ in _batches(dataset, dataset.info.train))


def whiten(dataset: Dataset, folder: str | Path) -> None:
    """Whiten a dataset, and write it as prepared arrays in the layout of XNOR-Net-PyTorch's CIFAR_10/data.py.

    The matrix is fitted to the training images; the test images do not change it. The folder has `train_data` and
    `test_data`, float32 (images, channels, height, width), `train_labels` and `test_labels`, int64 (images,), and
    `whitening.npz` (`Whitening.load`), for images to predict.

    Args:
        dataset: The dataset.
        folder: The folder to write, which must not exist.

    Raises:
        BnnError: The folder exists or cannot be written, images differ in size, or they have more than 4,096 values.
    """
    path, name, row = Path(folder), dataset.info.name, dataset.info
    if path.exists():
        raise BnnError(f"{str(path)!r} exists; choose a new folder, or remove it")
    if dataset.encoded or math.prod(size or 0 for size in row.input_shape) > MAX_WHITENED:
        raise BnnError(
            f"images of dataset {name!r} are too large to be whitened, or differ in size; expected images of one size "
            f"with at most {MAX_WHITENED:,} values, such as cifar10"
        )
    whitening = fit_whitening(dataset)
    with replacing(path) as temporary:
        temporary.mkdir()
        for split, part in (("train", row.train), ("test", row.test)):
            batches = [(whitening(images), labels) for images, labels in _batches(dataset, part)]
            data, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
            for kind, values in (("data", np.moveaxis(data, 3, 1)), ("labels", labels)):
                with (temporary / f"{split}_{kind}").open("wb") as file:
                    np.save(file, np.ascontiguousarray(values))
        np.savez(temporary / WHITENING, mean=whitening.mean, matrix=whitening.matrix)


def _batches(dataset: Dataset, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield from dataset.pairs(split).batch(_BATCH).as_numpy_iterator()
