"""Read prepared arrays of images and labels: NumPy files, as XNOR-Net-PyTorch's CIFAR_10/data.py reads them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.data.readers import ranges
from bnn_keras.data.shuffling import Order, buffered_order
from bnn_keras.errors import BnnError

SPLITS = ("train", "test")
_CHANNELS = (1, 3)
_LAYOUT = (
    "expected train_data, train_labels, test_data and test_labels: files of numpy.save in a folder, with or without "
    "the suffix .npy, or arrays of one .npz file"
)
# (x / 255 − mean) / std of floats, which are inputs of the network already, is x.
_UNCHANGED = catalog.Normalization((0.0,), (1 / 255,))


@dataclasses.dataclass(frozen=True, eq=False)
class ArraysReader:
    """Reader of images and labels in memory.

    Attributes:
        images: Images by split, (images, height, width, channels), uint8 or float32.
        numbers: Classes of the images by split, int64 (images,).
        folder: The folder or file of the arrays.
    """

    images: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray]
    folder: str
    version = "1.0.0"
    encoded = False

    @classmethod
    def open(cls, folder: str | Path | None) -> ArraysReader:
        """Read the arrays of a folder, or of an .npz file.

        Images have the shape (images, height, width, channels), (images, channels, height, width) or, if they are
        grey, (images, height, width). They are uint8, from 0 to 255, or floats, which are inputs of the network.

        Raises:
            BnnError: A file is missing or cannot be read, or an array has another type or shape.
        """
        if not folder:
            raise BnnError(f"dataset 'arrays' needs arrays; set --data-dir to a folder or an .npz file; {_LAYOUT}")
        root = Path(folder).expanduser()
        images = {split: _images(_load(root, f"{split}_data"), f"{split}_data", root) for split in SPLITS}
        numbers = {
            split: _classes(_load(root, f"{split}_labels"), f"{split}_labels", root, len(images[split]))
            for split in SPLITS
        }
        train, test = (images[split] for split in SPLITS)
        if (train.shape[1:], train.dtype) != (test.shape[1:], test.dtype):
            raise BnnError(
                f"{str(root)!r} has training images {train.shape[1:]} of {train.dtype} and test images "
                f"{test.shape[1:]} of {test.dtype}; expected the same shape and type: convert one of them"
            )
        if numbers["test"].max() > numbers["train"].max():
            raise BnnError(
                f"{str(root)!r} has test_labels up to {numbers['test'].max()}, but train_labels up to "
                f"{numbers['train'].max()}; expected the same classes: number "
                "those of both from 0 on"
            )
        return cls(images, numbers, str(root))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.images["train"].shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of classes: one more than the largest training label."""
        return int(self.numbers["train"].max()) + 1

    @property
    def labels(self) -> list[str]:
        """Numbers of the classes, as text."""
        return [str(number) for number in range(self.classes)]

    @property
    def normalization(self) -> catalog.Normalization:
        """The default of pixels; for floats, the one that leaves them unchanged."""
        return catalog.Normalization() if self.images["train"].dtype == np.uint8 else _UNCHANGED

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images by split."""
        return {split: len(images) for split, images in self.images.items()}

    @property
    def details(self) -> dict[str, Any]:
        """SHA-256 digest of images and labels, by split."""
        return {"digests": {split: _digest(self.images[split], self.numbers[split]) for split in SPLITS}}

    def count(self, split: str) -> int:
        """Return the number of images in a split or in parts of it."""
        return sum(stop - start for _, start, stop in ranges(split, self.splits.__getitem__))

    def read(self, split: str) -> tf.data.Dataset:
        """Return (image, label) pairs of a split or of parts of it, in the order of the arrays."""
        parts = ranges(split, self.splits.__getitem__)
        images, labels = (
            np.concatenate([arrays[name][start:stop] for name, start, stop in parts])
            for arrays in (self.images, self.numbers)
        )
        return tf.data.Dataset.from_tensor_slices((images, labels))

    def order(self, split: str) -> Order:
        """Return a full shuffle."""
        return buffered_order(self.read(split), self.count(split))


def _load(root: Path, name: str) -> np.ndarray:
    """Return an array of an .npz file or of a folder.

    Raises:
        BnnError: It is missing, or not a file of NumPy's arrays.
    """
    try:
        if root.is_file():
            with np.load(root, allow_pickle=False) as arrays:
                return arrays[name]
        path = root / f"{name}.npy"
        with (path if path.is_file() else root / name).open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (KeyError, FileNotFoundError) as error:
        raise BnnError(f"{str(root)!r} has no {name}; {_LAYOUT}") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, SyntaxError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BnnError(f"cannot read {name} in {str(root)!r} ({reason}); {_LAYOUT}") from error


def _images(values: np.ndarray, name: str, root: Path) -> np.ndarray:
    """Return images as (images, height, width, channels), uint8 or float32.

    Raises:
        BnnError: Type or shape are others, or a float is not finite.
    """
    layouts = [axis for axis in (1, 3) if values.ndim == 4 and values.shape[axis] in _CHANNELS]
    if values.ndim == 3:
        values, layouts = values[..., None], [3]
    if len(layouts) != 1 or 0 in values.shape:
        raise BnnError(
            f"{name} in {str(root)!r} has the shape {values.shape}; expected (images, height, width, channels) or "
            "(images, channels, height, width) with 1 or 3 channels on one of the two axes only: reshape the array"
        )
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise BnnError(
            f"{name} in {str(root)!r} has the type {values.dtype}; expected uint8 pixels, or floats: convert the array"
        )
    values = np.ascontiguousarray(np.moveaxis(values, layouts[0], 3))
    if values.dtype == np.uint8:
        return values
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        number = np.count_nonzero(~np.isfinite(values))
        raise BnnError(
            f"{name} in {str(root)!r} has {number:,} infinite or NaN values; expected finite floats: correct the array"
        )
    return values


def _classes(values: np.ndarray, name: str, root: Path, images: int) -> np.ndarray:
    """Return labels as int64 (images,).

    Raises:
        BnnError: They are no whole numbers from 0 on, or their number is not that of the images.
    """
    if values.shape not in ((images,), (images, 1)):
        raise BnnError(
            f"{name} in {str(root)!r} has the shape {values.shape}; expected ({images},), one for each image: add or "
            "remove labels"
        )
    whole = values.dtype.kind in "iuf" and np.isfinite(values).all() and (values == np.floor(values)).all()
    if not whole or values.min() < 0:
        raise BnnError(
            f"{name} in {str(root)!r} has other values than whole numbers from 0 on; expected classes, got "
            f"{values.dtype} from {values.min()!s:.20} to {values.max()!s:.20}: number the classes from 0 on"
        )
    return values.reshape(images).astype(np.int64)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
