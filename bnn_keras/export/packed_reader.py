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
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, VERSION = "bnn-keras packed", "1"
TYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
KEYS = ("experiment", "format", "labels", "layout", "version")
MAX_BYTES = 64 << 20  # of a file
MAX_HEADER = 1 << 20  # of the JSON in front
MAX_EXPERIMENT = 16 << 10  # characters: the memory that Python's TOML parser takes grows with their square
MAX_NUMBERS = 32 << 20  # of all numbers that are not binary weights, scales included; in float16 they fill a file
# Reading takes at most 10 bytes of memory for a byte of the file, 12 for a number, and 128 for a byte of the header.
MAX_MEMORY = 10 * MAX_BYTES + 12 * MAX_NUMBERS + 128 * MAX_HEADER


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
    with path.open("rb") as stream:
        return unpack(stream.read(size))  # no more than was asked for, were it to grow


def unpack(data: bytes) -> Content:
    """What `read_packed` gives, from a file's bytes.

    Raises:
        ValueError: As `read_packed`.
    """
    try:
        return _content(*_container(data))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not laid out as a packed file ({type(error).__name__}: {error!s:.80})") from error


def digest(metadata: Mapping[str, str], bits: bytes | memoryview, floats: bytes | memoryview) -> str:
    """SHA-256, in hexadecimal, over all that a file says: each with its length in front, as 8 bytes, little-endian."""
    checksum = hashlib.sha256()
    for part in (*(metadata[key].encode() for key in KEYS), bits, floats):
        checksum.update(len(part).to_bytes(8, "little"))
        checksum.update(part)
    return checksum.hexdigest()


def _container(data: bytes) -> tuple[dict[str, str], memoryview, memoryview]:
    """Metadata and the two tensors of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"its header is said to have {length} bytes, the file has {len(data)}")
    header = json.loads(data[8 : 8 + length].decode())
    metadata = header.pop("__metadata__")
    if metadata["format"] != FORMAT or metadata["version"] != VERSION:
        raise ValueError(
            f"format {metadata['format']:.40}, version {metadata['version']:.40}; known: {FORMAT}, version {VERSION}"
        )
    blob = memoryview(data)[8 + length :]
    end = _size(header["bits"]["shape"][0], least=0)
    rest = _size(len(blob) - end, least=0)
    expected = {
        "bits": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]},
        "floats": {"dtype": "U8", "shape": [rest], "data_offsets": [end, len(blob)]},
    }
    if header != expected:
        raise ValueError("its two tensors are not where they belong")
    if metadata["sha256"] != digest(metadata, blob[:end], blob[end:]):
        raise ValueError("its checksum does not fit: it was changed or cut off")
    return metadata, blob[:end], blob[end:]


def _content(metadata: dict[str, str], bits: memoryview, floats: memoryview) -> Content:
    labels = json.loads(metadata["labels"])
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError("its labels are no list of texts")
    if len(metadata["experiment"]) > MAX_EXPERIMENT:
        raise ValueError(f"its experiment has more than {MAX_EXPERIMENT} characters")
    kind, binary, others = _layout(metadata["layout"])
    if sum(-(-math.prod(shape) // 8) for _, shape, _ in binary) != len(bits):
        raise ValueError("its layout has another number of binary weights than the file")
    numbers = sum(scales for *_, scales in binary) + sum(math.prod(shape) for _, shape in others)
    if numbers > MAX_NUMBERS:
        raise ValueError(f"{numbers} numbers; a packed file has at most {MAX_NUMBERS}")
    values, place = _numbers(floats, numbers, kind), 0
    packed, start = np.frombuffer(bits, np.uint8), 0
    kernels, tensors = {}, {}
    for name, shape, scales in binary:
        end = start + -(-math.prod(shape) // 8)
        signs = np.unpackbits(packed[start:end], count=math.prod(shape), bitorder="little").view(np.int8)
        signs *= 2  # in place: one byte for each weight is all the memory this takes
        signs -= 1
        kernels[name] = Kernel(signs.reshape(shape), values[place : place + scales])
        start, place = end, place + scales
    for name, shape in others:
        tensors[name] = values[place : place + math.prod(shape)].reshape(shape)
        place += math.prod(shape)
    return Content(metadata["experiment"], labels, kernels, tensors)


def _layout(text: str) -> tuple[np.dtype, list[tuple[str, tuple[int, ...], int]], list[tuple[str, tuple[int, ...]]]]:
    """Type of the numbers; names and shapes of binary kernels, with their numbers of scales; those of the others."""
    layout = json.loads(text)
    binary = [(name, _shape(shape, (2, 4)), _size(scales, least=0)) for name, shape, scales in layout["binary"]]
    others = [(name, _shape(shape, range(5))) for name, shape in layout["tensors"]]
    for names in ([name for name, *_ in binary], [name for name, _ in others]):
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("a name in its layout stands there twice, or is no text")
    if any(scales not in (0, 1, shape[-1]) for _, shape, scales in binary):
        raise ValueError("a layer in its layout has neither no scale, nor one, nor one for each filter")
    return TYPES[layout["type"]], binary, others


def _numbers(floats: memoryview, numbers: int, kind: np.dtype) -> np.ndarray:
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


def _shape(value: Any, ranks: Container[int]) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) not in ranks:
        raise ValueError("a shape in its layout has another number of sizes, or is no list")
    return tuple(_size(size) for size in value)


def _size(value: Any, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= 8 * MAX_BYTES:
        raise ValueError("a size in it is too small, too large or no number")
    return value
