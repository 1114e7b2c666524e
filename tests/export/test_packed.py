"""The packed file: what is written is what is read, with TensorFlow and without, and nothing else is ever read."""

import dataclasses
import json
import random
import re
import shutil
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from helpers import ROOT, run_python

from bnn_keras import catalog, resolve
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.export import packed_reader
from bnn_keras.export.freeze import binary_kernels
from bnn_keras.export.job import ExportJob
from bnn_keras.export.packed import convert, load_packed, pack
from bnn_keras.export.packed_reader import (
    MAX_BYTES,
    MAX_MEMORY,
    MAX_NUMBERS,
    Content,
    Kernel,
    digest,
    read_packed,
    unpack,
)
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.models import load_run

DIGITS = [str(digit) for digit in range(10)]
WRN_20_10_MINIMUM = 3_670_720  # bytes: a bit for each binary weight, four bytes for each other number


@pytest.fixture
def network(trained):
    """The trained LeNet-5, as it is exported."""
    experiment, model = load_run(trained)
    return ExportJob(model, experiment, DIGITS)


@pytest.fixture(scope="module")
def lenet5(trained, tmp_path_factory):
    """Its packed file. Read it only."""
    experiment, model = load_run(trained)
    file = tmp_path_factory.mktemp("packed") / "lenet5.safetensors"
    assert not convert(ExportJob(model, experiment, DIGITS), file)
    return file


@pytest.fixture(scope="module")
def digits():
    """A hundred images, and what is fed of them."""
    from bnn_keras.data.mnist_5k import FILE

    with np.load(FILE) as arrays:
        images = arrays["images"][4::50][..., None]
    return images, ((images / 255 - 0.1307) / 0.3081).astype(np.float32)


@pytest.fixture(scope="module")
def document():
    """The blocks of docs/packed-format.md of a kind, in their order."""
    text = (ROOT / "docs" / "packed-format.md").read_text(encoding="utf-8")
    return lambda kind: re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def misfit(tmp_path):
    """Loads a file of this content, whose checksum fits; the one line of the error."""

    def load(content, **changes):
        file = tmp_path / "file.safetensors"
        file.write_bytes(pack(dataclasses.replace(content, **changes)))
        with pytest.raises(BnnError) as error:
            load_packed(file)
        assert "\n" not in str(error.value)
        return str(error.value)

    return load


def same(one, other):
    """Whether two contents are equal, bit for bit."""
    texts = (one.experiment, one.labels, list(one.kernels), list(one.tensors))
    if texts != (other.experiment, other.labels, list(other.kernels), list(other.tensors)):
        return False
    pairs = [(values, other.tensors[name]) for name, values in one.tensors.items()]
    for name, kernel in one.kernels.items():
        pairs += [(kernel.signs, other.kernels[name].signs), (kernel.scales, other.kernels[name].scales)]
    return all(mine.dtype == theirs.dtype and np.array_equal(mine, theirs) for mine, theirs in pairs)


def small():
    """A content of 74 binary weights in three layers and 21 other numbers."""
    values = np.random.default_rng(0)

    def kernel(shape, scales):
        return Kernel(values.choice(np.array([-1, 1], np.int8), shape), values.random(scales, np.float32))

    return Content(
        'name = "small"',
        ["cat", "dög", "🦊"],
        {"conv": kernel((1, 3, 2, 5), 5), "one": kernel((1, 1, 5, 4), 1), "dense": kernel((8, 3), 0)},
        {
            "conv/bias": values.standard_normal(5).astype(np.float32),
            "norm/moving_mean": values.standard_normal((3, 3)).astype(np.float32),
            "norm/steps": np.float32(7).reshape(()),
        },
    )


