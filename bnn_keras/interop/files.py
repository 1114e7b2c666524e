"""Checkpoint files of the references: their tensors by name, and nothing else of them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.errors import BnnError

TORCH_SUFFIXES = (".pth", ".tar", ".th", ".pt")
KNOWN = ".npz, .safetensors, .pth, .pth.tar, .th or .pt"


def read_checkpoint(file: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, by the names its repository gives them.

    `.npz` and `.safetensors` hold tensors by name. PyTorch's files hold a state dict, alone or as the entry
    `state_dict` beside what else a training keeps. `module.`, which DataParallel puts into names, is taken out.

    PyTorch's files are programs; only what `torch.load(weights_only=True)` calls harmless is run, and NumPy's scalars,
    which trainings keep as their best accuracy. A file that asks for anything else is refused.

    Args:
        file: The file.

    Returns:
        Arrays by name.

    Raises:
        BnnError: There is no such file, it is of another kind, damaged, refused, or holds no tensors; or PyTorch is
            needed and not installed.
    """
    path = Path(file)
    if not path.is_file():
        raise BnnError(f"no file {str(path)!r}; give a checkpoint: {KNOWN}")
    suffix = path.suffix.lower()
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, **dict.fromkeys(TORCH_SUFFIXES, _read_torch)}
    if suffix not in readers:
        raise BnnError(f"{str(path)!r} ends in {suffix!r}; expected a checkpoint named {KNOWN}")
    tensors = readers[suffix](path)
    if not tensors:
        raise BnnError(f"{str(path)!r} holds no tensors; expected the state dict of a network")
    return {".".join(part for part in name.split(".") if part != "module"): value for name, value in tensors.items()}


def _damaged(path: Path, error: Exception) -> BnnError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BnnError(
        f"cannot read {str(path)!r} as a checkpoint ({reason}); it is damaged or of another kind: get it anew"
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise BnnError(
            f"{str(path)!r} is a file of PyTorch, which is not installed; install it with "
            "`pip install 'bnn-keras[torch]'`, or save the tensors as .npz or .safetensors"
        ) from error
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BnnError(
            f"refused to read {str(path)!r}: it asks for more than tensors and numbers ({_asked_for(error)}), and "
            "could run any program; save its state dict alone with torch.save"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return {name: value.numpy() for name, value in _state_dict(content, torch.Tensor).items()}


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number is made of, under the names that old and new versions of NumPy write."""
    scalar = np.core.multiarray.scalar
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *dtypes]


def _asked_for(error: Exception) -> str:
    for line in str(error).splitlines():
        if "GLOBAL" in line or "global" in line:
            words = [word.strip("'`,.") for word in line.split()]
            return next((word for word in words if "." in word and word[0].isalpha()), "an unknown object")
    return "an unknown object"


def _state_dict(content: Any, tensor: type) -> Mapping[str, Any]:
    """The tensors by name: those of `state_dict` where there is one, else those at the top."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, tensor) and isinstance(name, str)}
