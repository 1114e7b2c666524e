"""Read a folder of images by split and class, and find the images that cannot be decoded."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from bnn_keras.data.readers import reason_of
from bnn_keras.errors import BnnError

SUFFIXES = (".jpg", ".jpeg", ".png")
TEST_SPLITS = ("test", "validation", "val")
_LAYOUT = "expected images DIR/train/<class>/*.jpg (or .png), and a folder DIR/test, DIR/validation or DIR/val alike"


@dataclasses.dataclass(frozen=True)
class FolderReader:
    """Reader of image files in <split>/<class>/, in the order of `tfds.ImageFolder`. Hidden files are skipped.

    Attributes:
        files: Image files by class, by split.
        folder: The folder of the splits.
    """

    files: Mapping[str, Mapping[str, list[Path]]]
    folder: str

    @classmethod
    def open(cls, folder: str | Path | None) -> FolderReader:
        """List the images of a folder, which has a split "train" and may have splits of `TEST_SPLITS`.

        Raises:
            BnnError: There is no such folder, it has no training images, a class has no images, or a class of a test
                split is not in "train".
        """
        if not folder:
            raise BnnError(f"dataset 'image_folder' needs a folder of images; set --data-dir DIR; {_LAYOUT}")
        root = Path(folder).expanduser()
        if not (root / "train").is_dir():
            raise BnnError(f"{str(root)!r} has no folder 'train'; {_LAYOUT}")
        reader = cls({split: _files_by_class(root / split) for split in ("train", *TEST_SPLITS)}, str(root))
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
        """SHA-256 digest of names and sizes of the image files, by split."""
        return {"digests": self._digests}

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
        """Return the number of images in a split."""
        return self.splits[split]

    def read(self, split: str) -> tf.data.Dataset:
        """Return (bytes of an image file, label) pairs, always in the same order."""
        pairs = [(os.fsencode(file), label) for label, name in enumerate(self.labels) for file in self._of(split, name)]
        random.Random(split).shuffle(pairs)
        files, labels = zip(*pairs, strict=True)
        dataset = tf.data.Dataset.from_tensor_slices((list(files), tf.constant(labels, tf.int64)))
        return dataset.map(lambda file, label: (tf.io.read_file(file), label), tf.data.AUTOTUNE)

    def _of(self, split: str, name: str) -> list[Path]:
        return self.files[split].get(name, [])

    def damaged(self) -> Iterator[tuple[Path, str]]:
        """Decode all images; yield file and reason of each one that cannot be decoded, in alphabetical order."""
        files = sorted(file for classes in self.files.values() for named in classes.values() for file in named)
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


def _problem(file: Path) -> str | None:
    """Return why an image file cannot be decoded, or None."""
    try:
        tf.io.decode_image(file.read_bytes(), channels=3, expand_animations=False)
    except (OSError, tf.errors.OpError) as error:
        return reason_of(error)
    return None