def parts(data):
    """Header, `bits` and `floats` of a packed file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    blob = data[8 + length :]
    return header, blob[: header["bits"]["shape"][0]], blob[header["bits"]["shape"][0] :]


def sealed(header):
    """A text of JSON as the header of a file."""
    data = header.encode() if isinstance(header, str) else header
    return len(data).to_bytes(8, "little") + data


def signed(data, bits=None, floats=None, **metadata):
    """The file with other tensors and metadata, and a checksum that fits."""
    header, old_bits, old_floats = parts(data)
    bits, floats = old_bits if bits is None else bits, old_floats if floats is None else floats
    metadata = {**header["__metadata__"], **metadata}
    metadata["sha256"] = digest(metadata, bits, floats)
    places = {"bits": (0, len(bits)), "floats": (len(bits), len(bits) + len(floats))}
    tensors = {
        name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for name, (start, end) in places.items()
    }
    return sealed(json.dumps({"__metadata__": metadata, **tensors})) + bits + floats


def layout(data, **changes):
    """The file with another layout, and a checksum that fits."""
    return signed(data, layout=json.dumps({**json.loads(parts(data)[0]["__metadata__"]["layout"]), **changes}))


def bomb(size):
    """A zlib stream of so many zeros."""
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)) + stream.flush()


def peak_of(function, *args):
    """The most memory that a call has at a time, in bytes, and what it gives; a ValueError is one of the things."""
    tracemalloc.start()
    try:
        result = function(*args)
    except ValueError as error:
        result = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, result


def why_not(data):
    """Why these bytes are no packed file, which it takes little memory to find out."""
    peak, error = peak_of(unpack, data)
    assert isinstance(error, ValueError)
    assert peak < 64 << 20
    return str(error)


# --- what is written is what is read ---


def test_the_network_in_a_file_predicts_what_the_trained_one_predicts(network, lenet5, digits):
    experiment, labels, loaded = load_packed(lenet5)
    assert (experiment, labels) == (network.experiment, DIGITS)
    for images in (digits[1], np.random.default_rng(0).standard_normal((50, 28, 28, 1)).astype(np.float32)):
        assert np.array_equal(loaded(images, training=False), network.model(images, training=False))


def test_running_numbers_in_names_do_not_matter(network, lenet5, digits, tmp_path):
    """Keras counts on within a process, and Larq Zoo's layers have no names of their own."""
    content, file = read_packed(lenet5), tmp_path / "counted.safetensors"
    kernels = {f"{name}_12": kernel for name, kernel in content.kernels.items()}
    tensors = {name.replace("/", "_3/"): values for name, values in content.tensors.items()}
    file.write_bytes(pack(dataclasses.replace(content, kernels=kernels, tensors=tensors)))
    _, _, loaded = load_packed(file)
    assert np.array_equal(loaded(digits[1], training=False), network.model(digits[1], training=False))


def test_float16_is_smaller_and_close(network, lenet5, digits, tmp_path):
    file = tmp_path / "half.safetensors"
    convert(dataclasses.replace(network, floats="float16"), file)
    assert file.stat().st_size < 0.9 * lenet5.stat().st_size
    half, full = read_packed(file), read_packed(lenet5)
    for name, values in full.tensors.items():
        assert np.array_equal(half.tensors[name], values.astype(np.float16).astype(np.float32))
    _, _, loaded = load_packed(file)
    expected, found = (model(digits[1], training=False).numpy() for model in (network.model, loaded))
    assert np.median(np.abs(found - expected)) < 0.01 * np.abs(expected).max()
    assert np.mean(found.argmax(-1) == expected.argmax(-1)) >= 0.97


def _networks():
    for name, options in [
        ("lenet5", {}),
        ("resnet20", {}),
        ("vgg_small", {}),
        ("nin", {}),
        ("wrn_20_10", {"dataset": "cifar100"}),
        ("binarynet", {}),
        *(("lenet5", {"scheme": name, "optimizer": "adam"}) for name in catalog.SCHEMES if name != "zoo"),
    ]:
        yield pytest.param(name, options, id="-".join([name, *options.values()]))
    for name in catalog.NETWORKS:
        nightly = [pytest.mark.nightly] if name.startswith("zoo/") and name != "zoo/quicknet" else []
        yield pytest.param(name, {}, marks=nightly or [pytest.mark.slow])


