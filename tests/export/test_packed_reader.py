"""Read packed files: the reader needs no TensorFlow, agrees with the document, and rejects every damaged file."""

import dataclasses
import json
import random
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers import ROOT
from packed_files import (
    document_blocks,
    peak_memory,
    same_content,
    small_content,
    split_file,
    with_checksum,
    with_header,
    with_layout,
    zlib_bomb,
)

from bnn_keras import packed_reader
from bnn_keras.export.packed import pack
from bnn_keras.packed_reader import MAX_BYTES, MAX_MEMORY, MAX_NUMBERS, Content, Kernel, read_packed, unpack


def error_of(data):
    """Return why the reader rejects these bytes; it must need little memory for that."""
    peak, error = peak_memory(unpack, data)
    assert isinstance(error, ValueError)
    assert peak < 64 << 20
    return str(error)


def test_equal_content_gives_equal_bytes_in_a_safetensors_file():
    data = pack(small_content())
    assert pack(small_content()) == data
    assert same_content(unpack(data), small_content())
    header, bits, floats = split_file(data)
    tensors = safetensors.numpy.load(data)
    assert list(header["__metadata__"]) == ["format", "version", "experiment", "labels", "layout", "sha256"]
    assert (tensors["bits"].tobytes(), tensors["floats"].tobytes()) == (bits, floats)
    assert len(bits) == 4 + 3 + 3


def test_networks_without_binary_weights_and_without_other_numbers():
    for content in (
        dataclasses.replace(small_content(), kernels={}),
        dataclasses.replace(small_content(), kernels={"dense": small_content().kernels["dense"]}, tensors={}),
        Content("", [], {}, {}),
    ):
        for floats in ("float32", "float16"):
            read = unpack(pack(content, floats))
            assert list(read.kernels) == list(content.kernels)
            assert {name: values.shape for name, values in read.tensors.items()} == {
                name: values.shape for name, values in content.tensors.items()
            }


def test_arrays_of_the_preprocessing_are_float32_in_a_tensor_of_their_own():
    arrays = {"mean_image": np.full((2, 3, 1), 1e5, np.float32), "other": np.array([1 / 3], np.float32)}
    content = dataclasses.replace(small_content(), arrays=arrays)
    data = pack(content, "float16")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header) == ["__metadata__", "bits", "floats", "arrays"]
    assert header["__metadata__"]["version"] == "3"
    read = unpack(data).arrays
    assert list(read) == list(arrays)
    assert all(np.array_equal(read[name], arrays[name]) and read[name].dtype == np.float32 for name in arrays)
    assert "its checksum does not match" in error_of(data[:-1] + bytes([data[-1] ^ 1]))
    assert "has arrays that its version does not have" in error_of(
        with_layout(pack(small_content()), arrays=[["mean_image", [2]]])
    )


def test_the_reader_imports_only_numpy_and_the_standard_library():
    imports = re.findall(r"^\s*(?:import|from) (\w+)", Path(packed_reader.__file__).read_text(), re.MULTILINE)
    assert set(imports) - sys.stdlib_module_names == {"numpy"}


def test_the_example_of_the_document_byte_by_byte(monkeypatch):
    monkeypatch.setitem(sys.modules, "packed_reader", packed_reader)
    names = {}
    exec(document_blocks("python")[0], names)
    expected = names["content"]
    expected = dataclasses.replace(
        expected,
        kernels={
            name: Kernel(np.array(kernel.signs, np.int8), np.array(kernel.scales, np.float32))
            for name, kernel in expected.kernels.items()
        },
        tensors={name: np.array(values, np.float32) for name, values in expected.tensors.items()},
    )
    length, bits, floats = (bytes.fromhex(block) for block in document_blocks("hex"))
    (header,) = document_blocks("json")
    data = length + header.replace("\n", "").encode() + bits + floats
    assert same_content(unpack(data), expected)
    header_written, bits_written, _ = split_file(pack(expected))
    assert bits_written == bits
    assert header_written["__metadata__"] | {"sha256": ""} == json.loads(header)["__metadata__"] | {"sha256": ""}
    planes = document_blocks("text")[-1].split()
    assert zlib.decompress(floats) == bytes.fromhex("".join(planes))


