"""Packed files: one bit per binary weight, in a safetensors container (docs/packed-format.md)."""

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
from bnn_keras.export.architecture import build, describe
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.description import Description
from bnn_keras.export.freeze import freeze, thaw
from bnn_keras.export.job import ExportJob
from bnn_keras.export.predictors import Predictor, with_keras
from bnn_keras.export.threads import limit_threads
from bnn_keras.kernels import is_binary
from bnn_keras.models import build_empty
from bnn_keras.packed_reader import (
    FORMAT,
    MAX_ARCHITECTURE,
    MAX_BYTES,
    MAX_EXPERIMENT,
    MAX_HEADER,
    MAX_NUMBERS,
    TYPES,
    Content,
    digest,
    entries,
    read_packed,
)

_KERNEL_WEIGHTS = ("kernel", "scale")  # weights of frozen layers that a `Kernel` holds


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write a packed file.

    Args:
        job: The network. `floats` is "float32" or "float16".
        file: The file to write.

    Returns:
        Every binary layer is stored in one bit per weight, and computed in float.

    Raises:
        BnnError: As `pack`.
    """
    frozen = freeze(job.model, job.kernels)
    tensors = {name: tensor.numpy() for name, tensor in _tensors(frozen, job.kernels).items()}
    experiment = job.experiment.to_toml() if job.experiment else ""
    arrays = dict(job.experiment.arrays) if job.experiment else {}
    architecture = "" if experiment else describe(frozen)
    content = Content(experiment, list(job.labels), job.kernels, tensors, architecture, arrays)
    file.write_bytes(pack(content, job.floats))
    return FloatLayers({}, dict.fromkeys(job.kernels, "Keras has only float kernels"))


def pack(content: Content, floats: str = "float32") -> bytes:
    """Return the bytes of a packed file. Equal content gives equal bytes.

    Args:
        content: What `unpack` returns for these bytes.
        floats: Type of all numbers that are not binary weights, "float32" or "float16".

    Raises:
        BnnError: A number is out of range of that type, or the file exceeds a limit of the format.

    Example:
        >>> import numpy as np
        >>> from bnn_keras.export.packed import pack
        >>> from bnn_keras.packed_reader import Content, Kernel, unpack
        >>> kernel = Kernel(signs=np.array([[1, -1], [-1, -1]], np.int8), scales=np.array([0.5], np.float32))
        >>> content = Content(experiment="", labels=["cat", "dog"], kernels={"dense": kernel}, tensors={})
        >>> data = pack(content)
        >>> unpack(data).kernels["dense"].signs.tolist()
        [[1, -1], [-1, -1]]
    """
    layout = {
        "type": floats,
        "binary": [[name, kernel.signs.shape, len(kernel.scales)] for name, kernel in content.kernels.items()],
        "tensors": [[name, values.shape] for name, values in content.tensors.items()],
        **({"arrays": [[name, values.shape] for name, values in content.arrays.items()]} if content.arrays else {}),
    }
    numbers = [
        *(_narrow(kernel.scales, name, floats) for name, kernel in content.kernels.items()),
        *(_narrow(values, name, floats) for name, values in content.tensors.items()),
    ]
    bits = b"".join(np.packbits(kernel.signs > 0, bitorder="little").tobytes() for kernel in content.kernels.values())
    arrays = [_narrow(values, name, "float32") for name, values in content.arrays.items()]
    tensors = {"bits": bits, "floats": _compressed(np.concatenate([np.empty(0, TYPES[floats]), *numbers]))}
    if arrays:
        tensors["arrays"] = _compressed(np.concatenate(arrays))
    metadata = {
        "format": FORMAT,
        **(
            {"version": "2", "architecture": content.architecture}
            if content.architecture
            else {"version": "3" if arrays else "1", "experiment": content.experiment}
        ),
        "labels": _json(content.labels),
        "layout": _json(layout),
    }
    header = _json(
        {
            "__metadata__": {**metadata, "sha256": digest(metadata, *tensors.values())},
            **entries({name: len(tensor) for name, tensor in tensors.items()}),
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    data = len(header).to_bytes(8, "little") + header + b"".join(tensors.values())
    count = sum(map(len, [*numbers, *arrays]))
    for value, limit, what in (
        (len(data), MAX_BYTES, "bytes"),
        (len(header), MAX_HEADER, "bytes of header (names and labels)"),
        (len(content.experiment), MAX_EXPERIMENT, "characters of experiment"),
        (len(content.architecture), MAX_ARCHITECTURE, "characters of architecture"),
        (count, MAX_NUMBERS, "numbers that are not binary weights"),
    ):
        if value > limit:
            raise BnnError(f"the packed file would have {value} {what}; expected at most {limit}: use another format")
    return data


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a file with Keras.

    Raises:
        BnnError: As `load_packed`.
    """
    return open_file(file, threads)[-1]


