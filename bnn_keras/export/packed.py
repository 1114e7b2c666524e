"""The packed file: every binary weight in one bit, in a safetensors container (docs/packed-format.md)."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, parse
from bnn_keras.export.freeze import binary_kernels, freeze
from bnn_keras.export.graphs import Predictor, Source, with_keras
from bnn_keras.export.packed_reader import FORMAT, VERSION, Content, digest, read_packed
from bnn_keras.models import build_empty

TYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_OF_FROZEN_LAYERS = ("kernel", "scale")


def convert(source: Source, file: Path) -> list[str]:
    """Writes a network.

    Args:
        source: The network. `floats` is the type of all numbers that are not binary weights, "float32" or "float16".
        file: The file to write.

    Returns:
        Names of binary layers that stayed float: none.

    Raises:
        BnnError: A number does not fit float16.
    """
    kernels, tensors = source.kernels, _tensors(freeze(source.model, source.kernels))
    layout = {
        "type": source.floats,
        "binary": [[name, kernel.signs.shape, len(kernel.scales)] for name, kernel in kernels.items()],
        "tensors": [[name, tuple(tensor.shape)] for name, tensor in tensors.items()],
    }
    numbers = [
        *(_narrowed(kernel.scales, name, source.floats) for name, kernel in kernels.items()),
        *(_narrowed(tensor.numpy(), name, source.floats) for name, tensor in tensors.items()),
    ]
    content = {
        "bits": b"".join(np.packbits(kernel.signs > 0, bitorder="little").tobytes() for kernel in kernels.values()),
        "floats": _compressed(np.concatenate([TYPES[source.floats].type([]), *numbers])),
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "experiment": source.experiment.to_toml(),
        "labels": json.dumps(list(source.labels), separators=(",", ":")),
        "layout": json.dumps(layout, separators=(",", ":")),
    }
    metadata["sha256"] = digest(metadata, content["bits"], content["floats"])
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in content.items()}
    file.write_bytes(safetensors.numpy.save(arrays, metadata))
    return []


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Predicts with a file."""
    return with_keras(load_packed(file)[-1], threads)


def load_packed(file: str | Path) -> tuple[Experiment, list[str], tf.keras.Model]:
    """The experiment, the labels and the frozen network of a packed file; it predicts what the trained one predicts.

    Raises:
        BnnError: The file is damaged, or no packed file, or its network is another than its experiment's.
    """
    content = read(file)
    experiment = parse(content.experiment, f"the experiment in {str(file)!r}")
    weights = sum(kernel.signs.size for kernel in content.kernels.values())
    try:
        with _no_larger_than(weights + sum(tensor.size for tensor in content.tensors.values())):
            model = build_empty(experiment)
    except _TooLargeError as error:
        raise _misfit(file, "its experiment describes a larger network than it holds") from error
    shapes = {name: kernel.signs.shape for name, kernel in content.kernels.items()}
    expected = {
        layer.name: tuple(layer.kernel.shape)
        for layer in model.layers
        if getattr(getattr(layer, "kernel_quantizer", None), "precision", None) == 1
    }
    if shapes != expected or any(
        len(kernel.scales) not in (0, 1, kernel.signs.shape[-1]) for kernel in content.kernels.values()
    ):
        raise _misfit(file, "its binary layers are others than those of its experiment")
    frozen = freeze(model, content.kernels)
    tensors = _tensors(frozen)
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != {
        name: values.shape for name, values in content.tensors.items()
    }:
        raise _misfit(file, "its tensors are others than those of its experiment")
    if len(content.labels) != frozen.output_shape[-1]:
        raise _misfit(file, f"it has {len(content.labels)} labels for {frozen.output_shape[-1]} classes")
    for name, tensor in tensors.items():
        tensor.assign(content.tensors[name])
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


def _tensors(frozen: tf.keras.Model) -> dict[str, tf.Variable]:
    """What is not in a binary kernel, by layer/name."""
    kernels = binary_kernels(frozen)
    tensors = {}
    for layer in frozen.layers:
        for variable in layer.weights:
            name = variable.name.split("/")[-1].split(":")[0]
            if not (layer.name in kernels and name in _OF_FROZEN_LAYERS):
                tensors[f"{layer.name}/{name}"] = variable
    return tensors


def _narrowed(values: np.ndarray, name: str, floats: str) -> np.ndarray:
    """Numbers as they are stored, in one row."""
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


class _TooLargeError(Exception):
    """A network has more weights than the file that is to fill it."""


@contextlib.contextmanager
def _no_larger_than(weights: int) -> Iterator[None]:
    """Lets a network be built with so many weights, twice (Larq Zoo's are), and stops before it takes more memory."""
    left = 2 * weights

    def count(create: Any, **kwargs: Any) -> Any:
        nonlocal left
        shape = tf.TensorShape(kwargs.get("shape"))
        left -= shape.num_elements() if shape.rank else 0  # Keras counts things in scalars
        if left < 0:
            raise _TooLargeError
        return create(**kwargs)

    with tf.variable_creator_scope(count):
        yield