@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize:UserWarning")  # of what Larq Zoo's have
@pytest.mark.parametrize(("name", "options"), list(_networks()))
def test_size_and_outputs_of_a_network(name, options, tmp_path):
    """At most 2 % and 8 KiB more than a bit for each binary weight and four bytes for each other number."""
    experiment = resolve(name, **options).experiment
    model = build_model(experiment)
    images = randomize_weights(model)[:2]
    source = ExportJob(model, experiment, [str(number) for number in range(experiment.data.row.classes)])
    file = tmp_path / "model.safetensors"
    convert(source, file)
    binary, scales = (
        [getattr(kernel, part).size for kernel in source.kernels.values()] for part in ("signs", "scales")
    )
    numbers = sum(variable.shape.num_elements() for variable in model.variables if variable.dtype.is_floating)
    minimum = sum(binary) / 8 + 4 * (numbers - sum(binary) + sum(scales))
    assert file.stat().st_size <= 1.02 * minimum + 8192
    if name == "wrn_20_10":
        assert minimum == WRN_20_10_MINIMUM + 4 * len(scales)  # one scale for each layer
        assert file.stat().st_size < WRN_20_10_MINIMUM
    _, _, loaded = load_packed(file)
    assert np.array_equal(loaded(images, training=False), model(images, training=False))


def test_the_same_content_gives_the_same_bytes_and_is_safetensors():
    data = pack(small())
    assert pack(small()) == data
    assert same(unpack(data), small())
    header, bits, floats = parts(data)
    tensors = safetensors.numpy.load(data)
    assert list(header["__metadata__"]) == ["format", "version", "experiment", "labels", "layout", "sha256"]
    assert (tensors["bits"].tobytes(), tensors["floats"].tobytes()) == (bits, floats)
    assert len(bits) == 4 + 3 + 3


def test_a_network_without_binary_weights_and_one_of_nothing_else():
    for content in (
        dataclasses.replace(small(), kernels={}),
        dataclasses.replace(small(), kernels={"dense": small().kernels["dense"]}, tensors={}),
        Content("", [], {}, {}),
    ):
        for floats in ("float32", "float16"):
            read = unpack(pack(content, floats))
            assert list(read.kernels) == list(content.kernels)
            assert {name: values.shape for name, values in read.tensors.items()} == {
                name: values.shape for name, values in content.tensors.items()
            }


def test_numbers_that_do_not_fit():
    def one(value):
        return Content("", [], {}, {"norm/moving_variance": np.array([1, value], np.float32)})

    with pytest.raises(BnnError, match=r"'norm/moving_variance' has values up to 1e\+06, which float16 cannot hold"):
        pack(one(1e6), "float16")
    with pytest.raises(BnnError, match="'norm/moving_variance' has values that are infinite or no numbers"):
        pack(one(np.nan))
    assert pack(one(1e6))


