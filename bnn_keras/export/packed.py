"""The packed file: every binary weight in one bit, in a safetensors container (docs/packed-format.md)."""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, parse
from bnn_keras.export.freeze import freeze, is_binary
from bnn_keras.export.graphs import Predictor, Source, limit_threads, with_keras
from bnn_keras.export.packed_reader import (
    FORMAT,
    MAX_BYTES,
    MAX_EXPERIMENT,
    MAX_HEADER,
    MAX_NUMBERS,
    TYPES,
    VERSION,
    Content,
    digest,
    read_packed,
)
from bnn_keras.models import build_empty

_OF_FROZEN_LAYERS = ("kernel", "scale")


def convert(source: Source, file: Path) -> dict[str, str]:
    """Writes a network.

    Args:
        source: The network. `floats` is the type of all numbers that are not binary weights, "float32" or "float16".
        file: The file to write.

    Returns:
        Names of binary layers that stayed float, and why: none.

    Raises:
        BnnError: As `pack`.
    """
    frozen = freeze(source.model, source.kernels)
    tensors = {name: tensor.numpy() for name, tensor in _tensors(frozen, source.kernels).items()}
    content = Content(source.experiment.to_toml(), list(source.labels), source.kernels, tensors)
    file.write_bytes(pack(content, source.floats))
    return {}