def test_limits_are_those_of_the_document():
    text = (ROOT / "docs" / "packed-format.md").read_text(encoding="utf-8")
    limits = dict(re.findall(r"^\| (?:the|numbers) (\w+)[^|]*\| ([\d,]+(?: MiB)?)[^|]*\|$", text, re.MULTILINE))
    sizes = {name: value.replace(",", "") for name, value in limits.items()}
    sizes = {name: int(value.split()[0]) << (20 if "MiB" in value else 0) for name, value in sizes.items()}
    names = {"file": "MAX_BYTES", "header": "MAX_HEADER", "in": "MAX_NUMBERS"}
    names |= {name: f"MAX_{name.upper()}" for name in ("experiment", "architecture")}
    assert sizes == {name: getattr(packed_reader, limit) for name, limit in names.items()}


def test_a_file_over_the_size_limit_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(1 << 40)
    peak, error = peak_memory(read_packed, tmp_path / "large")
    assert str(error) == f"{1 << 40} bytes; expected at most {MAX_BYTES}"
    assert peak < 1 << 20


INVALID_LAYOUTS = [
    ({"type": "float64"}, "KeyError: 'float64'"),
    ({"type": []}, "unhashable"),
    ({"binary": None}, "TypeError"),
    ({"binary": {"ab": 1}}, "not enough values"),
    ({"binary": [["conv", [1, 3, 2, 5], 5, 0]]}, "too many values"),
    ({"tensors": [["conv/bias", [5]], ["conv/bias", [12]]]}, "a name in its layout is duplicate"),
    ({"binary": [["a", [5, 8], 0], ["a", [5, 8], 0]]}, "a name in its layout is duplicate"),
    ({"tensors": [[7, [15]]]}, "or not a string"),
    ({"tensors": [["a", [-15]]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", [-3, -5]]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", [0]]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", [15.0]]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", [float("nan")]]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", [True] * 4]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", [10**4000]]]}, "too small, too large or not an integer"),
    ({"tensors": [["a", "15"]]}, "the wrong number of dimensions"),
    ({"tensors": [["a", {"15": 15}]]}, "the wrong number of dimensions"),
    ({"tensors": [["a", [1] * 100_000]]}, "the wrong number of dimensions"),
    ({"binary": [["a", [80], 0]]}, "the wrong number of dimensions"),
    ({"binary": [["a", [10, 8], 3]]}, "must have 0 scales, 1, or one per filter"),
    ({"binary": [["a", [10, 8], -1]]}, "too small, too large or not an integer"),
    ({"binary": [["a", [2**29, 2**29], 0]]}, "another number of binary weights"),
    ({"binary": [["a", [10, 9], 0]]}, "another number of binary weights"),
    ({"tensors": [["a", [16]]]}, "another number"),
    ({"tensors": [["a", [14]]]}, "another number"),
    ({"tensors": [["a", [MAX_NUMBERS]]]}, f"numbers; expected at most {MAX_NUMBERS}"),
    ({"tensors": [["a", [2**29] * 4]]}, f"numbers; expected at most {MAX_NUMBERS}"),
]


def test_an_invalid_layout_is_rejected():
    for changes, reason in INVALID_LAYOUTS:
        assert reason in error_of(with_layout(pack(small_content()), **changes)), changes


def test_invalid_metadata_is_rejected():
    data = pack(small_content())
    deep = "[" * 200_000
    for changes, reason in [
        ({"labels": '["a", 1]'}, "its labels are not a list of strings"),
        ({"labels": '{"a": 1}'}, "its labels are not a list of strings"),
        ({"labels": "[NaN]"}, "its labels are not a list of strings"),
        ({"labels": deep}, "RecursionError"),
        ({"layout": deep}, "RecursionError"),
        ({"layout": '{"type":' * 100_000}, "RecursionError"),
        ({"layout": "7"}, "TypeError"),
        ({"layout": ""}, "Expecting value"),
        ({"experiment": "#" * 20_000}, "its experiment has more than 16384 characters"),
        ({"format": "x" * 1000}, f"format {'x' * 40}, version 1;"),
    ]:
        assert reason in error_of(with_checksum(data, **changes))
    assert same_content(unpack(with_checksum(data, more="[" * 100_000)), small_content())


