"""Catalog of networks, schemes, optimizers, datasets and export formats, as plain data. Needs no TensorFlow.

To add a network, scheme, optimizer or dataset, add one row in a module of this package and one function elsewhere, or
write a plugin (`bnn_keras.plugins`).
"""

from __future__ import annotations

from typing import Any

from bnn_keras.catalog.datasets import DATASETS
from bnn_keras.catalog.formats import FORMATS
from bnn_keras.catalog.networks import NETWORKS
from bnn_keras.catalog.optimizers import OPTIMIZERS
from bnn_keras.catalog.options import BY_BITS, Options
from bnn_keras.catalog.rows import (
    VALIDATION,
    Builder,
    DatasetRow,
    FormatRow,
    NetworkRow,
    Normalization,
    OptimizerRow,
    ReferenceFile,
    ReferenceLayout,
    SchemeRow,
)
from bnn_keras.catalog.schemes import SCHEMES
from bnn_keras.errors import BnnError, nearest, unknown
from bnn_keras.schedule_config import Geometric, Linear, ScheduleConfig, Scheduled
from bnn_keras.tables import Count, NotNegative, Positive

__all__ = [
    "BY_BITS",
    "DATASETS",
    "FORMATS",
    "NETWORKS",
    "OPTIMIZERS",
    "SCHEMES",
    "TABLES",
    "VALIDATION",
    "Builder",
    "Count",
    "DatasetRow",
    "FormatRow",
    "Geometric",
    "Linear",
    "NetworkRow",
    "Normalization",
    "NotNegative",
    "OptimizerRow",
    "Options",
    "Positive",
    "ReferenceFile",
    "ReferenceLayout",
    "ScheduleConfig",
    "Scheduled",
    "SchemeRow",
    "find",
    "unknown_row",
]

TABLES: dict[str, dict[str, Any]] = {
    "network": NETWORKS,
    "scheme": SCHEMES,
    "optimizer": OPTIMIZERS,
    "dataset": DATASETS,
    "format": FORMATS,
}


def find(kind: str, name: str) -> Any:
    """Return the row called `name` of the table `kind`, a key of `TABLES`.

    Raises:
        BnnError: No row has that name. The message contains the nearest name and all names.

    Examples:
        >>> find("dataset", "cifar10").classes
        10
    """
    if name not in TABLES[kind]:
        raise BnnError(unknown_row(kind, name))
    return TABLES[kind][name]


def unknown_row(kind: str, name: str) -> str:
    """Return the error message for a name that no row has."""
    message = unknown(kind, name, TABLES[kind])
    return message if nearest(name, TABLES[kind]) else f"{message}; rows of a plugin need --plugin FILE_OR_MODULE"
