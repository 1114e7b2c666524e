"""Folders from which datasets are read. Does not import TensorFlow."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataLocation:
    """Folders from which datasets are read.

    Attributes:
        data_dir: Folder of prepared datasets, or None for TFDS's default folder. For "image_folder", the folder of
            images; for "arrays", their folder or .npz file.
        manual_dir: Folder with the files that TFDS would download, under the same names; None to download them.

    Example:
        >>> from bnn_keras.location import DataLocation
        >>> DataLocation("/data/tensorflow_datasets")
        DataLocation(data_dir='/data/tensorflow_datasets', manual_dir=None)
    """

    data_dir: str | None = None
    manual_dir: str | None = None


DEFAULT_LOCATION = DataLocation()