def test_an_invalid_header_is_rejected():
    header, bits, floats = split_file(pack(small_content()))
    tensors = {name: header[name] for name in ("bits", "floats")}
    metadata = header["__metadata__"]
    without = {key: value for key, value in metadata.items() if key != "sha256"}
    for text, reason in [
        ("[" * 200_000, "RecursionError"),
        ("NaN", "AttributeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: '__metadata__'"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": []}}), "IndexError"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": [float("nan")]}}), "not an integer"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": [2**70]}}), "too large"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": [len(bits + floats) + 1]}}), "shapes and offsets"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": ["9" * 5000]}}), "not an integer"),
        (
            json.dumps({**header, "bits": {**tensors["bits"], "dtype": "I8"}}),
            "do not have the expected types, shapes and offsets",
        ),
        (json.dumps({**header, "more": tensors["bits"]}), "do not have the expected types, shapes and offsets"),
        (json.dumps({**header, "__metadata__": without}), "KeyError: 'sha256'"),
        (json.dumps({**header, "__metadata__": {**metadata, "labels": 7}}), "AttributeError"),
        (json.dumps({**header, "__metadata__": {**metadata, "labels": "\ud800"}}), "surrogates not allowed"),
        ('{"__metadata__": ' + "1" * 5000 + "}", "4300 digits"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
    ]:
        assert reason in error_of(with_header(text) + bits + floats)


