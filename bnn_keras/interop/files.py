"""Read and write the references' checkpoint files: tensors by name, and what PyTorch files hold beside them."""

from __future__ import annotations

import collections
import dataclasses
import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py  # TensorFlow requires it
import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError

TORCH_SUFFIXES = (".pth", ".tar", ".th", ".pt")
_SUFFIXES = ".npz, .safetensors, .pth, .pth.tar, .th, .pt, .h5, or a checkpoint of TensorFlow"
KERAS_SUFFIX = ".h5"
_INDEX = ".index"  # of the file that lists the tensors of TensorFlow's checkpoints
_STATISTICS = "stats.json"  # which rethinking-bnn-optimization writes beside a checkpoint
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of a checkpoint file.

    Attributes:
        tensors: The arrays by name, in the order and layout of the file, without `module.` in their names.
        entries: What a PyTorch file holds beside its state dict: epoch, accuracy, the optimizer's state.
    """

    tensors: dict[str, np.ndarray]
    entries: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_checkpoint(file: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint by name.

    `.npz` and `.safetensors` hold tensors by name. A PyTorch file holds a state dict, either alone or as the entry
    `state_dict` of a dictionary. `module.`, which `torch.nn.DataParallel` adds to names, is removed.

    Keras's `Model.save_weights` writes an .h5 file with tensors by name, or a checkpoint of TensorFlow: files that
    begin with the same path, such as `model.index`. Its names are those of attributes of numbered layers:
    "layer_with_weights-0/kernel".

    PyTorch files are pickles, which can run any program when they are read. They are read with
    `torch.load(weights_only=True)`, which accepts tensors and plain values only. NumPy scalars are accepted as well,
    because training scripts store their best accuracy as one. All other files are refused.

    Args:
        file: The checkpoint: .npz, .safetensors, .pth, .pth.tar, .th, .pt or .h5, or the path that the files of a
            checkpoint of TensorFlow begin with.

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
    return read_content(file).tensors


def find_checkpoint(file: str | Path) -> Path:
    """Return the file of a checkpoint; for a checkpoint of TensorFlow, the one that lists its tensors.

    Raises:
        BnnError: There is none.

    Example:
        >>> find_checkpoint("nothing.pth")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        bnn_keras.errors.BnnError: no file 'nothing.pth'; give a checkpoint: .npz, ...
    """
    path = Path(file)
    found = next((other for other in (path, path.with_name(path.name + _INDEX)) if other.is_file()), None)
    if found is None:
        raise BnnError(f"no file {str(path)!r}; give a checkpoint: {_SUFFIXES}")
    return found


def read_content(file: str | Path) -> Content:
    """Read a checkpoint. Files and errors are those of `read_checkpoint`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", fc=np.ones(3))
        ...     read_content(f"{folder}/checkpoint.npz").entries
        {}
    """
    path = find_checkpoint(file)
    suffix = path.suffix.lower()
    readers = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        KERAS_SUFFIX: _read_keras,
        _INDEX: _read_tensorflow,
        **dict.fromkeys(TORCH_SUFFIXES, _read_torch),
    }
    if suffix not in readers:
        raise BnnError(f"{str(path)!r} ends in {suffix!r}; expected a checkpoint named {_SUFFIXES}")
    try:
        content = readers[suffix](path)
    except BnnError:
        raise
    except Exception as error:  # a damaged file can make its reader raise any error
        raise _damaged(path, error) from error
    if not content.tensors:
        raise BnnError(f"{str(path)!r} holds no tensors; expected the state dict of a network: save that")
    unwrapped = {
        ".".join(part for part in name.split(".") if part != "module"): value for name, value in content.tensors.items()
    }
    return dataclasses.replace(content, tensors=unwrapped)


def _damaged(path: Path, error: Exception) -> BnnError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BnnError(
        f"cannot read {str(path)!r} as a checkpoint ({reason}); it is damaged or has another format: download it again"
    )


def _read_npz(path: Path) -> Content:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        tensors = dict(arrays)
    if not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise ValueError("the archive holds something other than arrays")
    return Content(tensors)


def _read_safetensors(path: Path) -> Content:
    import safetensors.numpy

    return Content(safetensors.numpy.load_file(path))


def _read_keras(path: Path) -> Content:
    tensors: dict[str, np.ndarray] = {}

    def read(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError("it has data in other files")
            # The name of a variable, such as "conv/kernel:0", stands behind that of its layer.
            tensors[name.partition("/")[2].removesuffix(":0")] = item[()]

    with h5py.File(path) as stream:
        stream.visititems(read)
    return Content(tensors)


def _read_tensorflow(path: Path) -> Content:
    reader = tf.train.load_checkpoint(str(path.with_suffix("")))
    names = [name for name in reader.get_variable_to_shape_map() if re.match(r"layer_with_weights-\d+/[^.]*/\.A", name)]
    tensors = {name.removesuffix(_VALUE): reader.get_tensor(name) for name in sorted(names)}
    statistics = path.with_name(_STATISTICS)
    entries = json.loads(statistics.read_text(encoding="utf-8")) if statistics.is_file() else {}
    return Content(tensors, {"epoch": entries["epoch"]} if "epoch" in entries else {})


def _read_torch(path: Path) -> Content:
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
    tensors, entries = _split(content, torch.Tensor)
    return Content({name: _array(value) for name, value in tensors.items()}, _without_tensors(entries, torch.Tensor))


def write_torch(
    file: str | Path, tensors: Mapping[str, np.ndarray], key: str | None, entries: Mapping[str, Any]
) -> None:
    """Write a PyTorch file with a state dict.

    Args:
        file: The file.
        tensors: The arrays of the state dict by name, in its order.
        key: Key of the state dict; None to write the state dict alone.
        entries: What the file holds beside the state dict. Arrays in it become tensors.

    Raises:
        ImportError: PyTorch is not installed.
    """
    import torch

    state = collections.OrderedDict((name, torch.from_numpy(value.copy())) for name, value in tensors.items())
    torch.save(state if key is None else {**_with_tensors(entries, torch.from_numpy), key: state}, file)


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


def _split(content: Any, tensor: type) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the tensors by name, those of the entry `state_dict` or else those at the top level, and other entries.

    Without an entry `state_dict`, there are no other entries.
    """
    entries: Mapping[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        entries = {name: value for name, value in content.items() if name != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}, {}
    tensors = {name: value for name, value in content.items() if isinstance(value, tensor) and isinstance(name, str)}
    return tensors, entries


def _without_tensors(value: Any, tensor: type) -> Any:
    """Return nested dictionaries and lists with arrays in place of tensors."""
    if isinstance(value, tensor):
        return _array(value)
    if isinstance(value, Mapping):
        return {key: _without_tensors(item, tensor) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(item, tensor) for item in value]
    return value


def _with_tensors(value: Any, tensor: Callable[[np.ndarray], Any]) -> Any:
    """Return nested dictionaries and lists with tensors in place of arrays."""
    if isinstance(value, np.ndarray):
        return tensor(value.copy())
    if isinstance(value, Mapping):
        return {key: _with_tensors(item, tensor) for key, item in value.items()}
    return [_with_tensors(item, tensor) for item in value] if isinstance(value, list) else value