def test_a_network_too_large_for_a_packed_file(monkeypatch):
    from bnn_keras.export import packed

    for limit, what in {
        "MAX_BYTES": "bytes",
        "MAX_HEADER": "bytes of names and labels",
        "MAX_EXPERIMENT": "characters of its experiment",
        "MAX_NUMBERS": "numbers that are not binary weights",
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(packed, limit, 9)
            with pytest.raises(BnnError, match=rf"has \d+ {what}; expected at most 9: export to saved_model"):
                pack(small())


# --- without TensorFlow, and by the document ---


def test_the_reader_alone(network, lenet5, tmp_path):
    shutil.copy(packed_reader.__file__, tmp_path)
    code = f"""
import sys
import numpy as np
from packed_reader import read_packed
kernels = read_packed({str(lenet5)!r}).kernels
signs = {{f"{{name}} signs": kernel.signs for name, kernel in kernels.items()}}
scales = {{f"{{name}} scales": kernel.scales for name, kernel in kernels.items()}}
np.savez("kernels.npz", **signs, **scales)
assert not {{"tensorflow", "bnn_keras"}} & set(sys.modules)
"""
    run_python(code, cwd=tmp_path)
    kernels = binary_kernels(network.model)
    with np.load(tmp_path / "kernels.npz") as read:
        assert len(read.files) == 2 * len(kernels) == 4
        for name, kernel in kernels.items():
            for part in ("signs", "scales"):
                expected = getattr(kernel, part)
                assert read[f"{name} {part}"].dtype == expected.dtype
                assert np.array_equal(read[f"{name} {part}"], expected)


def test_the_reader_imports_numpy_and_what_python_has():
    imports = re.findall(r"^\s*(?:import|from) (\w+)", Path(packed_reader.__file__).read_text(), re.MULTILINE)
    assert set(imports) - sys.stdlib_module_names == {"numpy"}


def test_lenet5_of_the_document(network, lenet5, digits, document, tmp_path):
    """Its forward pass, from the file alone."""
    shutil.copy(packed_reader.__file__, tmp_path)
    shutil.copy(lenet5, tmp_path)
    images, fed = digits
    np.save(tmp_path / "images.npy", images[::5])
    expected = network.model(fed[::5], training=False).numpy().argmax(-1)
    assert len(set(expected)) > 5
    assert run_python(document("python")[-1], cwd=tmp_path).split() == [str(label) for label in expected]


def test_bytes_of_the_document(document):
    def kernel(signs, scales):
        return Kernel(np.array(signs, np.int8), np.array(scales, np.float32))

    said = eval(document("python")[0], {"Content": Content, "Kernel": kernel})
    said = dataclasses.replace(
        said, tensors={name: np.array(values, np.float32) for name, values in said.tensors.items()}
    )
    length, bits, floats = (bytes.fromhex(block) for block in document("hex"))
    (header,) = document("json")
    data = length + header.replace("\n", "").encode() + bits + floats
    assert same(unpack(data), said)
    again, bits_again, _ = parts(pack(said))
    assert bits_again == bits
    assert again["__metadata__"] | {"sha256": ""} == json.loads(header)["__metadata__"] | {"sha256": ""}
    planes = document("text")[-1].split()
    assert zlib.decompress(floats) == bytes.fromhex("".join(planes))


def test_limits_of_the_document():
    text = (ROOT / "docs" / "packed-format.md").read_text(encoding="utf-8")
    limits = dict(re.findall(r"^\| (?:the|numbers) (\w+)[^|]*\| ([\d,]+(?: MiB)?)[^|]*\|$", text, re.MULTILINE))
    sizes = {name: value.replace(",", "") for name, value in limits.items()}
    sizes = {name: int(value.split()[0]) << (20 if "MiB" in value else 0) for name, value in sizes.items()}
    names = {"file": "MAX_BYTES", "header": "MAX_HEADER", "experiment": "MAX_EXPERIMENT", "in": "MAX_NUMBERS"}
    assert sizes == {name: getattr(packed_reader, limit) for name, limit in names.items()}


# --- what is no packed file ---


def test_files_that_are_none(lenet5, tmp_path):
    data = lenet5.read_bytes()
    middle = len(data) // 2
    for name, content, reason in [
        ("empty", b"", "its header is said to have 0 bytes, the file has 0"),
        ("cut", data[:middle], "."),
        ("cut_by_one", data[:-1], "its two tensors are not where they belong"),
        ("longer", data + b"\0", "its two tensors are not where they belong"),
        ("flipped", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "its checksum does not fit"),
        ("forged", b"\xff" * 8 + data[8:], r"its header is said to have 18446744073709551615 bytes"),
        ("other", safetensors.numpy.save({"bits": np.zeros(3, np.uint8)}), "not laid out as a packed file"),
        ("strange", safetensors.numpy.save({"bits": np.zeros(3)}, {"format": "pt"}), "."),
        ("text", b"bnn-keras packed", "."),
        ("later", signed(data, version="2"), "format bnn-keras packed, version 2; known: bnn-keras packed, version 1"),
    ]:
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(
            BnnError, match=rf"cannot read .*{name}' as a packed file \(.*{reason}.*\); get it anew, or write it with"
        ):
            load_packed(file)


def test_no_file(tmp_path):
    with pytest.raises(BnnError, match=r"cannot read .*nothing' as a packed file \(No such file or directory\)"):
        load_packed(tmp_path / "nothing")
    with pytest.raises(BnnError, match=r"as a packed file \(Is a directory\)"):
        load_packed(tmp_path)


def test_a_file_too_large_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(1 << 40)
    peak, error = peak_of(read_packed, tmp_path / "large")
    assert str(error) == f"{1 << 40} bytes; a packed file has at most {MAX_BYTES}"
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "float64"}, "KeyError: 'float64'"),
        ({"type": []}, "unhashable"),
        ({"binary": None}, "TypeError"),
        ({"binary": {"ab": 1}}, "not enough values"),
        ({"binary": [["conv", [1, 3, 2, 5], 5, 0]]}, "too many values"),
        ({"tensors": [["conv/bias", [5]], ["conv/bias", [12]]]}, "a name in its layout stands there twice"),
        ({"binary": [["a", [5, 8], 0], ["a", [5, 8], 0]]}, "a name in its layout stands there twice"),
        ({"tensors": [[7, [15]]]}, "or is no text"),
        ({"tensors": [["a", [-15]]]}, "too small, too large or no number"),
        ({"tensors": [["a", [-3, -5]]]}, "too small, too large or no number"),
        ({"tensors": [["a", [0]]]}, "too small, too large or no number"),
        ({"tensors": [["a", [15.0]]]}, "too small, too large or no number"),
        ({"tensors": [["a", [float("nan")]]]}, "too small, too large or no number"),
        ({"tensors": [["a", [True] * 4]]}, "too small, too large or no number"),
        ({"tensors": [["a", [10**4000]]]}, "too small, too large or no number"),
        ({"tensors": [["a", "15"]]}, "another number of sizes"),
        ({"tensors": [["a", {"15": 15}]]}, "another number of sizes"),
        ({"tensors": [["a", [1] * 100_000]]}, "another number of sizes"),
        ({"binary": [["a", [80], 0]]}, "another number of sizes"),
        ({"binary": [["a", [10, 8], 3]]}, "neither no scale, nor one, nor one for each filter"),
        ({"binary": [["a", [10, 8], -1]]}, "too small, too large or no number"),
        ({"binary": [["a", [2**29, 2**29], 0]]}, "another number of binary weights"),
        ({"binary": [["a", [10, 9], 0]]}, "another number of binary weights"),
        ({"tensors": [["a", [16]]]}, "another number"),
        ({"tensors": [["a", [14]]]}, "another number"),
        ({"tensors": [["a", [MAX_NUMBERS]]]}, f"a packed file has at most {MAX_NUMBERS}"),
        ({"tensors": [["a", [2**29] * 4]]}, f"a packed file has at most {MAX_NUMBERS}"),
    ],
)
def test_layouts_that_are_none(changes, reason):
    assert reason in why_not(layout(pack(small()), **changes))


