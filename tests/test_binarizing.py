"""Binarized Keras models: which layers change, what becomes of activations, training with `fit`, and errors."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import Anneal, binarize, catalog, optimizers, schemes
from bnn_keras.build import build_network
from bnn_keras.constraints import CentreAndClip
from bnn_keras.errors import BnnError
from bnn_keras.kernels import has_binary_inputs, is_binary
from bnn_keras.layers import ScaledConv2D, precision_policy
from bnn_keras.quantizers import ShiftedPReLU
from bnn_keras.schedules import error_decay_scale, geometric

layers = tf.keras.layers
DATA = np.random.default_rng(0)


def small(**conv):
    """Return a chain of four layers whose middle two are binarized by default."""
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.Conv2D(6, 3, name="conv", **{"activation": "relu", **conv}),
            layers.Flatten(name="flatten"),
            layers.Dense(5, name="dense"),
            layers.ReLU(name="relu"),
            layers.Dense(3, name="logits"),
        ],
        name="small",
    )


def graph(*rest, shape=(8, 8, 4)):
    """Return a model of a real convolution and the given layers, each with a name; lists are joined branches."""
    x = images = tf.keras.Input(shape)
    x = layers.Conv2D(4, 3, padding="same", name="first")(x)
    for layer in rest:
        x = layer(x)
    return tf.keras.Model(images, layers.Dense(2, name="last")(layers.GlobalAveragePooling2D(name="mean")(x)))


def conv(name="conv"):
    return layers.Conv2D(4, 3, padding="same", name=name)


def names(model):
    return [layer.name for layer in model.layers]


@pytest.mark.parametrize("bits", ["1/1", "1/32", "32/1", "32/32"])
@pytest.mark.parametrize("scheme", [name for name in catalog.SCHEMES if name not in ("float", "zoo")])
def test_layers_are_those_of_the_scheme(scheme, bits):
    model = small()
    binary = binarize(model, scheme, bits, verbose=False)
    assert binary.scheme.bits == bits
    for name in ("conv", "dense"):
        layer = binary.get_layer(name)
        assert is_binary(layer) == bits.startswith("1/")
        assert has_binary_inputs(layer) == bits.endswith("/1")
        if scheme != "xnor" or not is_binary(layer):  # it centres and clips
            assert np.array_equal(layer.kernel, model.get_layer(name).kernel)
        assert np.array_equal(layer.bias, model.get_layer(name).bias)
    for name in ("first", "logits"):
        assert type(binary.get_layer(name)) is type(model.get_layer(name))
        assert np.array_equal(binary.get_layer(name).kernel, model.get_layer(name).kernel)
    inputs = DATA.normal(size=(3, 8, 8, 2)).astype(np.float32)
    assert binary(inputs).shape == (3, 3)
    if bits == "32/32" and scheme != "reactnet":
        np.testing.assert_allclose(binary(inputs), model(inputs), rtol=1e-5, atol=1e-6)


def test_weights_have_the_constraint_of_the_scheme_once_applied():
    model = small()
    binary = binarize(model, "xnor", verbose=False)
    kernel = model.get_layer("conv").kernel
    np.testing.assert_allclose(binary.get_layer("conv").kernel, CentreAndClip()(kernel), atol=1e-7)
    assert isinstance(binary.get_layer("conv").kernel_constraint, CentreAndClip)


def test_arguments_of_a_layer_are_kept():
    arguments = {"strides": 2, "padding": "same", "use_bias": False, "groups": 2, "kernel_regularizer": "l2"}
    layer = binarize(small(**arguments), "bireal", verbose=False).get_layer("conv")
    assert type(layer) is ScaledConv2D
    assert (layer.strides, layer.padding, layer.use_bias, layer.groups) == ((2, 2), "same", False, 2)
    assert isinstance(layer.kernel_regularizer, tf.keras.regularizers.L2)
    layer = binarize(small(dilation_rate=2, trainable=False), "bireal", verbose=False).get_layer("conv")
    assert layer.dilation_rate == (2, 2)
    assert not layer.trainable


def test_outputs_are_those_of_the_formula():
    """conv(sign(conv1), ±α) + bias, without the ReLU in between; then the ReLUs that feed no binary layer."""
    model = small()
    binary = binarize(model, schemes.bireal(), skip=("first", "dense", "last"), verbose=False)
    images = DATA.normal(size=(4, 8, 8, 2)).astype(np.float32)
    first, middle = model.get_layer("first"), model.get_layer("conv")
    signs = np.where(tf.nn.conv2d(images, first.kernel, 1, "VALID") + first.bias >= 0, 1, -1)
    kernel = middle.kernel.numpy()
    scaled = np.abs(kernel).mean((0, 1, 2)) * np.where(kernel >= 0, 1, -1)
    x = np.maximum(tf.nn.conv2d(signs.astype(np.float32), scaled, 1, "VALID") + middle.bias, 0).reshape(4, -1)
    for name, function in (("dense", lambda x: np.maximum(x, 0)), ("logits", lambda x: x)):
        x = function(x @ model.get_layer(name).kernel + model.get_layer(name).bias)
    np.testing.assert_allclose(binary(images), x, rtol=1e-4, atol=1e-5)


RELU = "relu"


@pytest.mark.parametrize(
    ("between", "dropped"),
    [
        ([layers.ReLU], True),
        ([lambda name: layers.ReLU(6.0, name=name)], True),
        ([lambda name: layers.Activation("sigmoid", name=name)], True),
        ([lambda name: layers.Activation(tf.nn.relu6, name=name)], True),
        ([layers.ReLU, layers.MaxPool2D, layers.Dropout], True),
        ([layers.ReLU, layers.ZeroPadding2D, layers.UpSampling2D, layers.AveragePooling2D], True),
        ([layers.ReLU, layers.BatchNormalization], False),
        ([layers.ReLU, layers.BatchNormalization, layers.MaxPool2D], False),
        ([layers.LeakyReLU], False),
        ([lambda name: layers.ReLU(negative_slope=0.1, name=name)], False),
        ([lambda name: layers.Activation("tanh", name=name)], False),
    ],
)
def test_an_activation_that_is_never_negative_is_dropped_in_front_of_signs(between, dropped):
    def make(kind, position):
        name = RELU if position == 0 else f"layer{position}"
        return kind(0.5, name=name) if kind is layers.Dropout else kind(name=name)

    def model():
        return graph(*(make(kind, position) for position, kind in enumerate(between)), conv())

    assert (RELU not in names(binarize(model(), "bireal", verbose=False))) == dropped
    assert RELU in names(binarize(model(), "bireal", "1/32", verbose=False))
    assert RELU in names(binarize(model(), "bireal", skip=["first", "conv", "last"], verbose=False))


def test_tensorflow_functions_are_dropped_too():
    binary = binarize(graph(tf.nn.relu, conv()), "bireal", verbose=False)
    assert not [name for name in names(binary) if "relu" in name]


def test_signs_in_front_of_binary_layers_differ():
    """The trap that dropping avoids: signs behind a ReLU are all +1."""
    model = graph(layers.ReLU(name="relu"), layers.MaxPool2D(name="pool"), conv())
    binary = binarize(model, "bireal", verbose=False)
    read = tf.keras.Model(binary.inputs, binary.get_layer("conv").input)
    values = read(DATA.normal(size=(2, 8, 8, 4)).astype(np.float32)).numpy()
    assert 0.02 < (values < 0).mean() < 0.98


def joined(merge, left, right):
    """Return a layer of two branches: a list of layers each."""

    def call(x):
        branches = []
        for branch in (left, right):
            y = x
            for layer in branch:
                y = layer(y)
            branches.append(y)
        return merge(name="joined")(branches)

    return call


@pytest.mark.parametrize(
    ("merge", "right", "dropped"),
    [
        (layers.Add, [layers.ReLU(name="relu_b")], {"relu_a", "relu_b"}),
        (layers.Add, [layers.BatchNormalization(name="norm")], set()),
        (layers.Concatenate, [layers.BatchNormalization(name="norm")], {"relu_a"}),
        (layers.Maximum, [layers.BatchNormalization(name="norm")], {"relu_a"}),
        (layers.Multiply, [layers.ReLU(name="relu_b")], set()),
    ],
)
def test_sums_and_concatenations_of_activations(merge, right, dropped):
    model = graph(joined(merge, [layers.ReLU(name="relu_a")], right), conv())
    binary = binarize(model, "bireal", verbose=False)
    assert set(names(model)) - set(names(binary)) == dropped


def test_a_residual_network_keeps_its_sums():
    """Blocks of ResNet: the ReLU behind a sum feeds a binary layer and the next shortcut, and is dropped for both."""
    x = images = tf.keras.Input((8, 8, 4))
    x = layers.ReLU(name="relu0")(layers.Conv2D(4, 3, padding="same", name="first")(x))
    for block in (1, 2):
        y = layers.BatchNormalization(name=f"norm{block}")(conv(f"conv{block}")(x))
        x = layers.ReLU(name=f"relu{block}")(layers.Add(name=f"add{block}")([x, y]))
    model = tf.keras.Model(images, layers.Dense(2, name="last")(layers.GlobalAveragePooling2D()(x)))
    binary = binarize(model, "bireal", verbose=False)
    assert [name for name in names(binary) if "relu" in name] == ["relu2"]
    assert [layer.name for layer in binary.layers if is_binary(layer)] == ["conv1", "conv2"]


def test_a_scheme_with_its_own_activation_replaces_every_relu():
    binary = binarize(small(), "reactnet", "1/32", verbose=False)
    own = [layer.name for layer in binary.layers if isinstance(layer, ShiftedPReLU)]
    assert own == ["first.activation", "conv.activation", "relu"]
    shared = layers.ReLU(name="relu")
    wide = layers.Conv2D(8, 3, padding="same", name="wide")
    binary = binarize(graph(shared, conv(), shared, wide, shared), "reactnet", verbose=False)
    shapes = [layer.slope.shape[0] for layer in binary.layers if isinstance(layer, ShiftedPReLU)]
    assert shapes == [4, 4, 8]


def test_a_first_layer_that_is_not_skipped_takes_real_inputs():
    binary = binarize(small(), "binarynet", skip=["last"], verbose=False)
    first = binary.get_layer("first")
    assert is_binary(first)
    assert not has_binary_inputs(first)


def test_skip_finds_the_ends_of_branches():
    left, right = (tf.keras.Input((4,), name=name) for name in ("a", "b"))
    x = layers.Concatenate()([layers.Dense(3, name="left")(left), layers.Dense(3, name="right")(right)])
    x = layers.Dense(4, name="middle")(x)
    model = tf.keras.Model([left, right], [layers.Dense(2, name="one")(x), layers.Dense(2, name="two")(x)])
    binary = binarize(model, "irnet", verbose=False)
    assert [layer.name for layer in binary.layers if is_binary(layer)] == ["middle"]
    binary = binarize(model, "irnet", skip="last", verbose=False)
    assert [layer.name for layer in binary.layers if is_binary(layer)] == ["left", "right", "middle"]
    assert [output.shape for output in binary([np.zeros((1, 4)), np.zeros((1, 4))])] == [(1, 2), (1, 2)]


def test_shared_layers_stay_shared():
    layer = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    model = graph(layer, layer)
    binary = binarize(model, "bireal", verbose=False)
    assert sum(is_binary(layer) for layer in binary.layers) == 1
    assert len(binary.get_layer("shared").inbound_nodes) == 2
    assert [name for name in names(binary) if name.startswith("shared.")] == ["shared.activation_1"]


def test_what_stays_real_is_printed_in_one_line(capsys):
    model = graph(layers.ReLU(name="relu"), layers.DepthwiseConv2D(3, activation="relu", name="depthwise"), conv())
    binarize(model, "bireal")
    assert capsys.readouterr().out == (
        "binarize: scheme bireal 1/1 in 1 of 4 layers; real: first, depthwise (DepthwiseConv2D), last; activations "
        "dropped: depthwise\n"
    )
    binarize(graph(*(conv(f"conv{number}") for number in range(12))), "bireal", skip=[f"conv{n}" for n in range(12)])
    assert "conv7 and 4 more; activations dropped: none" in capsys.readouterr().out
    binarize(model, "bireal", verbose=False)
    assert capsys.readouterr().out == ""


def test_mixed_precision_is_kept():
    with precision_policy("mixed_bfloat16"):
        model = small()
    binary = binarize(model, "irnet", verbose=False)
    assert {layer.dtype_policy.name for layer in binary.layers if layer.weights} == {"mixed_bfloat16"}
    assert binary(np.ones((1, 8, 8, 2))).dtype == tf.bfloat16
    tf.keras.backend.set_floatx("float64")
    try:
        assert tf.keras.mixed_precision.global_policy().name == "float64"  # it follows floatx, as by default
    finally:
        tf.keras.backend.set_floatx("float32")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MobileNetV2", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in ("ResNet50", "MobileNetV3Small", "DenseNet121", "EfficientNetB0")
        ),
    ],
)
def test_networks_of_keras_are_binarized_and_train(name):
    base = getattr(tf.keras.applications, name)(input_shape=(32, 32, 3), weights=None, include_top=False)
    base.trainable = name != "ResNet50"
    x = images = tf.keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(base(layers.Rescaling(1 / 127.5, -1)(x)))
    binary = binarize(tf.keras.Model(images, layers.Dense(3)(x)), "bireal", verbose=False)
    assert sum(map(is_binary, binary.layers)) > 20
    binary.compile(tf.keras.optimizers.legacy.SGD(0.01), tf.keras.losses.SparseCategoricalCrossentropy(True))
    history = binary.fit(DATA.uniform(0, 255, (4, 32, 32, 3)), np.array([0, 1, 2, 0]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def fit(model, epochs=3, **arguments):
    model.compile(arguments.pop("optimizer", tf.keras.optimizers.legacy.Adam(0.01)), "mse")
    images, targets = DATA.normal(size=(8, 8, 8, 2)).astype(np.float32), np.zeros((8, 3), np.float32)
    return model.fit(images, targets, batch_size=4, epochs=epochs, verbose=0, **arguments).history


def test_annealing_follows_the_schedule_of_the_paper():
    model = binarize(small(), "irnet", verbose=False)
    history = fit(model, epochs=4, callbacks=[Anneal()])
    t = geometric(0.1, 10.0, 4)
    np.testing.assert_allclose(history["t"], [t(epoch) for epoch in range(4)])
    np.testing.assert_allclose(history["k"], [error_decay_scale(t)(epoch) for epoch in range(4)])
    assert model.get_layer("conv").kernel_quantizer.annealed.values()["t"] == pytest.approx(t(3))
    assert model.get_layer("dense").input_quantizer.annealed is model.scheme.annealed


def test_annealing_with_own_schedules_and_without_any():
    history = fit(binarize(small(), "irnet", verbose=False), callbacks=[Anneal({"t": lambda epoch: 1 + epoch})])
    assert history["t"] == [1.5, 2.5, 3.5]
    assert "k" not in history
    assert list(fit(binarize(small(), "bireal", verbose=False), callbacks=[Anneal()])) == ["loss"]
    scheme = schemes.irnet()
    network = build_network("lenet5", scheme, (28, 28, 1), 10)
    network.compile("sgd", "mse")
    callback = Anneal()
    network.fit(np.zeros((2, 28, 28, 1)), np.zeros((2, 10)), verbose=0, callbacks=[callback])
    assert callback.values == {"t": pytest.approx(0.1), "k": pytest.approx(10.0)}


def test_annealing_without_a_known_scheme_is_one_error():
    with pytest.raises(BnnError, match="model 'small' has no attribute `scheme`"):
        fit(small(), callbacks=[Anneal()])
    model = binarize(small(), "irnet", verbose=False)
    model.scheme = schemes.Scheme("mine", "1/1", annealed=model.scheme.annealed)
    with pytest.raises(BnnError, match="scheme 'mine' is not in the catalog; give Anneal the schedules"):
        fit(model, callbacks=[Anneal()])


def test_bop_flips_the_kernels():
    model = binarize(small(), schemes.binarynet().without_latents(), verbose=False)
    before = np.sign(model.get_layer("conv").kernel.numpy())
    fit(model, optimizer=optimizers.bop(0.01, threshold=1e-8, gamma=0.1))
    after = model.get_layer("conv").kernel.numpy()
    assert set(np.unique(after)) == {-1.0, 1.0}
    assert 0 < (before != after).mean() < 1


def test_a_given_scheme_keeps_its_bits():
    scheme = schemes.xnor(gradient_scale=2.0).with_bits("1/32")
    binary = binarize(small(), scheme, verbose=False)
    assert binary.scheme is not None
    assert (binary.scheme.bits, binary.get_layer("conv").kernel_quantizer.gradient_scale) == ("1/32", 2.0)
    assert binarize(small(), scheme, "1/1", verbose=False).scheme.bits == "1/1"
    assert binarize(small(), "mcdonnell", verbose=False).scheme.bits == "1/1"


def _sequence():
    return tf.keras.Sequential(
        [
            tf.keras.Input((6, 4)),
            layers.Conv1D(3, 3, name="conv1d"),
            layers.Conv1D(3, 3, name="again"),
            layers.Dense(4, name="dense"),
            layers.LSTM(3, name="lstm"),
            layers.Dense(2, name="logits"),
        ]
    )


def test_layers_that_cannot_be_binarized_are_named_in_one_error():
    with pytest.raises(BnnError) as error:
        binarize(_sequence())
    assert str(error.value) == (
        "3 layer(s) cannot be binarized: again (Conv1D), dense (Dense of inputs with more than two dimensions), lstm "
        "(LSTM); expected Conv2D, DepthwiseConv2D or Dense: leave them real with "
        "skip=('first', 'last', 'again', 'dense', 'lstm'), or replace them"
    )
    binary = binarize(_sequence(), skip=("first", "last", "again", "dense", "lstm"), verbose=False)
    assert not any(map(is_binary, binary.layers))
    model = graph(layers.Conv2DTranspose(2, 3, name="up"), layers.Conv2D(2, 1, data_format="channels_first", name="cf"))
    with pytest.raises(BnnError, match=r"up \(Conv2DTranspose\), cf \(Conv2D with channels_first\)"):
        binarize(model)


class _Subclassed(tf.keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "irnt"}, "unknown scheme 'irnt'; did you mean 'irnet'"),
        ({"scheme": "zoo"}, "scheme 'zoo' has no quantizers of its own"),
        ({"bits": "2/1"}, "unknown bits of scheme 'irnet' '2/1'; did you mean"),
        ({"scheme": schemes.float_(), "bits": "1/1"}, "unknown bits of scheme 'float' '1/1'"),
        ({"skip": ["con"]}, "unknown layer 'con'; did you mean 'conv'"),
        ({"skip": ["relu"]}, "unknown layer 'relu'"),
        ({"model": graph(_Subclassed(name="inner"))}, r"cannot be copied: inner \(a subclassed model\)"),
        ({"model": None}, "expected a model of tf.keras"),
    ],
)
def test_invalid_arguments_are_one_error(arguments, message):
    with pytest.raises(BnnError, match=message) as error:
        binarize(**{"model": small(), **arguments})
    assert "\n" not in str(error.value)
