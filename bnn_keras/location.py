"""Where datasets are read from. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataLocation:
    """Where datasets are read from.

    Attributes:
        data_dir: Folder of prepared datasets, TFDS's default folder if None; for "image_folder", the folder of images.
        manual_dir: Folder with the files that TFDS would download, under the same names; None to download them.
    """

    data_dir: str | None = None
    manual_dir: str | None = None


DEFAULT_LOCATION = DataLocation()