def test_metadata_that_is_none():
    data = pack(small())
    deep = "[" * 200_000
    for changes, reason in [
        ({"labels": '["a", 1]'}, "its labels are no list of texts"),
        ({"labels": '{"a": 1}'}, "its labels are no list of texts"),
        ({"labels": "[NaN]"}, "its labels are no list of texts"),
        ({"labels": deep}, "RecursionError"),
        ({"layout": deep}, "RecursionError"),
        ({"layout": '{"type":' * 100_000}, "RecursionError"),
        ({"layout": "7"}, "TypeError"),
        ({"layout": ""}, "Expecting value"),
        ({"experiment": "#" * 20_000}, "its experiment has more than 16384 characters"),
        ({"format": "x" * 1000}, f"format {'x' * 40}, version 1;"),
    ]:
        assert reason in why_not(signed(data, **changes))
    assert same(unpack(signed(data, more="[" * 100_000)), small())


def test_headers_that_are_none():
    header, bits, floats = parts(pack(small()))
    tensors = {name: header[name] for name in ("bits", "floats")}
    metadata = header["__metadata__"]
    without = {key: value for key, value in metadata.items() if key != "sha256"}
    for text, reason in [
        ("[" * 200_000, "RecursionError"),
        ("NaN", "AttributeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: '__metadata__'"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": []}}), "IndexError"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": [float("nan")]}}), "no number"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": [2**70]}}), "too large"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": [len(bits + floats) + 1]}}), "too small"),
        (json.dumps({**header, "bits": {**tensors["bits"], "shape": ["9" * 5000]}}), "no number"),
        (json.dumps({**header, "bits": {**tensors["bits"], "dtype": "I8"}}), "not where they belong"),
        (json.dumps({**header, "more": tensors["bits"]}), "not where they belong"),
        (json.dumps({**header, "__metadata__": without}), "KeyError: 'sha256'"),
        (json.dumps({**header, "__metadata__": {**metadata, "labels": 7}}), "AttributeError"),
        (json.dumps({**header, "__metadata__": {**metadata, "labels": "\ud800"}}), "surrogates not allowed"),
        ('{"__metadata__": ' + "1" * 5000 + "}", "4300 digits"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
    ]:
        assert reason in why_not(sealed(text) + bits + floats)


