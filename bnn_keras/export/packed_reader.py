"""Read packed files (docs/packed-format.md). Needs only Python and NumPy; copy this file to use it without bnn-keras.

    content = read_packed("model.safetensors")
    content.kernels["conv1"].signs       # ±1 as int8, (height, width, inputs, filters) or (inputs, units)
    content.kernels["conv1"].scales      # float32: empty (all are 1), one for the layer, or one per filter
    content.tensors["bn1/gamma"]         # float32

A file is validated before its content is used: its size, all sizes stored in it, and a SHA-256 checksum.
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

FORMAT = "bnn-keras packed"
TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
# What the checksum covers, by version. In version 2, the architecture of a network stands in place of its experiment.
KEYS = {
    "1": ("experiment", "format", "labels", "layout", "version"),
    "2": ("architecture", "format", "labels", "layout", "version"),
}
MAX_BYTES = 64 << 20  # size of a file
MAX_HEADER = 1 << 20  # size of its JSON header
MAX_EXPERIMENT = 16 << 10  # characters; the memory of Python's TOML parser grows with their square
MAX_ARCHITECTURE = 256 << 10  # characters
MAX_NUMBERS = 32 << 20  # numbers that are not binary weights, with scales; in float16 they take MAX_BYTES
# Reading takes at most 10 bytes of memory per byte of the file, 12 per number, and 128 per byte of the header.
MAX_MEMORY = 10 * MAX_BYTES + 12 * MAX_NUMBERS + 128 * MAX_HEADER
_LIMITS = {"experiment": MAX_EXPERIMENT, "architecture": MAX_ARCHITECTURE}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A binary kernel: scale · sign, with one scale per filter.

    Attributes:
        signs: ±1 as int8, (height, width, inputs, filters) or (inputs, filters).
        scales: Magnitudes as float32. Empty if all are 1, one value for the whole layer, or one per filter.

    Example:
        >>> kernel = Kernel(signs=np.array([[1, -1], [-1, -1]], np.int8), scales=np.array([0.5, 2], np.float32))
        >>> (kernel.signs * kernel.scales).tolist()
        [[0.5, -2.0], [-0.5, -2.0]]
    """

    signs: np.ndarray
    scales: np.ndarray


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of a packed file.

    Attributes:
        experiment: The experiment that trained the network, as TOML; empty if the file has an architecture.
        labels: Class names, in the order of the logits.
        kernels: Binary kernels by layer name.
        tensors: All other tensors as float32, by layer/name.
        architecture: The layers of a network without an experiment, as JSON; else empty.
    """

    experiment: str
    labels: list[str]
    kernels: dict[str, Kernel]
    tensors: dict[str, np.ndarray]
    architecture: str = ""


def read_packed(file: str | Path) -> Content:
    """Read a packed file.

    Args:
        file: The file.

    Returns:
        Its content.

    Raises:
        ValueError: The file is damaged, exceeds a limit, has another version, or is not a packed file.
        OSError: The operating system cannot read it.
    """
    path = Path(file)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes; expected at most {MAX_BYTES}")
    with path.open("rb") as stream:
        return unpack(stream.read(size))  # not more, even if the file has grown


def unpack(data: bytes) -> Content:
    """Return the content of a packed file from its bytes.

    Raises:
        ValueError: As `read_packed`.
    """
    try:
        return _content(*_container(data))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a packed file ({type(error).__name__}: {error!s:.80})") from error


def digest(metadata: Mapping[str, str], bits: bytes | memoryview, floats: bytes | memoryview) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Each part is preceded by its length as 8 bytes, little-endian.
    """
    checksum = hashlib.sha256()
    for part in (*(metadata[key].encode() for key in KEYS[metadata["version"]]), bits, floats):
        checksum.update(len(part).to_bytes(8, "little"))
        checksum.update(part)
    return checksum.hexdigest()


