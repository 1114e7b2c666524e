"""Architectures in packed files: networks survive the round trip, and no other class or function can be named."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
from packed_files import split_file, with_checksum

from bnn_keras import binarize
from bnn_keras.errors import BnnError
from bnn_keras.export import architecture
from bnn_keras.export.architecture import FUNCTIONS, LAYERS, build, describe
from bnn_keras.export.freeze import freeze
from bnn_keras.export.job import ExportJob
from bnn_keras.export.packed import convert, load_packed, read
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.packed_reader import MAX_ARCHITECTURE

layers = tf.keras.layers


def network(scheme="reactnet", bits="1/1"):
    """Return a binarized network with many kinds of layers."""
    x = images = tf.keras.Input((12, 12, 3), name="images")
    x = layers.Rescaling(1 / 2, name="rescaling")(x)
    x = layers.Conv2D(8, 3, activation="swish", name="first")(x)
    y = layers.Conv2D(8, 3, padding="same", dilation_rate=2, name="conv")(x)
    x = layers.Maximum(name="maximum")([x, layers.BatchNormalization(name="norm")(y)])
    x = layers.Concatenate(name="join")([x, layers.LeakyReLU(0.1, name="leaky")(x)])
    x = layers.DepthwiseConv2D(3, strides=2, name="depthwise")(layers.ZeroPadding2D(((0, 1), (1, 0)), name="pad")(x))
    x = layers.ReLU(6.0, name="relu6")(x)
    x = layers.Conv2D(8, 1, use_bias=False, name="pointwise")(x)
    shared = layers.Dense(4, activation="tanh", name="shared")
    x = layers.Flatten(name="flatten")(layers.AveragePooling2D(name="pool")(x))
    x = layers.Add(name="add")([shared(x), shared(layers.Dense(x.shape[-1], name="dense")(x))])
    return binarize(tf.keras.Model(images, layers.Dense(5, name="logits")(x), name="mine"), scheme, bits, verbose=False)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("reactnet", "1/1"), ("irnet", "32/1"), pytest.param("bireal", "1/32", marks=pytest.mark.slow)],
)
def test_a_network_survives_the_round_trip(scheme, bits, tmp_path):
    model, file = network(scheme, bits), tmp_path / "mine.safetensors"
    images = randomize_weights(model)
    assert not convert(ExportJob(model, None, list("abcde")), file).stored
    assert read(file).experiment == ""
    experiment, labels, loaded = load_packed(file)
    assert (experiment, labels) == (None, list("abcde"))
    assert np.array_equal(loaded(images, training=False), model(images, training=False))
    assert describe(loaded) == read(file).architecture


def test_an_architecture_has_arguments_that_differ_from_the_defaults():
    text = describe(freeze(network("binarynet")))
    content = json.loads(text)
    assert (content["name"], content["input"]) == ("mine", [12, 12, 3])
    arguments = {arguments["name"]: (name, arguments) for name, arguments in content["layers"]}
    expected = {"name": "first", "filters": 8, "kernel_size": [3, 3], "activation": "swish"}
    assert arguments["first"] == ("Conv2D", expected)
    name, conv = arguments["conv"]
    assert (name, conv["input_quantizer"]) == ("FrozenConv2D", ["SteSign", {}])
    assert describe(freeze(network("binarynet"))) == text


@pytest.mark.nightly
def test_networks_of_keras_can_be_described():
    model = tf.keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=3)
    frozen = freeze(binarize(model, "bireal", verbose=False))
    text = describe(frozen)
    assert len(text) < MAX_ARCHITECTURE / 8
    assert build(text).count_params() == frozen.count_params()


def test_layers_outside_of_the_tables_are_one_error():
    x = tf.keras.Input((4,))
    y = layers.Lambda(lambda x: x, name="code")(layers.Dense(2, activation=lambda x: x, name="own")(x))
    with pytest.raises(BnnError, match=r"cannot describe network 'm': own \(activation <lambda>\), code \(Lambda\)"):
        describe(tf.keras.Model(x, y, name="m"))
    with pytest.raises(
        BnnError, match=r"tf.math.multiply.* \(TFOpLambda\); replace such layers, or use another format"
    ):
        describe(tf.keras.Model(x, 2 * x))


def test_no_class_or_function_of_the_tables_runs_code_of_a_file():
    names = {*LAYERS, *architecture.QUANTIZERS, *FUNCTIONS}
    assert not [name for name in names if any(word in name.lower() for word in ("lambda", "wrapper", "rnn", "model"))]


GOOD = {"name": "m", "input": [4], "layers": [["Dense", {"name": "a", "units": 2}]], "calls": [[0, 0]]}


def _changed(**changes):
    return json.dumps({**GOOD, **changes})


def _dense(**arguments):
    return _changed(layers=[["Dense", {"name": "a", "units": 2, **arguments}]])


INVALID = [
    ("", "Expecting value"),
    ("[" * 100_000, "RecursionError"),
    ("[]", "TypeError"),
    ("{}", "KeyError: 'name'"),
    (_changed(name=["m"]), "expected a text"),
    (_changed(input=[0]), "is not an integer from 1"),
    (_changed(input=[2**40]), "is not an integer from 1"),
    (_changed(input=[1] * 100), "a list of at most 16 items"),
    (_changed(input=4), "a list of at most 16 items"),
    (_changed(calls=[]), "expected 1 to 4096"),
    (_changed(calls=[[0, 0]] * 5000), "5000 calls of 1 layers"),
    (_changed(calls=[[1, 0]]), "call 1: index 1 is not an integer from 0 to 0"),
    (_changed(calls=[[0, 1]]), "call 1: index 1 is not an integer from 0 to 0"),
    (_changed(calls=[[0, -1]]), "call 1: index -1"),
    (_changed(calls=[[0, True]]), "call 1: index True"),
    (_changed(calls=[[0, [[0]]]]), r"call 1: index \[0\]"),
    (_changed(calls=[7]), "call 1: "),
    (
        _changed(layers=[["Lambda", {"name": "a", "function": ["4wEAAA==", None, None]}]]),
        "layer 0: unknown class 'Lambda'",
    ),
    (_changed(layers=[["TFOpLambda", {"function": "io.write_file"}]]), "layer 0: unknown class 'TFOpLambda'"),
    (_changed(layers=[["Functional", {}]]), "layer 0: unknown class 'Functional'"),
    (_changed(layers=[[["Dense"], {}]]), "layer 0: unknown class"),
    (_changed(layers=[["Dense", []]]), "layer 0: its arguments are not an object"),
    (_changed(layers=[["Dense"]]), "layer 0: not enough values"),
    (_changed(layers=[["Dense", {"name": "a"}]]), "layer 0: .*units"),
    (_dense(more=1), "layer 0: .*more"),
    (_dense(units=-1), "layer 0: "),
    (_dense(units=2**40), "is not a plain value"),
    (_dense(units=float("inf")), "is not a plain value"),
    (_dense(activation="print"), "unknown activation 'print'"),
    (_dense(activation={"class_name": "function", "config": "print", "module": "builtins"}), "unknown activation"),
    (_dense(kernel_initializer={"module": "os", "class_name": "system", "config": {}}), "is not a plain value"),
    (_dense(kernel_constraint=[[[1]]]), "is not a plain value"),
    (
        _changed(layers=[["FrozenDense", {"name": "a", "units": 2, "input_quantizer": ["NoOp", {}]}]]),
        "unknown class 'NoOp'",
    ),
    (_changed(layers=[["FrozenDense", {"name": "a", "units": 2, "kernel_quantizer": "x" * 300}]]), "at most 256 char"),
    (_changed(layers=[["UpSampling2D", {"size": [2**20, 2**20]}]], input=[2, 2, 1]), "call 1: its output has shape"),
    (_changed(layers=[["Dense", {"name": "a", "units": 2}]] * 2, calls=[[0, 0], [1, 1]]), "not a network"),
]


@pytest.mark.parametrize(("text", "reason"), INVALID)
def test_an_invalid_architecture_is_rejected(text, reason):
    with pytest.raises(ValueError, match=reason):
        build(text)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A packed file with an architecture. Read it only."""
    path = tmp_path_factory.mktemp("packed") / "mine.safetensors"
    convert(ExportJob(network(), None, list("abcde")), path)
    return path