def open_file(file: Path, threads: int | None = None) -> tuple[Description, Predictor]:
    """Return the description and a predictor of a packed file.

    Raises:
        BnnError: As `load_packed`.
    """
    limit_threads(threads)
    experiment, labels, network = load_packed(file)
    description = Description(
        experiment.network.name if experiment else network.name, network.input_shape[1:], labels, experiment
    )
    return description, with_keras(lambda images: network(images, training=False))


def load_packed(file: str | Path) -> tuple[Experiment | None, list[str], tf.keras.Model]:
    """Load a packed file as a Keras model. Its outputs are equal to the trained network's bit for bit.

    Args:
        file: The packed file.

    Returns:
        The experiment (None for a model of `export_model`), the labels, and the frozen network.

    Raises:
        BnnError: The file is damaged or not a packed file, or its weights do not match its experiment or architecture.

    Example:
        >>> from bnn_keras.export.packed import load_packed
        >>> import tempfile
        >>> import numpy as np
        >>> from bnn_keras import build_model, export_run, import_checkpoint, interop, resolve
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     run, weights, keys = f"{folder}/run", f"{folder}/checkpoint.npz", ["data.examples=8"]
        ...     _ = import_checkpoint(weights, run, "lenet5", dataset="fake", overrides=keys)
        ...     sidecar = export_run(run, "packed", f"{folder}/lenet5.safetensors")
        ...     experiment, labels, network = load_packed(f"{folder}/lenet5.safetensors")
        >>> experiment.scheme.name, len(labels), network.output_shape
        ('xnor', 10, (None, 10))
        >>> load_packed("nothing.safetensors")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        bnn_keras.errors.BnnError: cannot read 'nothing.safetensors' as a packed file (No such file or directory); ...
    """
    content = read(file)
    experiment = None if content.architecture else parse(content.experiment, f"in {str(file)!r}")
    described = "its experiment" if experiment else "its architecture"
    arrays = [*(kernel.signs for kernel in content.kernels.values()), *content.tensors.values()]
    try:
        with _no_larger_than(len(arrays), sum(array.size for array in arrays)):
            model = build_empty(experiment) if experiment else build(content.architecture)
    except _TooLargeError as error:
        raise _inconsistent(file, f"{described} describes a larger network than it holds") from error
    except (OverflowError, TypeError, ValueError) as error:  # TensorFlow raises them for sizes of more than 64 bits
        raise _inconsistent(file, f"{described} does not describe a network: {error}") from error
    binary = {layer.name: tuple(layer.kernel.shape) for layer in model.layers if is_binary(layer)}
    if _signature({name: kernel.signs.shape for name, kernel in content.kernels.items()}) != _signature(binary):
        raise _inconsistent(file, f"its binary layers differ from those of {described}")
    frozen = freeze(model, dict(zip(binary, content.kernels.values(), strict=True)))
    tensors = _tensors(frozen, binary)
    if _signature({name: values.shape for name, values in content.tensors.items()}) != _signature(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    ):
        raise _inconsistent(file, f"its tensors differ from those of {described}")
    if len(content.labels) != frozen.output_shape[-1]:
        raise _inconsistent(file, f"it has {len(content.labels)} labels for {frozen.output_shape[-1]} classes")
    for tensor, values in zip(tensors.values(), content.tensors.values(), strict=True):
        tensor.assign(values)
    return experiment and experiment.with_arrays(lambda: content.arrays), content.labels, frozen


