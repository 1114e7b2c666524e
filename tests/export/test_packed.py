"""Write packed files and load them: predictions are equal bit for bit, and inconsistent files are rejected."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from helpers import run_python
from packed_files import document_blocks, small_content, with_checksum

from bnn_keras import catalog, packed_reader, resolve
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.export import packed
from bnn_keras.export.freeze import binary_kernels
from bnn_keras.export.job import ExportJob
from bnn_keras.export.packed import convert, load_packed, pack
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.models import load_run
from bnn_keras.packed_reader import Content, Kernel, read_packed

DIGITS = [str(digit) for digit in range(10)]
WRN_20_10_MINIMUM = 3_670_720  # bytes: a bit for each binary weight, four bytes for each other number


@pytest.fixture
def job(trained):
    """The export job of the trained LeNet-5."""
    experiment, model = load_run(trained)
    return ExportJob(model, experiment, DIGITS)


@pytest.fixture(scope="module")
def lenet5(trained, tmp_path_factory):
    """The packed file of the trained LeNet-5. Read it only."""
    experiment, model = load_run(trained)
    file = tmp_path_factory.mktemp("packed") / "lenet5.safetensors"
    assert not convert(ExportJob(model, experiment, DIGITS), file).stored
    return file


@pytest.fixture(scope="module")
def digits():
    """A hundred images, as pixels and normalised."""
    from bnn_keras.data.mnist_5k import FILE

    with np.load(FILE) as arrays:
        images = arrays["images"][4::50][..., None]
    return images, ((images / 255 - 0.1307) / 0.3081).astype(np.float32)


def load_error(folder, content, **changes):
    """Return the one-line error of loading a file of changed content, whose checksum is valid."""
    file = folder / "file.safetensors"
    file.write_bytes(pack(dataclasses.replace(content, **changes)))
    with pytest.raises(BnnError) as error:
        load_packed(file)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_loaded_network_predicts_bit_for_bit_what_the_trained_one_predicts(job, lenet5, digits):
    experiment, labels, loaded = load_packed(lenet5)
    assert (experiment, labels) == (job.experiment, DIGITS)
    for images in (digits[1], np.random.default_rng(0).standard_normal((50, 28, 28, 1)).astype(np.float32)):
        assert np.array_equal(loaded(images, training=False), job.model(images, training=False))


def test_running_numbers_in_layer_names_are_ignored(job, lenet5, digits, tmp_path):
    """Keras numbers the unnamed layers of Larq Zoo's networks across models of a process."""
    content, file = read_packed(lenet5), tmp_path / "counted.safetensors"
    kernels = {f"{name}_12": kernel for name, kernel in content.kernels.items()}
    tensors = {name.replace("/", "_3/"): values for name, values in content.tensors.items()}
    file.write_bytes(pack(dataclasses.replace(content, kernels=kernels, tensors=tensors)))
    _, _, loaded = load_packed(file)
    assert np.array_equal(loaded(digits[1], training=False), job.model(digits[1], training=False))


def test_float16_files_are_smaller_and_close(job, lenet5, digits, tmp_path):
    file = tmp_path / "half.safetensors"
    convert(dataclasses.replace(job, floats="float16"), file)
    assert file.stat().st_size < 0.9 * lenet5.stat().st_size
    half, full = read_packed(file), read_packed(lenet5)
    for name, values in full.tensors.items():
        assert np.array_equal(half.tensors[name], values.astype(np.float16).astype(np.float32))
    _, _, loaded = load_packed(file)
    expected, actual = (model(digits[1], training=False).numpy() for model in (job.model, loaded))
    assert np.median(np.abs(actual - expected)) < 0.01 * np.abs(expected).max()
    assert np.mean(actual.argmax(-1) == expected.argmax(-1)) >= 0.97


# A network of each kind of layer: dense layers, residual blocks, depthwise convolutions. The others are nightly.
SLOW = ("binary_alexnet", "birealnet18", "vgg_small", "nin", "resnet20", "zoo/quicknet")


def _networks():
    """Yield all networks, LeNet-5 with each scheme."""
    for scheme in catalog.SCHEMES:
        if scheme != "zoo":
            yield pytest.param("lenet5", {"scheme": scheme, "optimizer": "adam"}, id=f"lenet5-{scheme}")
    yield pytest.param("wrn_20_10", {"dataset": "cifar100"}, id="wrn_20_10-cifar100", marks=pytest.mark.slow)
    for name in catalog.NETWORKS:
        if name == "torchvision_resnet34":
            continue  # in float it has more than the 64 MiB of a packed file
        mark = pytest.mark.slow if name in SLOW else pytest.mark.nightly
        yield pytest.param(name, {}, id=name, marks=mark)


@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize:UserWarning")  # of what Larq Zoo's have
@pytest.mark.parametrize(("name", "options"), list(_networks()))
def test_size_is_near_the_minimum_and_outputs_are_equal(name, options, tmp_path):
    """The minimum is a bit per binary weight and four bytes per other number; 2 % and 8 KiB are allowed on top."""
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


def test_numbers_out_of_range_are_rejected():
    def content(value):
        return Content("", [], {}, {"norm/moving_variance": np.array([1, value], np.float32)})

    with pytest.raises(BnnError, match=r"'norm/moving_variance' has values up to 1e\+06, which float16 cannot hold"):
        pack(content(1e6), "float16")
    with pytest.raises(BnnError, match="'norm/moving_variance' has infinite or NaN values"):
        pack(content(np.nan))
    assert pack(content(1e6))


