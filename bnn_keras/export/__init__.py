"""Export runs and models to files for devices, verify the files, and open them for inference.

Names are imported on first use, so that the process of `worker`, a module of this package, starts without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "FloatLayers": "constants",
    "export_model": "exporting",
    "export_run": "exporting",
    "Exported": "opening",
    "open_export": "opening",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