def pack(content: Content, floats: str = "float32") -> bytes:
    """A packed file; the same content gives the same bytes.

    Args:
        content: What `unpack` shall give back.
        floats: Type of all numbers that are not binary weights, "float32" or "float16".

    Raises:
        BnnError: A number does not fit that type, or the file would be larger than a packed file may be.
    """
    layout = {
        "type": floats,
        "binary": [[name, kernel.signs.shape, len(kernel.scales)] for name, kernel in content.kernels.items()],
        "tensors": [[name, values.shape] for name, values in content.tensors.items()],
    }
    numbers = [
        *(_narrowed(kernel.scales, name, floats) for name, kernel in content.kernels.items()),
        *(_narrowed(values, name, floats) for name, values in content.tensors.items()),
    ]
    bits = b"".join(np.packbits(kernel.signs > 0, bitorder="little").tobytes() for kernel in content.kernels.values())
    stream = _compressed(np.concatenate([np.empty(0, TYPES[floats]), *numbers]))
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "experiment": content.experiment,
        "labels": _json(content.labels),
        "layout": _json(layout),
    }
    header = _json(
        {
            "__metadata__": {**metadata, "sha256": digest(metadata, bits, stream)},
            "bits": _bytes_at(0, len(bits)),
            "floats": _bytes_at(len(bits), len(bits) + len(stream)),
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    data = len(header).to_bytes(8, "little") + header + bits + stream
    amount = sum(map(len, numbers))
    for value, limit, what in (
        (len(data), MAX_BYTES, "bytes"),
        (len(header), MAX_HEADER, "bytes of names and labels"),
        (len(content.experiment), MAX_EXPERIMENT, "characters of its experiment"),
        (amount, MAX_NUMBERS, "numbers that are not binary weights"),
    ):
        if value > limit:
            raise BnnError(f"packed, the network has {value} {what}; expected at most {limit}: export to saved_model")
    return data


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Predicts with a file."""
    limit_threads(threads)
    return with_keras(load_packed(file)[-1])


def load_packed(file: str | Path) -> tuple[Experiment, list[str], tf.keras.Model]:
    """The experiment, the labels and the frozen network of a packed file; it predicts what the trained one predicts.

    Raises:
        BnnError: The file is damaged, or no packed file, or its network is another than its experiment's.
    """
    content = read(file)
    experiment = parse(content.experiment, f"in {str(file)!r}")
    arrays = [*(kernel.signs for kernel in content.kernels.values()), *content.tensors.values()]
    try:
        with _no_larger_than(len(arrays), sum(array.size for array in arrays)):
            model = build_empty(experiment)
    except _TooLargeError as error:
        raise _misfit(file, "its experiment describes a larger network than it holds") from error
    except (OverflowError, TypeError) as error:  # of TensorFlow: sizes of more than 64 bits
        raise _misfit(file, f"its experiment describes no network: {error}") from error
    binary = {layer.name: tuple(layer.kernel.shape) for layer in model.layers if is_binary(layer)}
    if _kinds({name: kernel.signs.shape for name, kernel in content.kernels.items()}) != _kinds(binary):
        raise _misfit(file, "its binary layers are others than those of its experiment")
    frozen = freeze(model, dict(zip(binary, content.kernels.values(), strict=True)))
    tensors = _tensors(frozen, binary)
    if _kinds({name: values.shape for name, values in content.tensors.items()}) != _kinds(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    ):
        raise _misfit(file, "its tensors are others than those of its experiment")
    if len(content.labels) != frozen.output_shape[-1]:
        raise _misfit(file, f"it has {len(content.labels)} labels for {frozen.output_shape[-1]} classes")
    for tensor, values in zip(tensors.values(), content.tensors.values(), strict=True):
        tensor.assign(values)
    return experiment, content.labels, frozen


def read(file: str | Path) -> Content:
    """A packed file's content; the reader's errors as ours.

    Raises:
        BnnError: The file is damaged, or no packed file.
    """
    try:
        return read_packed(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BnnError(
            f"cannot read {str(file)!r} as a packed file ({reason}); get it anew, or write it with `bnnk export --to "
            "packed`"
        ) from error


def _misfit(file: str | Path, reason: str) -> BnnError:
    return BnnError(f"packed file {str(file)!r} does not fit together ({reason}); write it anew with `bnnk export`")


def _kinds(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    """What two networks have in common that are the same: order, shapes, and names but for Keras's running numbers."""
    return [(re.sub(r"_\d+(?=/|$)", "", name), shape) for name, shape in shapes.items()]


def _tensors(frozen: tf.keras.Model, binary: Container[str]) -> dict[str, tf.Variable]:
    """What is not in a binary kernel, by layer/name."""
    tensors = {}
    for layer in frozen.layers:
        for variable in layer.weights:
            name = variable.name.split("/")[-1].split(":")[0]
            if not (layer.name in binary and name in _OF_FROZEN_LAYERS):
                tensors[f"{layer.name}/{name}"] = variable
    return tensors


def _narrowed(values: np.ndarray, name: str, floats: str) -> np.ndarray:
    """Numbers as they are stored, in one row."""
    if not np.isfinite(values).all():
        raise BnnError(f"{name!r} has values that are infinite or no numbers; train again with a lower learning rate")
    with np.errstate(over="ignore"):
        narrow = values.astype(TYPES[floats]).ravel()
    if not np.isfinite(narrow).all():
        raise BnnError(
            f"{name!r} has values up to {np.abs(values).max():g}, which {floats} cannot hold; export with float32"
        )
    return narrow


def _compressed(numbers: np.ndarray) -> bytes:
    """Byte by byte: the first bytes of all numbers, then the second, …: those with the exponents repeat."""
    planes = numbers.view(np.uint8).reshape(len(numbers), numbers.itemsize).T
    return zlib.compress(planes.tobytes(), 9)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _bytes_at(start: int, end: int) -> dict[str, Any]:
    """A tensor of bytes in a safetensors header."""
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


class _TooLargeError(Exception):
    """A network has more weights than the file that is to fill it."""


@contextlib.contextmanager
def _no_larger_than(arrays: int, weights: int) -> Iterator[None]:
    """Lets a network be built with so many arrays and weights, twice (Larq Zoo's are), and stops before it has more."""
    arrays_left, weights_left = 2 * arrays, 2 * weights

    def count(create: Any, **kwargs: Any) -> Any:
        nonlocal arrays_left, weights_left
        shape = tf.TensorShape(kwargs.get("shape"))
        if shape.rank:  # Keras counts things in scalars
            arrays_left -= 1
            weights_left -= shape.num_elements()
        if min(arrays_left, weights_left) < 0:
            raise _TooLargeError
        return create(**kwargs)

    with tf.variable_creator_scope(count):
        yield