def test_a_network_over_a_limit_is_rejected(monkeypatch):
    for limit, what in {
        "MAX_BYTES": "bytes",
        "MAX_HEADER": r"bytes of header \(names and labels\)",
        "MAX_EXPERIMENT": "characters of experiment",
        "MAX_NUMBERS": "numbers that are not binary weights",
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(packed, limit, 9)
            with pytest.raises(BnnError, match=rf"would have \d+ {what}; expected at most 9: use another format"):
                pack(small_content())


def test_a_copy_of_the_reader_works_without_this_package(job, lenet5, tmp_path):
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
    kernels = binary_kernels(job.model)
    with np.load(tmp_path / "kernels.npz") as read:
        assert len(read.files) == 2 * len(kernels) == 4
        for name, kernel in kernels.items():
            for part in ("signs", "scales"):
                expected = getattr(kernel, part)
                assert read[f"{name} {part}"].dtype == expected.dtype
                assert np.array_equal(read[f"{name} {part}"], expected)


def test_forward_pass_of_the_document(job, lenet5, digits, tmp_path):
    """The document computes LeNet-5 with a copy of the reader and NumPy."""
    shutil.copy(packed_reader.__file__, tmp_path)
    shutil.copy(lenet5, tmp_path)
    images, fed = digits
    np.save(tmp_path / "images.npy", images[::5])
    expected = job.model(fed[::5], training=False).numpy().argmax(-1)
    assert len(set(expected)) > 5
    assert run_python(document_blocks("python")[-1], cwd=tmp_path).split() == [str(label) for label in expected]


def test_a_damaged_or_foreign_file_is_one_error(lenet5, tmp_path):
    data = lenet5.read_bytes()
    middle = len(data) // 2
    for name, content, reason in [
        ("empty", b"", "its header should have 0 bytes, but the file has 0"),
        ("cut", data[:middle], "."),
        ("cut_by_one", data[:-1], "its tensors do not have the expected"),
        ("longer", data + b"\0", "its tensors do not have the expected"),
        ("flipped", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "its checksum does not match"),
        ("forged", b"\xff" * 8 + data[8:], r"its header should have 18446744073709551615 bytes"),
        ("other", safetensors.numpy.save({"bits": np.zeros(3, np.uint8)}), "not a packed file"),
        ("strange", safetensors.numpy.save({"bits": np.zeros(3)}, {"format": "pt"}), "."),
        ("text", b"bnn-keras packed", "."),
        (
            "later",
            with_checksum(data, version="4"),
            "format bnn-keras packed, version 4; expected bnn-keras packed, version 1 or 2 or 3",
        ),
    ]:
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(
            BnnError,
            match=rf"cannot read .*{name}' as a packed file \(.*{reason}.*\); get a new copy, or write it again with",
        ):
            load_packed(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(BnnError, match=r"cannot read .*nothing' as a packed file \(No such file or directory\)"):
        load_packed(tmp_path / "nothing")
    with pytest.raises(BnnError, match=r"as a packed file \(Is a directory\)"):
        load_packed(tmp_path)


def test_weights_that_do_not_match_the_experiment_are_rejected(lenet5, tmp_path):
    content = read_packed(lenet5)
    kernels, tensors = content.kernels, content.tensors
    name, first = next(iter(kernels.items()))
    transposed = Kernel(first.signs.transpose(3, 1, 2, 0), first.scales[:0])
    bias = {"ip2/bias": np.zeros(9, np.float32)}
    for changes, reason in [
        ({"labels": DIGITS[:9]}, "it has 9 labels for 10 classes"),
        ({"kernels": {f"{key}x": value for key, value in kernels.items()}}, "its binary layers differ"),
        ({"kernels": {**kernels, name: transposed}}, "its binary layers differ"),
        ({"kernels": {name: first}}, "larger network than it holds"),
        ({"tensors": {**tensors, "more/bias": np.zeros(3, np.float32)}}, "its tensors differ"),
        ({"tensors": {**tensors, **bias}}, "its tensors differ"),
        ({"experiment": content.experiment.replace('name = "lenet5"', 'name = "nin"')}, "larger network than it holds"),
    ]:
        message = load_error(tmp_path, content, **changes)
        assert reason in message
        assert message.endswith("write it again with `bnnk export`")


def test_an_invalid_experiment_is_rejected(lenet5, tmp_path):
    content = read_packed(lenet5)
    data = '[data]\nname = "{}"\nshape = [{}, {}, 1]\nclasses = {}'
    known = re.search(r'\[data\]\nname = "\w+"', content.experiment).group()
    for text, reason in [
        ("", r"experiment in '.*': network: missing"),
        ("x = " + "[" * 10_000, "not TOML: maximum recursion depth exceeded"),
        ("x" + ".x" * 8_000 + " = 1", "x: unknown key"),
        ("[network]\nname = []", "network.name: got \\[\\]; expected a valid string"),
        ("seed = " + "1" * 5_000, "not TOML: exceeds the limit"),
        (content.experiment.replace(known, data.format("x", 10**18, 10**18, 10)), "does not describe a network"),
        (content.experiment.replace(known, data.format("x", 10**30, 28, 10)), "does not describe a network"),
        (content.experiment.replace(known, data.format("x", 28, 28, 10**12)), "larger network than it holds"),
        (content.experiment.replace(known, data.format("x", 10**5, 10**5, 10)), "larger network than it holds"),
    ]:
        assert re.search(reason, load_error(tmp_path, content, experiment=text))


@pytest.mark.parametrize(
    "change",
    [
        "width = 64.0",
        *(pytest.param(text, marks=pytest.mark.slow) for text in ("width = 1e300", "depth = 100000000004")),
    ],
)
def test_an_experiment_of_a_larger_network_is_rejected_before_it_is_built(change, tmp_path):
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
        assert "its experiment describes a larger network than it holds" in load_error(
            tmp_path, content, experiment=text
        )
    assert sum(sizes) <= 2 * model.count_params() + 100
    assert len(sizes) <= 3 * len(model.weights)
