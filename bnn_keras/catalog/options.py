"""Options of catalog rows: the keys that a row adds to its table of an experiment.

A key is declared once, as a field of the row's model: its type, its default and its docstring. The schema of
experiments, `bnnk show`, error messages and the key tables of docs/experiments.md follow from the field.
"""

from __future__ import annotations

from typing import Any

import pydantic

from bnn_keras.tables import Table


class _ByBits:
    """Marks options whose default depends on the bits of weights / activations."""


BY_BITS = _ByBits()


class Options(Table):
    """Options of a row, one field per key. Without fields: a row without options.

    >>> class Noise(Options):
    ...     deviation: float = 0.1
    >>> Noise.defaults()
    {'deviation': 0.1}
    """

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults by key; keys without a default are left out."""
        return {key: field.default for key, field in cls.model_fields.items() if not field.is_required()}

    @classmethod
    def by_bits(cls) -> list[str]:
        """Return the keys whose defaults depend on the bits (`BY_BITS`)."""
        return [key for key, field in cls.model_fields.items() if BY_BITS in field.metadata]
