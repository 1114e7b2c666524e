"""Export formats: what a format's module implements, and how it is found and loaded.

A format is a row of `catalog.FORMATS` and a module. No other module compares names of formats: what differs between
formats is an attribute of the row or a function of the module.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.errors import BnnError
from bnn_keras.export import verify
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.description import Description
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor
from bnn_keras.interop import Progress


class Format(Protocol):
    """What a format's module implements."""

    def convert(self, job: ExportJob, file: Path) -> FloatLayers:
        """Write a network as a file or folder.

        Args:
            job: The network and the options.
            file: Where to write.

        Returns:
            The binary layers that are not stored or not computed in one bit.

        Raises:
            BnnError: The converter failed.
            ImportError: A package is missing.
        """
        ...

    def load(
        self, file: Path, floats: str = ..., batch_size: int | None = None, threads: int | None = None
    ) -> Predictor:
        """Return a predictor that runs a file.

        Args:
            file: The file or folder.
            floats: Type of all numbers that are not binary weights.
            batch_size: Images per batch; None for the file's own.
            threads: Number of threads; None for the library's default.

        Raises:
            BnnError: The file cannot be read, or has another batch size.
            ImportError: A package is missing.
        """
        ...


class MeasuredFormat(Format, Protocol):
    """What the module of a format with `measured` implements."""

    def measure(self, file: Path) -> dict[str, int]:
        """Return fields of the sidecar that describe a written file."""
        ...


class WeightsFormat(Protocol):
    """What the module of a format without `opens` implements."""

    def tensors(self, model: tf.keras.Model) -> dict[str, np.ndarray]:
        """Return the arrays that a file of a network holds, by the reference's names.

        Raises:
            BnnError: The reference has no such file.
        """
        ...

    def write(self, file: Path, model: tf.keras.Model, progress: Progress) -> None:
        """Write a network, with latent weights, and how far its training is.

        Raises:
            BnnError: The reference has no such file, or not with this suffix.
            ImportError: A package is missing.
        """
        ...


class SelfContainedFormat(Format, Protocol):
    """What the module of a format with `self_contained` implements."""

    def open_file(self, file: Path, threads: int | None = None) -> tuple[Description, Predictor]:
        """Return the description and a predictor of a file.

        Raises:
            BnnError: The file cannot be read.
        """
        ...


def format_module(row: catalog.FormatRow, floats: str | None = None) -> Format:
    """Import the module of a format.

    Args:
        row: The format.
        floats: Type of all numbers that are not binary weights; an error names the extra that it needs.

    Raises:
        BnnError: A package that it needs is not installed.
    """
    with installed(row, floats):
        return cast(Format, importlib.import_module(row.module))


def weights_module(row: catalog.FormatRow) -> WeightsFormat:
    """Import the module of a format without `opens`.

    Raises:
        BnnError: A package that it needs is not installed.
    """
    assert not row.opens
    return cast(WeightsFormat, format_module(row))


def measure(row: catalog.FormatRow, file: Path) -> dict[str, int]:
    """Return the fields of the sidecar that only this format has, by the names in `FormatRow.measured`."""
    return cast(MeasuredFormat, format_module(row)).measure(file) if row.measured else {}


def self_contained_module(row: catalog.FormatRow) -> SelfContainedFormat:
    """Import the module of a format with `self_contained`.

    Raises:
        BnnError: A package that it needs is not installed.
    """
    assert row.self_contained
    return cast(SelfContainedFormat, format_module(row))


@contextlib.contextmanager
def installed(row: catalog.FormatRow, floats: str | None = None) -> Iterator[None]:
    """Turn the ImportError of a missing package into an error that names the extra to install.

    Args:
        row: The format.
        floats: Type of all numbers that are not binary weights, which may need an extra of its own.
    """
    try:
        yield
    except ImportError as error:
        extra = row.float_extras.get(floats or row.floats[0], row.extra)
        package = f"'bnn-keras[{extra}]'" if extra else error.name
        raise BnnError(
            f"format {row.name!r} needs {error.name!r}, which is not installed ({error}); install it with "
            f"`pip install {package}`"
        ) from error


def format_of(file: Path) -> catalog.FormatRow:
    """Return the format that a file's suffix indicates; for other files and folders, the format without a suffix."""
    rows = [row for row in catalog.FORMATS.values() if row.folder == file.is_dir()]
    with_suffix = [row for row in rows if row.suffix and row.suffix == file.suffix]
    return (with_suffix or [row for row in rows if not row.suffix])[0]


def files_of(file: Path) -> list[Path]:
    """Return all files of an exported model: all but the folders inside of a folder, or the file and its companions."""
    if file.is_dir():
        return sorted(part for part in file.rglob("*") if part.is_symlink() or not part.is_dir())
    companions = [file.with_suffix(suffix) for suffix in format_of(file).companions]
    return [file, *(companion for companion in companions if os.path.lexists(companion))]


def load_predictor(
    row: catalog.FormatRow,
    file: Path,
    floats: str,
    softmax: bool,
    batch_size: int | None = None,
    threads: int | None = None,
) -> Predictor:
    """Return a predictor of logits that runs a file.

    Args:
        row: The format.
        file: The file or folder.
        floats: Type of all numbers that are not binary weights.
        softmax: Whether the file returns probabilities.
        batch_size: Images per batch; None for the file's own.
        threads: Number of threads; None for the library's default.

    Raises:
        BnnError: The file cannot be read, has another batch size, or needs a package that is not installed.
    """
    with installed(row):
        predict = format_module(row).load(file, floats, batch_size, threads)
    return verify.logits_of_probabilities(predict) if softmax else predict
