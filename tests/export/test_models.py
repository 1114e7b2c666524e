"""Export a user's Keras model to every format, open the files, and reject what cannot be exported."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import EXPORTED, error_line

from bnn_keras import Anneal, binarize, build_model, catalog, evaluate, export_model, optimizers, predict, resolve
from bnn_keras.benchmark import benchmark
from bnn_keras.errors import BnnError
from bnn_keras.export import open_export
from bnn_keras.export.logits import ends_in_softmax
from bnn_keras.export.packed import load_packed
from bnn_keras.schemes import binarynet

layers = tf.keras.layers


def classifier(*, softmax=False, shape=(28, 28, 1)):
    """Return a small network as a user writes it: ReLU arguments, pooling, a shortcut, dropout."""
    x = images = tf.keras.Input(shape, name="images")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPool2D(name="pool1")(x)
    y = layers.BatchNormalization(name="norm2")(layers.Conv2D(16, 3, padding="same", name="conv2")(x))
    x = layers.ReLU(name="relu2")(layers.Add(name="add2")([x, y]))
    x = layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv3")(layers.ZeroPadding2D(name="pad3")(x))
    x = layers.ReLU(name="relu3")(layers.BatchNormalization(name="norm3")(x))
    x = layers.Dropout(0.2, name="dropout")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(32, activation="relu", name="dense4")(x)
    x = layers.BatchNormalization(name="norm4")(x)
    logits = layers.Dense(10, activation="softmax" if softmax else None, name="logits")(x)
    return tf.keras.Model(images, logits, name="mine")


@pytest.fixture(scope="module")
def digits():
    """The 4,000 training and 1,000 test digits that ship with the package, normalised, and their labels."""
    from bnn_keras.data.mnist_5k import FILE

    order = sorted(range(5000), key=lambda index: index % 5 == 4)
    with np.load(FILE) as arrays:
        images = ((arrays["images"][order, ..., None] / 255 - 0.1307) / 0.3081).astype(np.float32)
        return images, arrays["labels"][order]


def trained(model, digits, epochs=1, optimizer=None):
    images, labels = digits
    tf.keras.utils.set_random_seed(1)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=not ends_in_softmax(model))
    model.compile(optimizer or tf.keras.optimizers.legacy.Adam(0.01), loss, ["accuracy"])
    model.fit(images[:4000], labels[:4000], batch_size=100, epochs=epochs, verbose=0, callbacks=[Anneal()])
    return model


@pytest.fixture(scope="module")
def mine(digits):
    """A user's network with IR-Net's scheme, trained for an epoch. Read it only."""
    return trained(binarize(classifier(), "irnet", verbose=False), digits)


@pytest.fixture(scope="module")
def packed(mine, digits, tmp_path_factory):
    """The packed file of the user's network."""
    file = tmp_path_factory.mktemp("mine") / "mine.safetensors"
    export_model(mine, "packed", file, verify_on=digits[0][:500], labels=[f"digit {n}" for n in range(10)])
    return file


@pytest.mark.parametrize(
    "to",
    [name if name == "packed" else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED],
)
def test_every_format_agrees_with_the_model(mine, digits, tmp_path, to):
    images = digits[0][-1000:]
    file = tmp_path / EXPORTED[to]
    sidecar = export_model(mine, to, file, verify_on=images)
    assert sidecar["agreement"] == 100
    assert sidecar["largest_logit_error"] < 1e-4
    row = catalog.FORMATS[to]
    packed, computed = (0 if part == "none" else 3 for part in (row.packs, row.computes))
    assert (sidecar["binary_layers"], sidecar["packed_layers"], sidecar["computed_layers"]) == (3, packed, computed)
    assert (sidecar["network"], sidecar["input_shape"], sidecar["images"]) == ("mine", [28, 28, 1], 1000)
    assert "experiment" not in sidecar
    exported = open_export(file)
    assert exported.description.labels == list("0123456789")
    np.testing.assert_allclose(exported.logits(images[:7]), mine.predict(images[:7], verbose=0), atol=1e-3)


@pytest.mark.parametrize(
    "scheme",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("reactnet", "bop")),
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("binarynet", "xnor", "mcdonnell", "bireal")),
    ],
)
def test_every_scheme_trains_and_agrees(digits, tmp_path, scheme):
    chosen, optimizer = scheme, None
    if scheme == "bop":
        chosen, optimizer = binarynet().without_latents(), optimizers.bop(0.01, threshold=1e-6, gamma=1e-3)
    model = trained(binarize(classifier(), chosen, verbose=False), digits, optimizer=optimizer)
    images, labels = digits[0][-1000:], digits[1][-1000:]
    assert model.evaluate(images, labels, verbose=0)[1] > 0.3  # chance is 0.1, and the training is short
    for to in ("packed", "tflite", "openvino"):
        sidecar = export_model(model, to, tmp_path / EXPORTED[to], verify_on=images[:200])
        assert sidecar["agreement"] == 100
        assert sidecar["packed_layers"] == 3


def test_a_packed_file_holds_its_network(mine, packed, digits):
    experiment, labels, network = load_packed(packed)
    assert (experiment, labels[3], network.name) == (None, "digit 3", "mine")
    images = digits[0][:20]
    assert np.array_equal(network(images, training=False), mine(images, training=False))


