"""Files of named arrays, with a digest that is kept elsewhere. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnn_keras import files

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 64 << 20  # size of a file


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write arrays as a safetensors file, and return its SHA-256.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     digest = write(Path(folder, "arrays.safetensors"), {"mean": np.ones(3, np.float32)})
    ...     read(Path(folder, "arrays.safetensors"), digest)
    {'mean': array([1., 1., 1.], dtype=float32)}
    """
    from safetensors.numpy import save  # here, because NumPy slows down commands that do not need it

    content = save({name: array.copy(order="C") for name, array in arrays.items()})
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
    return _digest(content)


def read(path: Path, digest: str | None) -> dict[str, np.ndarray]:
    """Return the arrays of a file after verifying its SHA-256.

    Raises:
        ValueError: It does not match, or the file holds no arrays.
        OSError: The operating system cannot read the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes; expected at most {MAX_BYTES}")
    content = path.read_bytes()
    if _digest(content) != digest:
        raise ValueError("its content does not match its digest")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(error) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
