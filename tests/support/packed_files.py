"""Packed files for tests: a small one, and files with changed parts: `from packed_files import ...`."""

import json
import re
import tracemalloc
import zlib

import numpy as np
from helpers import ROOT

from bnn_keras.packed_reader import KEYS, Content, Kernel, digest


def same_content(first, second):
    """Return whether two contents are equal bit for bit."""
    texts = (first.experiment, first.labels, list(first.kernels), list(first.tensors))
    if texts != (second.experiment, second.labels, list(second.kernels), list(second.tensors)):
        return False
    pairs = [(values, second.tensors[name]) for name, values in first.tensors.items()]
    for name, kernel in first.kernels.items():
        pairs += [(kernel.signs, second.kernels[name].signs), (kernel.scales, second.kernels[name].scales)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def small_content():
    """Return a content of 74 binary weights in three layers and 21 other numbers."""
    random = np.random.default_rng(0)

    def kernel(shape, scales):
        return Kernel(random.choice(np.array([-1, 1], np.int8), shape), random.random(scales, np.float32))

    return Content(
        'name = "small"',
        ["cat", "dög", "🦊"],
        {"conv": kernel((1, 3, 2, 5), 5), "one": kernel((1, 1, 5, 4), 1), "dense": kernel((8, 3), 0)},
        {
            "conv/bias": random.standard_normal(5).astype(np.float32),
            "norm/moving_mean": random.standard_normal((3, 3)).astype(np.float32),
            "norm/steps": np.float32(7).reshape(()),
        },
    )


def split_file(data):
    """Return the header, `bits` and `floats` of a packed file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    blob = data[8 + length :]
    return header, blob[: header["bits"]["shape"][0]], blob[header["bits"]["shape"][0] :]


def with_header(header):
    """Return the bytes of a file's header from its JSON."""
    data = header.encode() if isinstance(header, str) else header
    return len(data).to_bytes(8, "little") + data


def with_checksum(data, bits=None, floats=None, **metadata):
    """Return a file with other tensors and metadata, and a valid checksum."""
    header, old_bits, old_floats = split_file(data)
    bits, floats = old_bits if bits is None else bits, old_floats if floats is None else floats
    metadata = {**header["__metadata__"], **metadata}
    if metadata["version"] in KEYS:
        metadata["sha256"] = digest(metadata, bits, floats)
    offsets = {"bits": (0, len(bits)), "floats": (len(bits), len(bits) + len(floats))}
    tensors = {
        name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for name, (start, end) in offsets.items()
    }
    return with_header(json.dumps({"__metadata__": metadata, **tensors})) + bits + floats


def with_layout(data, **changes):
    """Return a file with another layout, and a valid checksum."""
    return with_checksum(
        data, layout=json.dumps({**json.loads(split_file(data)[0]["__metadata__"]["layout"]), **changes})
    )


def zlib_bomb(size):
    """Return a zlib stream of `size` zeros."""
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)) + stream.flush()


def peak_memory(function, *args):
    """Return the peak memory of a call in bytes, and its result or the ValueError that it raises."""
    tracemalloc.start()
    try:
        result = function(*args)
    except ValueError as error:
        result = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, result


def document_blocks(kind):
    """Return the code blocks of one kind in docs/packed-format.md, in order."""
    text = (ROOT / "docs" / "packed-format.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
