"""Read packed files (docs/packed-format.md). Needs only Python and NumPy; copy this file to use it without bnn-keras.

    content = read_packed("model.safetensors")
    content.kernels["conv1"].signs       # ±1 as int8, (height, width, inputs, filters) or (inputs, units)
    content.kernels["conv1"].scales      # float32: empty (all are 1), one for the layer, or one per filter
    content.tensors["bn1/gamma"]         # float32
    content.arrays["mean_image"]         # float32, of the preprocessing of images

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
# Version 3 has arrays of the preprocessing, in a tensor of their own.
KEYS = {
    "1": ("experiment", "format", "labels", "layout", "version"),
    "2": ("architecture", "format", "labels", "layout", "version"),
    "3": ("experiment", "format", "labels", "layout", "version"),
}
TENSORS = {"1": ("bits", "floats"), "2": ("bits", "floats"), "3": ("bits", "floats", "arrays")}
MAX_BYTES = 64 << 20  # size of a file
MAX_HEADER = 1 << 20  # size of its JSON header
MAX_EXPERIMENT = 16 << 10  # characters; the memory of Python's TOML parser grows with their square
MAX_ARCHITECTURE = 256 << 10  # characters
MAX_NUMBERS = 32 << 20  # numbers that are not binary weights, with scales and arrays; in float16 they take MAX_BYTES
# Reading takes at most 10 bytes of memory per byte of the file, 12 per number, and 128 per byte of the header.
MAX_MEMORY = 10 * MAX_BYTES + 12 * MAX_NUMBERS + 128 * MAX_HEADER
_Shapes = list[tuple[str, tuple[int, ...]]]  # by name
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
        arrays: Arrays of the preprocessing of images as float32, by name: a mean image, or whitening.
    """

    experiment: str
    labels: list[str]
    kernels: dict[str, Kernel]
    tensors: dict[str, np.ndarray]
    architecture: str = ""
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


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


def digest(metadata: Mapping[str, str], *tensors: bytes | memoryview) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Each part is preceded by its length as 8 bytes, little-endian.
    """
    checksum = hashlib.sha256()
    for part in (*(metadata[key].encode() for key in KEYS[metadata["version"]]), *tensors):
        checksum.update(len(part).to_bytes(8, "little"))
        checksum.update(part)
    return checksum.hexdigest()


def entries(lengths: Mapping[str, int]) -> dict[str, Any]:
    """Return the entries of a safetensors header for tensors of bytes, which follow each other."""
    found, start = {}, 0
    for name, length in lengths.items():
        found[name] = {"dtype": "U8", "shape": [length], "data_offsets": [start, start + length]}
        start += length
    return found


def _container(data: bytes) -> tuple[dict[str, str], list[memoryview]]:
    """Return the metadata and the tensors of a safetensors file, after verifying their layout and checksum."""
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
    lengths = {name: _size(header[name]["shape"][0], minimum=0) for name in TENSORS[metadata["version"]]}
    if header != entries(lengths) or sum(lengths.values()) != len(blob):
        raise ValueError("its tensors do not have the expected types, shapes and offsets")
    tensors, start = [], 0
    for length in lengths.values():
        tensors.append(blob[start : start + length])
        start += length
    if metadata["sha256"] != digest(metadata, *tensors):
        raise ValueError("its checksum does not match: it was changed or truncated")
    return metadata, tensors


def _content(metadata: dict[str, str], tensors_of_file: list[memoryview]) -> Content:
    bits, floats, *preprocessing = tensors_of_file
    labels = json.loads(metadata["labels"])
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError("its labels are not a list of strings")
    experiment, architecture = (metadata[key] if key in KEYS[metadata["version"]] else "" for key in _LIMITS)
    for (key, limit), text in zip(_LIMITS.items(), (experiment, architecture), strict=True):
        if len(text) > limit:
            raise ValueError(f"its {key} has more than {limit} characters")
    dtype, binary, others, arrays = _layout(metadata["layout"])
    if bool(arrays) != bool(preprocessing):
        raise ValueError("its layout has arrays that its version does not have, or none")
    if sum(-(-math.prod(shape) // 8) for _, shape, _ in binary) != len(bits):
        raise ValueError("its layout has another number of binary weights than its data")
    numbers = sum(scales for *_, scales in binary) + sum(math.prod(shape) for _, shape in others)
    of_arrays = sum(math.prod(shape) for _, shape in arrays)
    if numbers + of_arrays > MAX_NUMBERS:
        raise ValueError(f"{numbers + of_arrays} numbers; expected at most {MAX_NUMBERS}")
    values, offset = _numbers(floats, numbers, dtype), 0
    packed, start = np.frombuffer(bits, np.uint8), 0
    kernels = {}
    for name, shape, scales in binary:
        end = start + -(-math.prod(shape) // 8)
        signs = np.unpackbits(packed[start:end], count=math.prod(shape), bitorder="little").view(np.int8)
        signs *= 2  # in place, to take only one byte of memory per weight
        signs -= 1
        kernels[name] = Kernel(signs.reshape(shape), values[offset : offset + scales])
        start, offset = end, offset + scales
    tensors = _split(values[offset:], others)
    of_preprocessing = [_split(_numbers(part, of_arrays, TYPES["float32"]), arrays) for part in preprocessing]
    return Content(experiment, labels, kernels, tensors, architecture, *of_preprocessing)


def _split(values: np.ndarray, shapes: _Shapes) -> dict[str, np.ndarray]:
    """Return arrays of the given names and shapes, which follow each other in `values`."""
    arrays, offset = {}, 0
    for name, shape in shapes:
        arrays[name] = values[offset : offset + math.prod(shape)].reshape(shape)
        offset += math.prod(shape)
    return arrays


def _layout(text: str) -> tuple[np.dtype[Any], list[tuple[str, tuple[int, ...], int]], _Shapes, _Shapes]:
    """Parse and validate the layout.

    Returns:
        The type of the numbers; name, shape and number of scales of each binary kernel; name and shape of each other
        tensor, and of each array of the preprocessing.
    """
    layout = json.loads(text)
    binary = [(name, _shape(shape, (2, 4)), _size(scales, minimum=0)) for name, shape, scales in layout["binary"]]
    others = [(name, _shape(shape, range(5))) for name, shape in layout["tensors"]]
    arrays = [(name, _shape(shape, range(5))) for name, shape in layout.get("arrays", [])]
    for names in ([name for name, *_ in binary], [name for name, _ in others], [name for name, _ in arrays]):
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("a name in its layout is duplicate or not a string")
    if any(scales not in (0, 1, shape[-1]) for _, shape, scales in binary):
        raise ValueError("a layer in its layout must have 0 scales, 1, or one per filter")
    return TYPES[layout["type"]], binary, others, arrays


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
