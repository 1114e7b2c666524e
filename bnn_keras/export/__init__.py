"""From a run to files for devices, each checked to predict what the network predicts; and from them to predictions.

What is named here is imported with its first use: the `worker`, which is a part of this package, starts without it.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {"export_run": "exporting", "Exported": "opening", "open_export": "opening"}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
