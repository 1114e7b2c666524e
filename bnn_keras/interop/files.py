"""Read the tensors of the references' checkpoint files. Nothing else in a file is used."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.errors import BnnError

_TORCH_SUFFIXES = (".pth", ".tar", ".th", ".pt")
_SUFFIXES = ".npz, .safetensors, .pth, .pth.tar, .th or .pt"


def read_checkpoint(file: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint by name.

    `.npz` and `.safetensors` hold tensors by name. A PyTorch file holds a state dict, either alone or as the entry
    `state_dict` of a dictionary. `module.`, which `torch.nn.DataParallel` adds to names, is removed.

    PyTorch files are pickles, which can run any program when they are read. They are read with
    `torch.load(weights_only=True)`, which accepts tensors and plain values only. NumPy scalars are accepted as well,
    because training scripts store their best accuracy as one. All other files are refused.

    Args:
        file: The checkpoint: .npz, .safetensors, .pth, .pth.tar, .th or .pt.

    Returns:
        The arrays by name, in the layout of the file.

    Raises:
        BnnError: The file does not exist, has another suffix, is damaged, refused, or holds no tensors; or the file
            needs PyTorch, which is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **{"module.conv1.weight": np.ones((20, 1, 5, 5))})
        ...     tensors = read_checkpoint(f"{folder}/checkpoint.npz")
        >>> {name: tensor.shape for name, tensor in tensors.items()}
        {'conv1.weight': (20, 1, 5, 5)}
    """
    path = Path(file)
    if not path.is_file():
        raise BnnError(f"no file {str(path)!r}; give a checkpoint: {_SUFFIXES}")
    suffix = path.suffix.lower()
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, **dict.fromkeys(_TORCH_SUFFIXES, _read_torch)}
    if suffix not in readers:
        raise BnnError(f"{str(path)!r} ends in {suffix!r}; expected a checkpoint named {_SUFFIXES}")
    try:
        tensors = readers[suffix](path)
    except BnnError:
        raise
    except Exception as error:  # a damaged file can make its reader raise any error
        raise _damaged(path, error) from error
    if not tensors:
        raise BnnError(f"{str(path)!r} holds no tensors; expected the state dict of a network")
    return {".".join(part for part in name.split(".") if part != "module"): value for name, value in tensors.items()}


def _damaged(path: Path, error: Exception) -> BnnError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BnnError(
        f"cannot read {str(path)!r} as a checkpoint ({reason}); it is damaged or has another format: download it again"
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        tensors = dict(arrays)
    if not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise ValueError("the archive holds something other than arrays")
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    return safetensors.numpy.load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise BnnError(
            f"{str(path)!r} is a PyTorch file, and PyTorch is not installed; install it with "
            "`pip install 'bnn-keras[torch]'`, or save the tensors as .npz or .safetensors"
        ) from error
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickles that torch.save did not write
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hide PyTorch's message, which recommends `weights_only=False` for damaged files
        refused = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if not refused:
            raise ValueError("not written by torch.save, or truncated") from error
        raise BnnError(
            f"refused to read {str(path)!r}: it asks for more than tensors and numbers ({refused[1]}), and "
            "could run any program; save its state dict alone with torch.save"
        ) from error
    return {name: _array(value) for name, value in _state_dict(content, torch.Tensor).items()}


# PyTorch's error names the global, or the class of the object, that `weights_only=True` refuses.
_REFUSED = re.compile(r"(?:GLOBAL |<class ')([\w.]+\w)")


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _numpy_scalars() -> list[Any]:
    """Return the globals in the pickle of a NumPy scalar, by the names that NumPy 1 and NumPy 2 write."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *{type(np.dtype(kind)) for kind in "efdbhilqBHILQ?"}]


def _state_dict(content: Any, tensor: type) -> Mapping[str, Any]:
    """Return the tensors by name: those of the entry `state_dict` if it exists, else those at the top level."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, tensor) and isinstance(name, str)}
