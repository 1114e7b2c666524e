"""Checkpoint files of the references: their tensors by name, and nothing else of them."""

from __future__ import annotations

import pickle
import re
import warnings
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
    try:
        tensors = readers[suffix](path)
    except BnnError:
        raise
    except Exception as error:  # a damaged file may break its reader anywhere
        raise _damaged(path, error) from error
    if not tensors:
        raise BnnError(f"{str(path)!r} holds no tensors; expected the state dict of a network")
    return {".".join(part for part in name.split(".") if part != "module"): value for name, value in tensors.items()}


def _damaged(path: Path, error: Exception) -> BnnError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BnnError(
        f"cannot read {str(path)!r} as a checkpoint ({reason}); it is damaged or of another kind: get it anew"
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        tensors = dict(arrays)
    if not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise ValueError("an archive of something else than arrays")
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    return safetensors.numpy.load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise BnnError(
            f"{str(path)!r} is a file of PyTorch, which is not installed; install it with "
            "`pip install 'bnn-keras[torch]'`, or save the tensors as .npz or .safetensors"
        ) from error
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles that others wrote
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what PyTorch says of damaged files advises to read them without protection
        asked_for = _ASKED_FOR.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if not asked_for:
            raise ValueError("not written by torch.save, or cut off") from error
        raise BnnError(
            f"refused to read {str(path)!r}: it asks for more than tensors and numbers ({asked_for[1]}), and "
            "could run any program; save its state dict alone with torch.save"
        ) from error
    return {name: _array(value) for name, value in _state_dict(content, torch.Tensor).items()}


# How PyTorch names what it does not allow: a global, or the class of something it was to build.
_ASKED_FOR = re.compile(r"(?:GLOBAL |<class ')([\w.]+\w)")


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number is made of, under the names that old and new versions of NumPy write."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *{type(np.dtype(kind)) for kind in "efdbhilqBHILQ?"}]


def _state_dict(content: Any, tensor: type) -> Mapping[str, Any]:
    """The tensors by name: those of `state_dict` where there is one, else those at the top."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, tensor) and isinstance(name, str)}
