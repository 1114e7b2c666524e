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
    ReferenceLayout,
    SchemeRow,
)
from bnn_keras.catalog.schemes import SCHEMES
from bnn_keras.errors import BnnError, unknown

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
    "DatasetRow",
    "FormatRow",
    "NetworkRow",
    "Normalization",
    "OptimizerRow",
    "Options",
    "ReferenceLayout",
    "SchemeRow",
    "find",
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
    table = TABLES[kind]
    if name not in table:
        raise BnnError(unknown(kind, name, table))
    return table[name]