def _error(data, folder):
    (folder / "file.safetensors").write_bytes(data)
    with pytest.raises(BnnError) as error:
        load_packed(folder / "file.safetensors")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_with_another_architecture_is_rejected(file, tmp_path):
    data, text = file.read_bytes(), read(file).architecture
    metadata = split_file(data)[0]["__metadata__"]
    assert (metadata["version"], metadata["architecture"], "experiment" in metadata) == ("2", text, False)
    for changes, reason in [
        (
            {"architecture": "{}"},
            "its architecture does not describe a network: not an architecture (KeyError: 'name')",
        ),
        ({"architecture": text.replace('"filters":8', '"filters":80')}, "describes a larger network than it holds"),
        ({"architecture": text.replace('"units":5', '"units":500')}, "describes a larger network than it holds"),
        ({"architecture": text.replace('"FrozenConv2D"', '"Conv2D"')}, "does not describe a network"),
        ({"architecture": text.replace('"pointwise"', '"other"')}, "its binary layers differ from those of its archi"),
        ({"architecture": text.replace('"first"', '"other"')}, "its tensors differ from those of its architecture"),
        (
            {"architecture": " " * (MAX_ARCHITECTURE + 1)},
            f"its architecture has more than {MAX_ARCHITECTURE} characters",
        ),
        ({"labels": '["a"]'}, "it has 1 labels for 5 classes"),
    ]:
        assert reason in _error(with_checksum(data, **changes), tmp_path), changes
    without = {"version": "1", "experiment": ""}
    assert "experiment in" in _error(with_checksum(data, **without), tmp_path)
    assert "its checksum does not match" in _error(data.replace(b"leaky", b"shaky"), tmp_path)


def _mutated(value, chance):
    """Return JSON with a random change at a random place."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.9:
        copy = value.copy()
        key = chance.choice(list(copy)) if isinstance(copy, dict) else chance.randrange(len(copy))
        if chance.random() < 0.1:
            del copy[key]
        else:
            copy[key] = _mutated(copy[key], chance)
        return copy
    return chance.choice(
        [None, True, 0, -1, 3, 2**31, 2**70, 0.5, "", "relu", "Dense", "x" * 999, [], {}, [1, 2], [[0]]]
    )


@pytest.mark.slow
def test_random_changes_give_one_error_or_a_network():
    """Every error is a ValueError, which `load_packed` reports in one line."""
    chance, rejected = random.Random(0), 0
    x = tf.keras.Input((4, 4, 1))
    y = layers.Dense(2, name="logits")(layers.Flatten(name="flatten")(layers.Conv2D(2, 2, name="conv")(x)))
    content = json.loads(describe(tf.keras.Model(x, y, name="m")))
    for _ in range(40):
        try:
            assert build(json.dumps(_mutated(content, chance))).output_shape[0] is None
        except ValueError:
            rejected += 1
    assert 12 < rejected < 40
