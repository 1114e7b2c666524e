"""Read a folder of images by split and class, and find the images that cannot be decoded."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from bnn_keras.data.readers import ranges, reason_of
from bnn_keras.data.shuffling import Order, shuffle
from bnn_keras.errors import BnnError

# Suffixes of formats that TensorFlow does not decode (of BMP, only files with 24 bits per pixel), and Pillow's names of
# the formats.
PILLOW_FORMATS = {".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", *PILLOW_FORMATS)
TEST_SPLITS = ("test", "validation", "val")
_LAYOUT = "expected images DIR/train/<class>/*.jpg (or .png), and a folder DIR/test, DIR/validation or DIR/val alike"
_PILLOW_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")  # 8 bits per channel
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class FolderReader:
    """Reader of image files in <split>/<class>/, in the order of `tfds.ImageFolder`. Hidden files are skipped.

    Attributes:
        files: Image files by class, by split.
        folder: The folder of the splits.
        max_damaged: Number of damaged images to leave out of each split. All images of a split are decoded when it is
            first read or counted. If 0, nothing is decoded in advance, and a damaged image is an error when it is read.
    """

    files: Mapping[str, Mapping[str, list[Path]]]
    folder: str
    max_damaged: int = 0

    @classmethod
    def open(cls, folder: str | Path | None) -> FolderReader:
        """List the images of a folder, which has a split "train" and may have splits of `TEST_SPLITS`.

        Other folders beside them are not read, with a warning.

        Raises:
            BnnError: There is no such folder, it has no training images, a class has no images, or a class of a test
                split is not in "train".
        """
        if not folder:
            raise BnnError(f"dataset 'image_folder' needs a folder of images; set --data-dir DIR; {_LAYOUT}")
        root = Path(folder).expanduser()
        if not (root / "train").is_dir():
            raise BnnError(f"{str(root)!r} has no folder 'train'; {_LAYOUT}")
        splits = ("train", *TEST_SPLITS)
        ignored = [path.name for path in _visible(root) if path.is_dir() and path.name not in splits]
        if ignored:
            warnings.warn(
                f"{str(root)!r} has the folders {', '.join(ignored)}, which are not read; splits are named "
                f"{', '.join(splits)}",
                stacklevel=1,
            )
        reader = cls({split: _files_by_class(root / split) for split in splits}, str(root))
        if not reader.labels:
            raise BnnError(f"{str(root)!r} has no images in 'train'; {_LAYOUT}")
        reader._check_classes()
        return reader

    def _check_classes(self) -> None:
        empty = [f"{split}/{name}" for split in self.files for name, files in self.files[split].items() if not files]
        if empty:
            raise BnnError(
                f"{self.folder!r} has no images in the class folder(s) {', '.join(empty[:5])}; expected files named "
                f"*{', *'.join(SUFFIXES)}; add images or remove the folder(s)"
            )
        unknown = sorted({name for classes in self.files.values() for name in classes} - set(self.labels))
        if unknown:
            raise BnnError(
                f"{self.folder!r} has the class folders {', '.join(unknown[:5])} in a test split, but not in 'train'; "
                "add them to 'train' or remove them"
            )

    @property
    def shape(self) -> tuple[None, None, int]:
        """Height, width and channels: images differ in size and are read as RGB."""
        return None, None, 3

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def version(self) -> str:
        """Version of the reader; the files have none."""
        return "1.0.0"

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return list(self.files["train"])

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images by split, of the splits that have images."""
        numbers = {split: sum(map(len, classes.values())) for split, classes in self.files.items()}
        return {split: number for split, number in numbers.items() if number}

    @property
    def encoded(self) -> bool:
        """True: images are decoded each time they are read."""
        return True

    @property
    def details(self) -> dict[str, Any]:
        """SHA-256 digest of names and sizes of the image files, by split, and the files that are left out."""
        damaged = sorted(str(file.relative_to(self.folder)) for split in self.splits for file in self._left_out(split))
        return {"digests": self._digests, "damaged": damaged} if self.max_damaged else {"digests": self._digests}

    @functools.cached_property
    def _digests(self) -> dict[str, str]:
        return {split: self._digest(split) for split in self.splits}

    def _digest(self, split: str) -> str:
        digest = hashlib.sha256()
        for file in sorted(file for name in self.labels for file in self._of(split, name)):
            name = os.fsencode(file.relative_to(self.folder))
            digest.update(b"%s\0%d\n" % (name, file.stat().st_size))
        return digest.hexdigest()

    def count(self, split: str) -> int:
        """Return the number of images in a split or in parts of it.

        Raises:
            BnnError: More images are damaged than the number to leave out.
        """
        return sum(stop - start for _, start, stop in ranges(split, self._size))

    def _size(self, split: str) -> int:
        return self.splits[split] - len(self._left_out(split))

    def read(self, split: str) -> tf.data.Dataset:
        """Return (bytes of an image file, label) pairs of a split or of parts of it, always in the same order.

        Files that TensorFlow does not decode are returned as PNG.
        """
        files, read_file = self._files(split)
        return files.map(read_file, tf.data.AUTOTUNE)

    def order(self, split: str) -> Order:
        """Return a full shuffle: the names of the files are shuffled before the files are read."""
        files, read_file = self._files(split)
        indexed, number = files.enumerate(), self.count(split)
        return lambda epoch_seed: shuffle(indexed, number, epoch_seed).map(
            lambda index, file: (index, read_file(*file)), tf.data.AUTOTUNE
        )

    def _files(self, split: str) -> tuple[tf.data.Dataset, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
        """Return (name, whether Pillow decodes it, label) of the files of a split, and the function that reads one."""
        pairs = [pair for name, start, stop in ranges(split, self._size) for pair in self._pairs(name)[start:stop]]
        files, labels = zip(*pairs, strict=True)
        by_pillow = [_needs_pillow(os.fsdecode(file)) for file in files]
        dataset = tf.data.Dataset.from_tensor_slices((list(files), by_pillow, tf.constant(labels, tf.int64)))
        read_file = _read_either if any(by_pillow) else lambda file, _: tf.io.read_file(file)
        return dataset, lambda file, by_pillow, label: (read_file(file, by_pillow), label)

    def _pairs(self, split: str) -> list[tuple[bytes, int]]:
        """Return the (file name, label) pairs of a split in random order."""
        pairs = [(os.fsencode(file), label) for label, name in enumerate(self.labels) for file in self._of(split, name)]
        random.Random(split).shuffle(pairs)
        return pairs

    def _of(self, split: str, name: str) -> list[Path]:
        left_out = self._left_out(split)
        return [file for file in self.files[split].get(name, []) if file not in left_out]

    def _left_out(self, split: str) -> frozenset[Path]:
        """Return the damaged images of a split, which are found and named once."""
        if self.max_damaged and split not in self._damaged:
            damaged = dict(self.damaged([split]))
            if len(damaged) > self.max_damaged:
                file, reason = next(iter(damaged.items()))
                raise BnnError(
                    f"{len(damaged):,} images of {split!r} in {self.folder!r} are damaged, such as {str(file)!r} "
                    f"({reason}); data.max_damaged is {self.max_damaged:,}; list them with `bnnk datasets check DIR`, "
                    "and repair or remove them"
                )
            for file, reason in damaged.items():
                warnings.warn(f"{str(file)!r} is left out: it cannot be decoded ({reason})", stacklevel=1)
            self._damaged[split] = frozenset(damaged)
        return self._damaged.get(split, frozenset())

    @functools.cached_property
    def _damaged(self) -> dict[str, frozenset[Path]]:
        return {}

    def damaged(self, splits: Iterable[str] | None = None) -> Iterator[tuple[Path, str]]:
        """Decode all images of some splits; yield file and reason of each one that cannot be decoded.

        Args:
            splits: Names of the splits; all if None.

        Yields:
            Files in alphabetical order.
        """
        splits = self.files if splits is None else splits
        files = sorted(file for split in splits for named in self.files[split].values() for file in named)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for file, reason in zip(files, pool.map(_problem, files), strict=True):
                if reason:
                    yield file, reason


def _visible(folder: Path) -> list[Path]:
    """Return the files and folders of a folder that are not hidden, sorted; none if the folder does not exist."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _files_by_class(split: Path) -> dict[str, list[Path]]:
    return {
        folder.name: [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES]
        for folder in _visible(split)
        if folder.is_dir()
    }


def _needs_pillow(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in PILLOW_FORMATS


def _read_either(file: tf.Tensor, by_pillow: tf.Tensor) -> tf.Tensor:
    """Return the bytes of an image file, converted to PNG if TensorFlow does not decode it."""
    return tf.cond(
        by_pillow,
        lambda: tf.ensure_shape(tf.numpy_function(_png_in_graph, [file], tf.string), []),
        lambda: tf.io.read_file(file),
    )


def _png_in_graph(file: bytes) -> np.ndarray:
    """Return the image of a file as the bytes of a PNG file.

    Raises:
        ValueError: It cannot be decoded. TensorFlow converts this to an `InvalidArgumentError`, the error of its own
            decoders.
    """
    try:
        return np.array(_to_png(os.fsdecode(file)), object)
    except _PILLOW_ERRORS as error:
        raise ValueError(f"cannot read image {os.fsdecode(file)!r}: {error}") from error


def _to_png(file: str) -> bytes:
    """Read the first image of a file with Pillow and return it as the bytes of a PNG file.

    Transparency and orientation are ignored, as in the files that TensorFlow decodes.
    """
    with Image.open(file, formats=sorted(set(PILLOW_FORMATS.values()))) as image:
        if image.mode not in _PILLOW_MODES:
            raise ValueError(f"its pixels are of mode {image.mode}; expected 8 bits per channel")
        png = io.BytesIO()
        image.convert("RGB").save(png, "PNG", compress_level=0)
    return png.getvalue()


def _problem(file: Path) -> str | None:
    """Return why an image file cannot be decoded, or None."""
    try:
        data = _to_png(str(file)) if _needs_pillow(str(file)) else file.read_bytes()
        tf.io.decode_image(data, channels=3, expand_animations=False)
    except (*_PILLOW_ERRORS, tf.errors.OpError) as error:
        return reason_of(error)
    return None