@pytest.mark.slow
def test_peak_memory_is_below_the_documented_bound():
    """The worst cases: only numbers, only binary weights, only names."""
    weights, names = 8 << 20, [f"{number:x}" for number in range(20_000)]
    empty = dataclasses.replace(small_content(), kernels={}, tensors={})
    numbers = json.dumps({"type": "float32", "binary": [], "tensors": [["a", [MAX_NUMBERS]]]})
    bits = json.dumps({"type": "float32", "binary": [["a", [weights // 8, 8], 0]], "tensors": []})
    many = json.dumps({"type": "float32", "binary": [[name, [1, 1], 0] for name in names], "tensors": []})
    for data, amount in [
        (with_checksum(pack(empty), layout=numbers, floats=zlib_bomb(4 * MAX_NUMBERS)), MAX_NUMBERS),
        (with_checksum(pack(empty), layout=bits, bits=bytes(weights // 8)), 0),
        (with_checksum(pack(empty), layout=many, bits=bytes(len(names))), 0),
    ]:
        bound = 10 * len(data) + 12 * amount + 128 * int.from_bytes(data[:8], "little")
        assert bound < MAX_MEMORY
        peak, content = peak_memory(unpack, data)
        assert isinstance(content, Content)
        assert peak < bound


def test_a_zlib_bomb_is_not_decompressed():
    data, stream = pack(small_content()), zlib_bomb(1 << 28)
    assert len(stream) < 300_000
    for changes, reason in [
        ({"tensors": [["a", [15]]]}, "its layout has 21 numbers, its data another number"),
        ({"tensors": [["a", [MAX_NUMBERS + 1]]]}, f"numbers; expected at most {MAX_NUMBERS}"),
        ({"tensors": [["a", [2**20]]], "type": "float16"}, "its data another number"),
    ]:
        layout = json.dumps({**json.loads(split_file(data)[0]["__metadata__"]["layout"]), **changes})
        peak, error = peak_memory(unpack, with_checksum(data, layout=layout, floats=stream))
        assert reason in str(error)
        assert peak < 8 << 20


FORGED = ["-1", "0", "1", "7", "8", "255", "65536", str(2**31), str(2**63), "9" * 30, "1" * 5_000, str(MAX_NUMBERS)]
FORGED += ["1.5", "1e400", "NaN", "Infinity", "true", "null", '"1"', "[]", "{}"]
BOMB = zlib_bomb(16 << 20)


def bytes_flipped(data, chance):
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def bits_flipped(data, chance):
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncated(data, chance):
    return data[: chance.randrange(len(data))]


def extended(data, chance):
    offset = chance.choice([len(data), chance.randrange(len(data))])
    return data[:offset] + chance.randbytes(chance.randint(1, 64)) + data[offset:]


def slices_moved(data, chance):
    """Swap, repeat or remove slices."""
    one, two, three, four = sorted(chance.choices(range(len(data) + 1), k=4))
    first, between, second = data[one:two], data[two:three], data[three:four]
    changed = [second + between + first, first + first + between + second, first + between + first, between]
    return data[:one] + chance.choice(changed) + data[four:]


def numbers_forged(text, chance):
    match = chance.choice(list(re.finditer(rb"\d+", text)))
    return text[: match.start()] + chance.choice(FORGED).encode() + text[match.end() :]


def header_forged(data, chance):
    end = 8 + int.from_bytes(data[:8], "little")
    return with_header(numbers_forged(data[8:end], chance)) + data[end:]


def length_forged(data, chance):
    length = chance.choice([chance.getrandbits(64), chance.randrange(len(data) + 9), 2 ** chance.randrange(64)])
    return length.to_bytes(8, "little") + data[8:]


def stream_replaced(stream, chance):
    other = zlib.compress(chance.randbytes(chance.choice([0, 1, 42, 83, 84, 85, 5_000])))
    return chance.choice([BOMB, BOMB[: chance.randrange(len(BOMB))], stream + BOMB, BOMB + stream, other])


def bomb_inside(data, chance):
    stream = split_file(data)[-1]
    return data[: -len(stream)] + stream_replaced(stream, chance)


ANYTHING = [bytes_flipped, bits_flipped, truncated, extended, slices_moved]
OF_FILES = [*ANYTHING, header_forged, length_forged, bomb_inside]
OF_PARTS = {
    "layout": [*ANYTHING, numbers_forged, numbers_forged],
    "labels": ANYTHING,
    "experiment": ANYTHING,
    "bits": ANYTHING,
    "floats": [*ANYTHING, stream_replaced, stream_replaced],
}


def mutant_of_file(data, number, chance):
    return OF_FILES[number % len(OF_FILES)](data, chance)


def mutant_with_checksum(data, number, chance):
    """Change a part that the checksum covers, and update the checksum."""
    header, bits, floats = split_file(data)
    part = (*OF_PARTS, "layout", "layout")[number % (len(OF_PARTS) + 2)]
    change = chance.choice(OF_PARTS[part])
    if part in ("bits", "floats"):
        return with_checksum(data, **{part: change({"bits": bits, "floats": floats}[part], chance)})
    return with_checksum(data, **{part: change(header["__metadata__"][part].encode(), chance).decode(errors="replace")})


@pytest.mark.parametrize(("mutant", "rejected_share"), [(mutant_of_file, 0.9), (mutant_with_checksum, 0.5)])
def test_mutants_are_rejected_or_read_without_other_errors(mutant, rejected_share):
    """Each mutant raises ValueError or gives the original content; with a valid checksum, any content."""
    original, count = small_content(), 5_000
    data, chance = pack(original), random.Random(1)

    def read(number):
        try:
            content = unpack(mutant(data, number, chance))
        except ValueError:
            return None
        assert isinstance(content, Content)
        assert mutant is mutant_with_checksum or same_content(content, original), number
        return content

    def read_all():
        return sum(read(number) is None for number in range(count))

    peak, rejected = peak_memory(read_all)
    assert rejected_share * count < rejected < count  # some mutants are valid
    assert peak < 48 << 20  # three times the zlib bomb of 16 MiB