def load_latent(file: str | Path) -> tuple[Experiment, tf.keras.Model, list[str]]:
    """Load a packed file as a network for training.

    The file has no latent weights, so they become scale · sign (`freeze.thaw`): a filter's weights have one magnitude.
    Constraints of the network do not hold for them yet.

    Returns:
        The experiment, the network of its last stage, and the labels.

    Raises:
        BnnError: As `load_packed`, or the file has no experiment.
    """
    experiment, labels, frozen = load_packed(file)
    if experiment is None:
        raise BnnError(f"{str(file)!r} holds a model without an experiment; give a run, or the export of one")
    model = build_empty(experiment)
    thaw(frozen, model)
    return experiment, model, labels


def read(file: str | Path) -> Content:
    """Return the content of a packed file.

    Raises:
        BnnError: The file is damaged, or not a packed file.
    """
    try:
        return read_packed(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BnnError(
            f"cannot read {str(file)!r} as a packed file ({reason}); get a new copy, or write it again with "
            "`bnnk export --to packed`"
        ) from error


def _inconsistent(file: str | Path, reason: str) -> BnnError:
    return BnnError(f"packed file {str(file)!r} is inconsistent ({reason}); write it again with `bnnk export`")


def _signature(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes in order, without the running numbers that Keras appends to names."""
    return [(re.sub(r"_\d+(?=/|$)", "", name), shape) for name, shape in shapes.items()]


def _tensors(frozen: tf.keras.Model, binary: Container[str]) -> dict[str, tf.Variable]:
    """Return all weights that no binary kernel holds, by layer/name."""
    tensors = {}
    for layer in frozen.layers:
        for variable in layer.weights:
            name = variable.name.split("/")[-1].split(":")[0]
            if not (layer.name in binary and name in _KERNEL_WEIGHTS):
                tensors[f"{layer.name}/{name}"] = variable
    return tensors


def _narrow(values: np.ndarray, name: str, floats: str) -> np.ndarray:
    """Return numbers in the type of the file, flattened.

    Raises:
        BnnError: A number is not finite, or out of range of the type.
    """
    if not np.isfinite(values).all():
        raise BnnError(f"{name!r} has infinite or NaN values; train again with a lower learning rate")
    with np.errstate(over="ignore"):
        narrow = values.astype(TYPES[floats]).ravel()
    if not np.isfinite(narrow).all():
        raise BnnError(
            f"{name!r} has values up to {np.abs(values).max():g}, which {floats} cannot hold; export with float32"
        )
    return narrow


def _compressed(numbers: np.ndarray) -> bytes:
    """Compress numbers as byte planes: byte 0 of all numbers, then byte 1, …; planes of exponents compress well."""
    planes = numbers.view(np.uint8).reshape(len(numbers), numbers.itemsize).T
    return zlib.compress(planes.tobytes(), 9)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class _TooLargeError(Exception):
    """A network has more weights than the file it is built for."""


@contextlib.contextmanager
def _no_larger_than(arrays: int, weights: int) -> Iterator[None]:
    """Stop building a network before it has more arrays or weights than given.

    Counts up to twice the given numbers, because networks of Larq Zoo are built twice.

    Raises:
        _TooLargeError: The network is larger.
    """
    arrays_left, weights_left = 2 * arrays, 2 * weights

    def count(create: Any, **kwargs: Any) -> Any:
        nonlocal arrays_left, weights_left
        shape = tf.TensorShape(kwargs.get("shape"))
        if shape.rank:  # scalars are counters of Keras
            arrays_left -= 1
            weights_left -= shape.num_elements()
        if min(arrays_left, weights_left) < 0:
            raise _TooLargeError
        return create(**kwargs)

    with tf.variable_creator_scope(count):
        yield
