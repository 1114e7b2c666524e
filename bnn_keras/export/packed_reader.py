"""Reads a packed file (docs/packed-format.md) with Python and NumPy alone. It stands on its own: copy it where needed.

    content = read_packed("model.safetensors")
    content.kernels["conv1"].signs       # ±1 as int8, (height, width, inputs, filters) or (inputs, units)
    content.kernels["conv1"].scales      # float32: none (all 1), one for the layer, or one for each filter
    content.tensors["bn1/gamma"]         # float32

A file is checked before anything of it is used: its length, every length in it, and a SHA-256 over all that counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, VERSION = "bnn-keras packed", "1"
KEYS = ("experiment", "format", "labels", "layout", "version")
MAX_BYTES = 64 << 20  # of a file
MAX_HEADER = 4 << 20  # of the JSON in front
MAX_NUMBERS = 64 << 20  # of all numbers that are not binary weights, scales included
# Reading a file takes at most MAX_BYTES · (1 + 8), one byte for each binary weight, and 3 · 4 · MAX_NUMBERS more.


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A binary kernel, scale · sign for each filter.

    Attributes:
        signs: ±1 as int8, (height, width, inputs, filters) or (inputs, filters).
        scales: Magnitudes as float32: none where all are 1, one for the layer, or one for each filter.
    """

    signs: np.ndarray
    scales: np.ndarray


@dataclasses.dataclass(frozen=True)
class Content:
    """What a packed file holds.

    Attributes:
        experiment: The experiment that the network comes from, as TOML.
        labels: Names of the classes, in the order of the logits.
        kernels: Binary kernels by the names of their layers.
        tensors: Every other tensor by layer/name, as float32.
    """

    experiment: str
    labels: list[str]
    kernels: dict[str, Kernel]
    tensors: dict[str, np.ndarray]


def read_packed(file: str | Path) -> Content:
    """Reads a packed file.

    Raises:
        ValueError: The file is damaged, larger than the limits above, of a later version, or no packed file.
        OSError: It cannot be read.
    """
    path = Path(file)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes; a packed file has at most {MAX_BYTES}")
    try:
        return _content(*_container(path.read_bytes()))
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not laid out as a packed file ({type(error).__name__}: {error})") from error


def digest(metadata: dict[str, str], bits: bytes, floats: bytes) -> str:
    """SHA-256, in hexadecimal, over all that a file says: each with its length in front, as 8 bytes, little-endian."""
    checksum = hashlib.sha256()
    for part in (*(metadata[key].encode() for key in KEYS), bits, floats):
        checksum.update(len(part).to_bytes(8, "little"))
        checksum.update(part)
    return checksum.hexdigest()


def _container(data: bytes) -> tuple[dict[str, str], bytes, bytes]:
    """Metadata and the two tensors of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"its header is said to have {length} bytes, the file has {len(data)}")
    header = json.loads(data[8 : 8 + length].decode())
    metadata = header.pop("__metadata__")
    if metadata["format"] != FORMAT or metadata["version"] != VERSION:
        raise ValueError(f"format {metadata['format']!r}, version {metadata['version']!r}; known: {FORMAT!r}, '1'")
    blob = data[8 + length :]
    sizes = {name: tensor["shape"][0] for name, tensor in header.items()}
    end = sizes["bits"] + sizes["floats"]
    expected = {
        "bits": {"dtype": "U8", "shape": [sizes["bits"]], "data_offsets": [0, sizes["bits"]]},
        "floats": {"dtype": "U8", "shape": [sizes["floats"]], "data_offsets": [sizes["bits"], end]},
    }
    if header != expected or end != len(blob):
        raise ValueError("its two tensors are not where they belong")
    bits, floats = blob[: sizes["bits"]], blob[sizes["bits"] :]
    if metadata["sha256"] != digest(metadata, bits, floats):
        raise ValueError("its checksum does not fit: it was changed or cut off")
    return metadata, bits, floats


def _content(metadata: dict[str, str], bits: bytes, floats: bytes) -> Content:
    layout, labels = json.loads(metadata["layout"]), json.loads(metadata["labels"])
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError("its labels are no list of texts")
    binary = [(name, _shape(shape), _count(scales)) for name, shape, scales in layout["binary"]]
    others = [(name, _shape(shape)) for name, shape in layout["tensors"]]
    kind = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}[layout["type"]]
    if sum(-(-math.prod(shape) // 8) for _, shape, _ in binary) != len(bits):
        raise ValueError("its layout has another number of binary weights than the file")
    numbers = sum(scales for *_, scales in binary) + sum(math.prod(shape) for _, shape in others)
    if numbers > MAX_NUMBERS:
        raise ValueError(f"{numbers} numbers; a packed file has at most {MAX_NUMBERS}")
    values, place = _numbers(floats, numbers, kind), 0
    packed, start = np.frombuffer(bits, np.uint8), 0
    kernels = {}
    for name, shape, scales in binary:
        weights = math.prod(shape)
        end = start + -(-weights // 8)
        ones = np.unpackbits(packed[start:end], count=weights, bitorder="little")
        kernels[name] = Kernel((2 * ones.astype(np.int8) - 1).reshape(shape), values[place : place + scales])
        start, place = end, place + scales
    tensors = {}
    for name, shape in others:
        tensors[name] = values[place : place + math.prod(shape)].reshape(shape)
        place += math.prod(shape)
    if len(kernels) != len(binary) or len(tensors) != len(others):
        raise ValueError("a name stands twice in its layout")
    return Content(metadata["experiment"], labels, kernels, tensors)


def _numbers(floats: bytes, numbers: int, kind: np.dtype) -> np.ndarray:
    """So many numbers out of their compressed planes: all first bytes, then all second bytes, and so on."""
    expected = numbers * kind.itemsize
    stream = zlib.decompressobj()
    try:
        planes = stream.decompress(floats, expected + 1)  # never more, whatever a bomb holds
    except zlib.error as error:
        raise ValueError(f"its numbers cannot be unpacked ({error})") from error
    if len(planes) != expected or not stream.eof or stream.unused_data:
        raise ValueError(f"its layout has {numbers} numbers, the file another number")
    planes_first = np.frombuffer(planes, np.uint8).reshape(kind.itemsize, numbers)
    return np.ascontiguousarray(planes_first.T).view(kind).reshape(numbers).astype(np.float32)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_count(size) for size in value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} in its layout is no size")
    return value