def test_exports_predict_prepared_arrays_only(mine, packed, digits, tmp_path):
    images = digits[0][:5]
    np.save(tmp_path / "prepared.npy", images)
    np.save(tmp_path / "pixels.npy", np.zeros((1, 28, 28, 1), np.uint8))
    predictions = predict(packed, tmp_path / "prepared.npy")
    assert np.array_equal(predictions.logits, mine.predict(images, verbose=0))
    assert predictions.labels[0] == "digit 0"
    (tmp_path / "image.png").write_bytes(tf.io.encode_png(np.zeros((28, 28, 1), np.uint8)).numpy())
    for name, what in (("pixels.npy", "an array of uint8 pixels"), ("image.png", "an image file")):
        line = error_line("predict", packed, tmp_path / name)
        assert f"{name}' is {what}, and the network has no experiment" in line
    assert "is the export of a model without an experiment" in error_line("evaluate", packed)
    with pytest.raises(BnnError, match="is the export of a model without an experiment"):
        evaluate(packed)


@pytest.mark.nightly
def test_exports_are_benchmarked(packed):
    (row,) = benchmark([packed], batch_sizes=[1], threads=[1], rounds=2, seconds=0.0)
    assert (row.entrant.network, row.entrant.shape) == ("mine", (28, 28, 1))


def test_a_model_of_an_experiment_is_exported(digits, tmp_path):
    model = build_model(resolve("lenet5").experiment)
    sidecar = export_model(model, "packed", tmp_path / "lenet5.safetensors", verify_on=digits[0][:50])
    assert (sidecar["agreement"], sidecar["packed_layers"]) == (100, 2)


@pytest.mark.parametrize("last", ["argument", "activation", "layer", "operation"])
def test_a_model_that_ends_in_a_softmax(digits, tmp_path, last):
    x = images = tf.keras.Input((28, 28, 1))
    x = layers.Dense(16)(layers.Flatten()(x))
    x = layers.Dense(10, activation="softmax" if last == "argument" else None)(x)
    ends = {"activation": layers.Activation("softmax"), "layer": layers.Softmax(), "operation": tf.nn.softmax}
    model = tf.keras.Model(images, ends[last](x) if last in ends else x)
    binary = binarize(model, "xnor", skip=["last"], verbose=False)
    inputs = digits[0][:100]
    expected = binary.predict(inputs, verbose=0)
    np.testing.assert_allclose(expected.sum(-1), 1, rtol=1e-5)
    sidecar = export_model(binary, "packed", tmp_path / "x.safetensors", verify_on=inputs)
    assert (sidecar["outputs"], sidecar["agreement"]) == ("logits", 100)
    np.testing.assert_allclose(predict(tmp_path / "x.safetensors", inputs).probabilities, expected, rtol=1e-4)
    if last == "argument":
        sidecar = export_model(binary, "saved_model", tmp_path / "x", verify_on=inputs)
        assert sidecar["outputs"] == "probabilities"
        np.testing.assert_allclose(predict(tmp_path / "x", inputs).probabilities, expected, rtol=1e-4)


@pytest.mark.slow
def test_int8_is_calibrated_on_the_inputs(mine, digits, tmp_path):
    options = {"floats": "int8", "min_agreement": 90, "tolerance": 0.3}
    sidecar = export_model(mine, "openvino", tmp_path / "mine.xml", verify_on=digits[0][:200], **options)
    assert sidecar["agreement"] >= 90


def _two_outputs():
    x = tf.keras.Input((4,))
    return tf.keras.Model(x, [layers.Dense(2)(x), layers.Dense(2)(x)])


def _model(shape, *rest):
    return tf.keras.Sequential([tf.keras.Input(shape), *rest], name="m")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_two_outputs, "has 1 inputs and 2 outputs; expected one of each"),
        (lambda: _model((None, None, 3), layers.GlobalAveragePooling2D(), layers.Dense(2)), "expected a fixed shape"),
        (lambda: _model((4, 4, 1), layers.Conv2D(2, 1)), r"expected \(batch, classes\) with two classes or more"),
        (lambda: _model((4,), layers.Dense(1)), r"expected \(batch, classes\) with two classes or more"),
        (
            lambda: _model((4,), layers.Dense(3), layers.Lambda(lambda x: 2 * x)),
            r"cannot describe network 'm': lambda.* \(Lambda\)",
        ),
    ],
)
def test_other_models_are_one_error(make, message, tmp_path):
    model = make()
    inputs = np.zeros((2, *(size or 8 for size in model.input_shape[1:])), np.float32)
    with pytest.raises(BnnError, match=message):
        export_model(model, "packed", tmp_path / "m.safetensors", verify_on=inputs)
    assert not list(tmp_path.iterdir())


def test_invalid_arguments_are_one_error(mine, tmp_path):
    file, good = tmp_path / "m.safetensors", np.zeros((2, 28, 28, 1))
    for changes, message in [
        ({"verify_on": good[..., 0]}, r"verify_on has shape \(2, 28, 28\); expected \(N, 28, 28, 1\)"),
        ({"verify_on": good[:0]}, "expected"),
        ({"verify_on": good + np.nan}, "verify_on has NaN or infinite values"),
        ({"verify_on": good.astype(str)}, "verify_on holds <U"),
        ({"labels": ["a"]}, "got 1 labels for 10 outputs"),
        ({"floats": "int4"}, "format 'packed' has no floats 'int4'"),
        ({"softmax": True}, "leave --softmax out"),
        ({"to": "onxx"}, "did you mean 'onnx'"),
        ({"file": tmp_path / "m.xml"}, "suffix"),
    ]:
        arguments = {"to": "packed", "file": file, "verify_on": good, **changes}
        with pytest.raises(BnnError, match=message):
            export_model(mine, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_predictions_is_not_written(mine, digits, tmp_path, monkeypatch):
    from bnn_keras.export import packed as module

    monkeypatch.setattr(module, "load", lambda *_: lambda images: np.zeros((len(images), 10), np.float32))
    with pytest.raises(BnnError, match="does not predict what the network predicts: on 100 images of given inputs"):
        export_model(mine, "packed", tmp_path / "m.safetensors", verify_on=digits[0][:100])
    assert not list(tmp_path.iterdir())
