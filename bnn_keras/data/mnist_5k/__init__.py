"""TFDS builder of `mnist_5k`: 5,000 MNIST digits that ship with the package.

README.md in this folder documents the origin, licence and creation of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

FILE = Path(__file__).with_name("mnist_5k.npz")


class Mnist5k(tfds.core.GeneratorBasedBuilder):
    """5,000 MNIST digits, 500 per class. Every fifth row is a test image: 4,000 train, 1,000 test."""

    name = "mnist_5k"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="5,000 handwritten digits of MNIST, 500 per class, every fifth one for testing.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            homepage="http://yann.lecun.com/exdb/mnist/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples(test=False), "test": self._generate_examples(test=True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        with np.load(FILE) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        for index in range(len(labels)):
            if (index % 5 == 4) == test:
                yield index, {"image": images[index][..., None], "label": int(labels[index])}