def _container(data: bytes) -> tuple[dict[str, str], memoryview, memoryview]:
    """Return the metadata and the two tensors of a safetensors file, after verifying their layout and checksum."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"its header should have {length} bytes, but the file has {len(data)}")
    header = json.loads(data[8 : 8 + length].decode())
    metadata = header.pop("__metadata__")
    if metadata["format"] != FORMAT or metadata["version"] not in KEYS:
        raise ValueError(
            f"format {metadata['format']:.40}, version {metadata['version']:.40}; expected {FORMAT}, version "
            f"{' or '.join(KEYS)}"
        )
    blob = memoryview(data)[8 + length :]
    end = _size(header["bits"]["shape"][0], minimum=0)
    rest = _size(len(blob) - end, minimum=0)
    expected = {
        "bits": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]},
        "floats": {"dtype": "U8", "shape": [rest], "data_offsets": [end, len(blob)]},
    }
    if header != expected:
        raise ValueError("its two tensors do not have the expected types, shapes and offsets")
    if metadata["sha256"] != digest(metadata, blob[:end], blob[end:]):
        raise ValueError("its checksum does not match: it was changed or truncated")
    return metadata, blob[:end], blob[end:]


def _content(metadata: dict[str, str], bits: memoryview, floats: memoryview) -> Content:
    labels = json.loads(metadata["labels"])
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError("its labels are not a list of strings")
    experiment, architecture = (metadata[key] if key in KEYS[metadata["version"]] else "" for key in _LIMITS)
    for (key, limit), text in zip(_LIMITS.items(), (experiment, architecture), strict=True):
        if len(text) > limit:
            raise ValueError(f"its {key} has more than {limit} characters")
    dtype, binary, others = _layout(metadata["layout"])
    if sum(-(-math.prod(shape) // 8) for _, shape, _ in binary) != len(bits):
        raise ValueError("its layout has another number of binary weights than its data")
    numbers = sum(scales for *_, scales in binary) + sum(math.prod(shape) for _, shape in others)
    if numbers > MAX_NUMBERS:
        raise ValueError(f"{numbers} numbers; expected at most {MAX_NUMBERS}")
    values, offset = _numbers(floats, numbers, dtype), 0
    packed, start = np.frombuffer(bits, np.uint8), 0
    kernels, tensors = {}, {}
    for name, shape, scales in binary:
        end = start + -(-math.prod(shape) // 8)
        signs = np.unpackbits(packed[start:end], count=math.prod(shape), bitorder="little").view(np.int8)
        signs *= 2  # in place, to take only one byte of memory per weight
        signs -= 1
        kernels[name] = Kernel(signs.reshape(shape), values[offset : offset + scales])
        start, offset = end, offset + scales
    for name, shape in others:
        tensors[name] = values[offset : offset + math.prod(shape)].reshape(shape)
        offset += math.prod(shape)
    return Content(experiment, labels, kernels, tensors, architecture)


def _layout(
    text: str,
) -> tuple[np.dtype[Any], list[tuple[str, tuple[int, ...], int]], list[tuple[str, tuple[int, ...]]]]:
    """Parse and validate the layout.

    Returns:
        The type of the numbers; name, shape and number of scales of each binary kernel; name and shape of each other
        tensor.
    """
    layout = json.loads(text)
    binary = [(name, _shape(shape, (2, 4)), _size(scales, minimum=0)) for name, shape, scales in layout["binary"]]
    others = [(name, _shape(shape, range(5))) for name, shape in layout["tensors"]]
    for names in ([name for name, *_ in binary], [name for name, _ in others]):
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("a name in its layout is duplicate or not a string")
    if any(scales not in (0, 1, shape[-1]) for _, shape, scales in binary):
        raise ValueError("a layer in its layout must have 0 scales, 1, or one per filter")
    return TYPES[layout["type"]], binary, others


def _numbers(floats: memoryview, numbers: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Decompress numbers stored as byte planes: byte 0 of all numbers, then byte 1, and so on."""
    expected = numbers * dtype.itemsize
    stream = zlib.decompressobj()
    try:
        planes = stream.decompress(floats, expected + 1)  # bounded, because a small stream may expand to gigabytes
    except zlib.error as error:
        raise ValueError(f"its numbers cannot be decompressed ({error})") from error
    if len(planes) != expected or not stream.eof or stream.unused_data:
        raise ValueError(f"its layout has {numbers} numbers, its data another number")
    by_plane = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, numbers)
    return np.ascontiguousarray(by_plane.T).view(dtype).reshape(numbers).astype(np.float32)


def _shape(value: Any, ranks: Container[int]) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) not in ranks:
        raise ValueError("a shape in its layout has the wrong number of dimensions, or is not a list")
    return tuple(_size(size) for size in value)


def _size(value: Any, minimum: int = 1) -> int:
    if type(value) is not int or not minimum <= value <= 8 * MAX_BYTES:
        raise ValueError("a size in it is too small, too large or not an integer")
    return value