# --- networks that are not those of their experiments ---


def test_another_network_than_the_experiments(lenet5, misfit):
    content = read_packed(lenet5)
    kernels, tensors = content.kernels, content.tensors
    name, first = next(iter(kernels.items()))
    turned = Kernel(first.signs.transpose(3, 1, 2, 0), first.scales[:0])
    bias = {"ip2/bias": np.zeros(9, np.float32)}
    for changes, reason in [
        ({"labels": DIGITS[:9]}, "it has 9 labels for 10 classes"),
        ({"kernels": {f"{key}x": value for key, value in kernels.items()}}, "its binary layers are others"),
        ({"kernels": {**kernels, name: turned}}, "its binary layers are others"),
        ({"kernels": {name: first}}, "larger network than it holds"),
        ({"tensors": {**tensors, "more/bias": np.zeros(3, np.float32)}}, "its tensors are others"),
        ({"tensors": {**tensors, **bias}}, "its tensors are others"),
        ({"experiment": content.experiment.replace('name = "lenet5"', 'name = "nin"')}, "larger network than it holds"),
    ]:
        message = misfit(content, **changes)
        assert reason in message
        assert message.endswith("write it anew with `bnnk export`")


def test_experiments_that_are_none(lenet5, misfit):
    content = read_packed(lenet5)
    data = '[data]\nname = "{}"\nshape = [{}, {}, 1]\nclasses = {}'
    known = re.search(r'\[data\]\nname = "\w+"', content.experiment).group()
    for text, reason in [
        ("", r"experiment in '.*': network: missing"),
        ("x = " + "[" * 10_000, "not TOML: maximum recursion depth exceeded"),
        ("x" + ".x" * 8_000 + " = 1", "x: unknown key"),
        ("[network]\nname = []", "network.name: got \\[\\]; expected a valid string"),
        ("seed = " + "1" * 5_000, "not TOML: exceeds the limit"),
        (content.experiment.replace(known, data.format("x", 10**18, 10**18, 10)), "describes no network"),
        (content.experiment.replace(known, data.format("x", 10**30, 28, 10)), "describes no network"),
        (content.experiment.replace(known, data.format("x", 28, 28, 10**12)), "larger network than it holds"),
        (content.experiment.replace(known, data.format("x", 10**5, 10**5, 10)), "larger network than it holds"),
    ]:
        assert re.search(reason, misfit(content, experiment=text))


@pytest.mark.parametrize("change", ["width = 64.0", "width = 1e300", "depth = 100000000004"])
def test_an_experiment_of_a_larger_network_takes_no_memory(change, tmp_path, misfit):
    experiment = resolve("wrn_20_1").experiment
    file = tmp_path / "wrn_20_1.safetensors"
    model = build_model(experiment)
    convert(ExportJob(model, experiment, DIGITS), file)
    content = read_packed(file)
    text = re.sub(rf"^{change.split()[0]} = .*$", change, content.experiment, flags=re.MULTILINE)
    assert change in text
    sizes = []

    def watch(create, **kwargs):
        sizes.append(tf.TensorShape(kwargs["shape"]).num_elements())
        return create(**kwargs)

    with tf.variable_creator_scope(watch):
        assert "its experiment describes a larger network than it holds" in misfit(content, experiment=text)
    assert sum(sizes) <= 2 * model.count_params() + 100
    assert len(sizes) <= 3 * len(model.weights)


# --- memory ---


def test_memory_stays_under_its_bound():
    """The worst of each kind: numbers, binary weights, names."""
    weights, names = 8 << 20, [f"{number:x}" for number in range(20_000)]
    empty = dataclasses.replace(small(), kernels={}, tensors={})
    numbers = json.dumps({"type": "float32", "binary": [], "tensors": [["a", [MAX_NUMBERS]]]})
    bits = json.dumps({"type": "float32", "binary": [["a", [weights // 8, 8], 0]], "tensors": []})
    many = json.dumps({"type": "float32", "binary": [[name, [1, 1], 0] for name in names], "tensors": []})
    for data, amount in [
        (signed(pack(empty), layout=numbers, floats=bomb(4 * MAX_NUMBERS)), MAX_NUMBERS),
        (signed(pack(empty), layout=bits, bits=bytes(weights // 8)), 0),
        (signed(pack(empty), layout=many, bits=bytes(len(names))), 0),
    ]:
        bound = 10 * len(data) + 12 * amount + 128 * int.from_bytes(data[:8], "little")
        assert bound < MAX_MEMORY
        peak, content = peak_of(unpack, data)
        assert isinstance(content, Content)
        assert peak < bound


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ({"tensors": [["a", [15]]]}, "its layout has 21 numbers, the file another number"),
        ({"tensors": [["a", [MAX_NUMBERS + 1]]]}, f"a packed file has at most {MAX_NUMBERS}"),
        ({"tensors": [["a", [2**20]]], "type": "float16"}, "the file another number"),
    ],
)
def test_a_zlib_bomb_is_not_unpacked(layout, reason):
    data = pack(small())
    text = json.dumps({**json.loads(parts(data)[0]["__metadata__"]["layout"]), **layout})
    stream = bomb(1 << 28)
    assert len(stream) < 300_000
    peak, error = peak_of(unpack, signed(data, layout=text, floats=stream))
    assert reason in str(error)
    assert peak < 8 << 20


# --- fuzz ---

FORGED = ["-1", "0", "1", "7", "8", "255", "65536", str(2**31), str(2**63), "9" * 30, "1" * 5_000, str(MAX_NUMBERS)]
FORGED += ["1.5", "1e400", "NaN", "Infinity", "true", "null", '"1"', "[]", "{}"]
BOMB = bomb(16 << 20)


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
    place = chance.choice([len(data), chance.randrange(len(data))])
    return data[:place] + chance.randbytes(chance.randint(1, 64)) + data[place:]


def slices_moved(data, chance):
    """Two slices swapped, doubled or taken out."""
    one, two, three, four = sorted(chance.choices(range(len(data) + 1), k=4))
    first, between, second = data[one:two], data[two:three], data[three:four]
    changed = [second + between + first, first + first + between + second, first + between + first, between]
    return data[:one] + chance.choice(changed) + data[four:]


def numbers_forged(text, chance):
    place = chance.choice(list(re.finditer(rb"\d+", text)))
    return text[: place.start()] + chance.choice(FORGED).encode() + text[place.end() :]


def header_forged(data, chance):
    end = 8 + int.from_bytes(data[:8], "little")
    return sealed(numbers_forged(data[8:end], chance)) + data[end:]


def length_forged(data, chance):
    length = chance.choice([chance.getrandbits(64), chance.randrange(len(data) + 9), 2 ** chance.randrange(64)])
    return length.to_bytes(8, "little") + data[8:]


def stream_replaced(stream, chance):
    other = zlib.compress(chance.randbytes(chance.choice([0, 1, 42, 83, 84, 85, 5_000])))
    return chance.choice([BOMB, BOMB[: chance.randrange(len(BOMB))], stream + BOMB, BOMB + stream, other])


def bomb_inside(data, chance):
    stream = parts(data)[-1]
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
    """What stands behind the checksum, changed, so that the checksum does not tell."""
    header, bits, floats = parts(data)
    part = (*OF_PARTS, "layout", "layout")[number % (len(OF_PARTS) + 2)]
    change = chance.choice(OF_PARTS[part])
    if part in ("bits", "floats"):
        return signed(data, **{part: change({"bits": bits, "floats": floats}[part], chance)})
    return signed(data, **{part: change(header["__metadata__"][part].encode(), chance).decode(errors="replace")})


@pytest.mark.parametrize(("mutant", "least"), [(mutant_of_file, 4_500), (mutant_with_checksum, 2_500)])
def test_5000_mutants(mutant, least):
    """Each is refused with one kind of error, or is what the file was; behind a checksum that fits, anything."""
    data, original, chance = pack(small()), small(), random.Random(1)

    def read(number):
        try:
            content = unpack(mutant(data, number, chance))
        except ValueError:
            return None
        assert isinstance(content, Content)
        assert mutant is mutant_with_checksum or same(content, original), number
        return content

    def read_all():
        return sum(read(number) is None for number in range(5_000))

    peak, refused = peak_of(read_all)
    assert least < refused < 5_000  # some are equal, or as good
    assert peak < 48 << 20  # none holds more than a bomb of 16 MiB
