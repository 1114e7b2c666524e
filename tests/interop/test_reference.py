"""Convert weights to the references' names and layouts, and back."""

import json
import re

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN, small_network

from bnn_keras import catalog, schemes
from bnn_keras.build import build_network, build_scheme
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.interop import classes_of, from_reference, load_reference, reference_names, to_reference

NETWORKS = [row.name for row in catalog.NETWORKS.values() if row.reference and row.reference.file.kind == "torch"]
# Deeper or wider networks of the same layers as another one. They are converted rotated, as they are published.
LARGER = ("wrn_20_2", "wrn_20_10", "birealnet34", "resnet34")
SLOW = (*LARGER, "birealnet50", "resnet18", "resnet18_cifar", "torchvision_resnet34", "reactnet_a")
CLASSES = 7
# The smallest images whose feature map before a dense layer is larger than one pixel.
SIZES = {"lenet5": 28, "alexnet": 99, "vgg_small": 32, "nin": 32}
# Tensors after a flattened feature map, with its height, width and channels.
FLATTENED = {
    "lenet5": {"bin_ip1.linear.weight": (4, 4, 50)},
    "alexnet": {
        "classifier.0.linear.weight": (2, 2, 256),
        **{f"classifier.0.bn.{name}": (2, 2, 256) for name in ("weight", "bias", "running_mean", "running_var")},
    },
    "vgg_small": {"fc.weight": (4, 4, 512)},
}
# Tensors that a reference stores but never uses.
_BN3 = tuple(f"bn3.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
UNUSED = {"resnet18": _BN3, "resnet34": _BN3, "birealnet50": ("layers.0.down_conv1x1.weight",)}


def build(name, rotated=False, size=None, **choices):
    """Build a network of the catalog for small images."""
    if name == "wrn_20_10":  # make it narrower; the layers are the same
        choices = {"overrides": ["network.width=3"], **choices}
    experiment = resolve(name, **choices).experiment
    size = size or SIZES.get(name, 32)
    shape = (size, size, experiment.input_shape[-1])
    options = experiment.network.choices
    return build_network(name, build_scheme(experiment), shape, CLASSES, rotated=rotated, **options)


def variables(model):
    """Return the variables of a model by the reference's names."""
    weights = [variable for layer in model.layers for variable in layer.weights if variable.dtype.is_floating]
    return dict(zip(reference_names(model, weights), weights, strict=True))


def random_tensors(shapes, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def numbered(shapes):
    """Return tensors with distinct values (up to 2²⁴ of them); this is faster than random values."""
    return {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()}


def trained_like(shapes):
    """Return random weights of the scale of trained ones."""
    tensors = {}
    for name, value in random_tensors(shapes).items():
        positive = name.endswith(("running_var", "bn.weight")) or re.search(r"bn\d\.weight", name)
        tensors[name] = np.abs(value) + 0.5 if positive else value / np.sqrt(np.prod(value.shape[1:]))
    return tensors


def shapes(tensors):
    return {name: value.shape for name, value in tensors.items()}


def in_our_layout(value, shape, rotated, flattened):
    """Convert a PyTorch tensor to Keras's layout, from the definition of the two layouts."""
    if flattened:
        height, width, channels = flattened
        value = value.reshape(*value.shape[:-1], channels, height, width)
        value = np.moveaxis(value, -3, -1)
        if rotated:  # the feature map is rotated as well
            value = value[..., ::-1, ::-1, :]
        value = value.reshape(*value.shape[:-3], -1)
    if value.ndim > len(shape) == 1:
        return value.reshape(shape)  # a vector that is stored as a map
    if len(shape) == 4:
        height, width, channels, filters = shape
        value = np.einsum("oihw->hwio", value.reshape(filters, channels, height, width))
        return np.rot90(value, 2) if rotated else value
    return value.T


@pytest.fixture(scope="module")
def wide():
    """Return a small network with the names, padding and strides of its reference."""
    return build("wrn_20_1", rotated=True)


@pytest.fixture(scope="module")
def flat():
    """Return a network whose reference stores binary kernels as columns."""
    return build("birealnet18", rotated=True)


@pytest.fixture
def given(wide):
    """Return tensors for the network, as its reference stores them."""
    return random_tensors(shapes(to_reference(wide)))


# --- conversion in both directions ---


@pytest.mark.parametrize(
    ("name", "rotated"),
    [
        pytest.param(
            name, rotated, marks=[] if name in FLATTENED or (rotated and name not in SLOW) else pytest.mark.slow
        )
        for rotated in (True, False)
        for name in NETWORKS
        if rotated or name not in LARGER
    ],
)
def test_conversion_in_both_directions_is_exact(name, rotated):
    model = build(name, rotated)
    ours = {name: variable.numpy() for name, variable in variables(model).items()}
    theirs = to_reference(model)
    assert set(theirs) == set(ours)
    assert classes_of(model, theirs) == CLASSES
    converted = from_reference(model, theirs)
    assert all(np.array_equal(converted[name], value) for name, value in ours.items())

    given = numbered(shapes(theirs))
    unused = {key: np.zeros(3) for key in UNUSED.get(name, ())}
    assert not set(unused) & set(given)
    converted = from_reference(model, {**unused, **given})
    assert shapes(converted) == shapes(ours)
    for key, value in given.items():
        expected = in_our_layout(value, ours[key].shape, rotated, FLATTENED.get(name, {}).get(key))
        assert np.array_equal(converted[key], expected), key
    theirs = to_reference(model, converted)
    assert all(np.array_equal(theirs[name], value) for name, value in given.items())


# Golden file: network, scheme and bits. ReActNet's two networks have other names and layouts in each of their steps.
STORED = {
    "reactnet_resnet18": ("birealnet18", {"scheme": "reactnet"}),
    "reactnet_resnet18_step1": ("birealnet18", {"scheme": "reactnet", "bits": "32/1"}),
    "reactnet_resnet34": ("birealnet34", {"scheme": "reactnet"}),
    "reactnet_a": ("reactnet_a", {}),
    "reactnet_a_step1": ("reactnet_a", {"bits": "32/1"}),
    "torchvision_resnet18": ("torchvision_resnet18", {}),
    "torchvision_resnet34": ("torchvision_resnet34", {}),
}


@pytest.mark.parametrize(
    "file",
    [pytest.param(name, marks=pytest.mark.slow if "34" in name or name == "reactnet_a" else ()) for name in STORED],
)
def test_tensors_have_the_names_and_shapes_of_the_reference(file):
    network, choices = STORED[file]
    model = build(network, rotated=True, **choices)
    with np.load(GOLDEN / f"{file}.npz") as golden:
        stored = {name: tuple(shape) for name, shape, kind in json.loads(str(golden["names"])) if kind != "count"}
    stored |= {"fc.weight": (CLASSES, *stored["fc.weight"][1:]), "fc.bias": (CLASSES,)}
    assert shapes(to_reference(model)) == stored
    given = numbered(stored)
    theirs = to_reference(model, from_reference(model, given))
    assert all(np.array_equal(theirs[name], value) for name, value in given.items())


def test_published_signs_are_binary_kernels():
    """ReActNet publishes kernels of ±1; batch norms contain the scales."""
    model = small_network("birealnet18", schemes.reactnet())
    given = random_tensors(shapes(to_reference(model)))
    name = "layer1.0.binary_conv"
    given[f"{name}.weight"] = np.where(given[f"{name}.weight"] < 0, -1, 1).astype(np.float32)
    load_reference(model, given)
    layer = model.get_layer(name)
    with larq.context.quantized_scope(True):
        quantized = tf.convert_to_tensor(layer.kernel).numpy()
    assert set(np.unique(quantized)) == {-1, 1}
    assert np.array_equal(quantized, layer.get_weights()[0])


@pytest.mark.parametrize("name", ["lenet5", "vgg_small"])
def test_rotated_network_computes_the_same_logits(name):
    """These networks have symmetric padding and strides, so that rotating image and kernels changes nothing."""
    models = [build(name, rotated) for rotated in (False, True)]
    given = trained_like(shapes(to_reference(models[0])))
    images = random_tensors({"images": (2, *models[0].input_shape[1:])})["images"]
    for model in models:
        load_reference(model, given)
    plain, rotated, rotated_image = (
        model(x, training=False).numpy()
        for model, x in zip([*models, models[0]], [images, images, images[:, ::-1, ::-1]], strict=True)
    )
    scale = np.abs(plain).max()
    assert np.abs(plain - rotated_image).max() > 0.05 * scale  # the orientation of the images matters
    np.testing.assert_allclose(rotated, plain, atol=1e-4 * scale)


def test_flat_kernel_is_a_column_in_oihw_order(flat):
    """Bi-Real Net stores binary kernels as columns: flattened OIHW."""
    theirs = to_reference(flat)["layer2.0.binary_conv.weights"]
    assert theirs.shape == (128 * 64 * 9, 1)
    kernel = flat.get_layer("layer2.0.binary_conv").get_weights()[0]
    assert np.array_equal(theirs.reshape(128, 64, 3, 3)[5, 6], kernel[::-1, ::-1, 6, 5])


def test_names_do_not_depend_on_the_scheme(flat):
    unbinarized = build("birealnet18", scheme="float")
    assert shapes(to_reference(unbinarized)) == shapes(to_reference(flat))


def test_gradients_are_converted_instead_of_the_weights(wide):
    weights = variables(wide)
    gradients = random_tensors({name: weights[name].shape for name in ("conv0", "bn_last.bias")})
    theirs = to_reference(wide, gradients)
    assert list(theirs) == ["conv0", "bn_last.bias"]
    assert np.array_equal(theirs["conv0"], np.rot90(gradients["conv0"], 2).transpose(3, 2, 0, 1))
    assert np.array_equal(theirs["bn_last.bias"], gradients["bn_last.bias"])


def test_names_have_the_order_of_the_variables(wide):
    weights = [wide.get_layer("bn_last").beta, wide.get_layer("conv0").kernel]
    assert reference_names(wide, weights) == ["bn_last.bias", "conv0"]


@pytest.mark.parametrize("network", ["binarynet", "birealnet18"])
def test_networks_in_keras_keep_their_layout(network):
    options = {"overrides": ["network.variant=rethinking"]} if network == "birealnet18" else {}
    model = build(network, optimizer="bop", **options)
    theirs = to_reference(model)
    assert {"quant_conv2d/kernel", "batch_normalization_1/beta"} <= set(theirs)
    assert all(
        np.array_equal(value, variable.numpy()) for value, variable in zip(theirs.values(), model.weights, strict=True)
    )
    assert classes_of(model, theirs) == CLASSES


# --- ignored tensors ---


def test_names_similar_to_unused_tensors_are_unknown():
    model = build("resnet18")
    for name in ("bn3x.weight", "layer1.0.bn3.weight", "layers.0.down_conv1x1.weight", "fc.bn3.weight"):
        with pytest.raises(BnnError, match=f"{model.name}: {name} is unknown; choose"):
            from_reference(model, {**to_reference(model), "bn3.weight": np.zeros(3), name: np.zeros(3)})


def test_unused_tensors_of_another_network_are_unknown(wide, given):
    for name in ("bn3.weight", "layers.0.down_conv1x1.weight"):
        with pytest.raises(BnnError, match=f"{name} is unknown"):
            from_reference(wide, {**given, name: np.zeros(3)})


def test_batch_counters_are_ignored(wide, given):
    counts = {f"{name}.num_batches_tracked": np.array(3) for name in ("bn", "group0.block0.bn0", "bn_last", "unknown")}
    assert from_reference(wide, {**given, **counts}).keys() == given.keys()


def test_tensors_in_another_order_and_in_float64_are_loaded(wide, given):
    load_reference(wide, {name: value.astype(np.float64) for name, value in reversed(given.items())})
    assert all(np.array_equal(value, given[name]) for name, value in to_reference(wide).items())


# --- number of classes ---


def test_classes_are_the_outputs_of_the_last_kernel(wide, given):
    assert classes_of(wide, {**given, "conv_last": np.zeros((11, 64, 1, 1))}) == 11
    assert classes_of(wide, {"conv_last": np.zeros((100, 64, 1, 1))}) == 100
    assert classes_of(wide, {**given, "conv_last": np.array(1.0)}) is None
    assert classes_of(wide, {}) is None


# --- packed signs ---


def packed(kernel):
    """Pack a latent OIHW kernel as binary-wide-resnet does: signs along the input channels, bit 1 is +."""
    return np.packbits(kernel > 0, axis=1)


@pytest.mark.parametrize(("width", "rotated"), [(0.25, False), (1, False), (1.25, True)])
def test_packed_signs_are_unpacked(width, rotated):
    """The widths give 4, 8, 16; 16, 32, 64; and 20, 40, 80 channels. Not all are multiples of 8."""
    model = build("wrn_20_1", rotated, overrides=[f"network.width={width}"])
    given = random_tensors(shapes(to_reference(model)))
    binary = [name for name in given if name.startswith("group") and given[name].ndim == 4]
    assert len(binary) == 18
    bits = {**given, **{name: packed(given[name]) for name in binary}}
    converted, latents = from_reference(model, bits), from_reference(model, given)
    for name in given:
        expected = latents[name]
        if name in binary:
            assert bits[name].dtype == np.uint8
            expected = np.sign(expected) * np.sqrt(2 / np.prod(expected.shape[:3]))
        np.testing.assert_allclose(converted[name], expected, rtol=1e-6, err_msg=name)
        assert converted[name].dtype == np.float32


def test_packed_signs_give_the_logits_of_the_latent_weights(wide, given):
    given = {name: np.abs(value) if name.endswith("running_var") else value for name, value in given.items()}
    images = random_tensors({"images": (2, 32, 32, 3)})["images"]
    load_reference(wide, given)
    expected = wide(images, training=False).numpy()
    load_reference(wide, {name: packed(value) if ".conv" in name else value for name, value in given.items()})
    np.testing.assert_allclose(wide(images, training=False), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("shape", "reported"),
    [
        ((16, 3, 3, 3), r"\(16, 3, 3, 3\)"),  # bytes of 24 channels
        ((16, 1, 3, 3), r"\(16, 1, 3, 3\)"),
        ((8, 2, 3, 3), r"\(8, 16, 3, 3\)"),
        ((16, 2), r"\(16, 2\)"),
    ],
)
def test_packed_signs_of_another_shape_are_an_error(wide, given, shape, reported):
    given["group0.block0.conv0"] = np.zeros(shape, np.uint8)
    with pytest.raises(BnnError, match=rf"group0.block0.conv0 has shape {reported}, expected \(16, 16, 3, 3\)"):
        from_reference(wide, given)


# --- tensors that do not match ---


def problems_of(model, tensors):
    """Return the problems in the error message, and verify that the model is unchanged."""
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(BnnError) as caught:
        load_reference(model, tensors)
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.weights, strict=True))
    begin, end = f"these are not the tensors of {model.name}: ", "; choose the network that they belong to"
    message = str(caught.value)
    assert message.startswith(begin)
    assert message.endswith(end)
    return message.removeprefix(begin).removesuffix(end)


def test_missing_unknown_and_misshapen_tensors_are_named(wide, given):
    del given["bn.running_mean"], given["group1.block0.conv0"]
    given["conv0"] = np.zeros((16, 3, 5, 5), np.float32)
    given["bn_last.bias"] = np.zeros((CLASSES, 1), np.float32)
    given["fc.weight"] = np.zeros((3, 3), np.float32)
    assert sorted(problems_of(wide, given).split("; ")) == [
        "bn.running_mean is missing",
        "bn_last.bias has shape (7, 1), expected (7,)",
        "conv0 has shape (16, 3, 5, 5), expected (16, 3, 3, 3)",
        "fc.weight is unknown",
        "group1.block0.conv0 is missing",
    ]


@pytest.mark.parametrize("name", ["conv0", "bn.running_mean", "bn_last.weight"])
def test_one_problem_is_one_message(wide, given, name):
    value = given.pop(name)
    assert problems_of(wide, given) == f"{name} is missing"
    assert (
        problems_of(wide, {**given, name: value[:1]}) == f"{name} has shape {value[:1].shape}, expected {value.shape}"
    )
    assert problems_of(wide, {**given, name: value, f"module.{name}": value}) == f"module.{name} is unknown"


def test_kernel_and_column_are_not_interchangeable(wide, flat, given):
    given["conv0"] = given["conv0"].reshape(-1, 1)
    assert problems_of(wide, given) == "conv0 has shape (432, 1), expected (16, 3, 3, 3)"
    theirs, name = to_reference(flat), "layer1.0.binary_conv.weights"
    theirs[name] = theirs[name].reshape(64, 64, 3, 3)
    assert problems_of(flat, theirs) == f"{name} has shape (64, 64, 3, 3), expected (36864, 1)"


@pytest.mark.parametrize(("count", "more"), [(10, ""), (11, "; and 1 more"), (30, "; and 20 more")])
def test_only_ten_problems_are_shown(wide, given, count, more):
    additional = {f"extra{number}": np.zeros(1) for number in range(count)}
    shown = [f"extra{number} is unknown" for number in range(10)]
    assert problems_of(wide, {**given, **additional}) == "; ".join(shown) + more


def test_tensors_of_another_network_are_an_error(wide):
    message = problems_of(wide, to_reference(build("lenet5")))
    assert message.count(";") == 10
    assert message.endswith(" more")


@pytest.mark.parametrize("kind", ["U1", "S1", "complex64", "object", "int64", "uint8", "bool"])
def test_tensors_must_hold_floating_point_numbers(wide, given, kind):
    given["bn_last.bias"] = np.array(["x"] * CLASSES if kind in ("U1", "S1") else [1] * CLASSES, kind)
    assert "bn_last.bias" in problems_of(wide, given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(wide, given, value):
    given["bn_last.running_var"][-1] = value
    assert "bn_last.running_var holds NaN or infinite numbers" in problems_of(wide, given)


# --- constraints ---


def test_constraints_are_applied_once():
    """XNOR-Net centres latent weights, then clips them. Applying this twice gives other values."""
    model = build("lenet5")
    given = random_tensors(shapes(to_reference(model)))
    load_reference(model, given)
    loaded = to_reference(model)

    def constrained(latent):
        return np.clip(latent - latent.mean(axis=1, keepdims=True), -1, 1)

    for name in ("bin_conv2.conv.weight", "bin_ip1.linear.weight"):
        once = constrained(given[name])
        np.testing.assert_allclose(loaded[name], once, atol=1e-6)
        assert np.abs(constrained(once) - once).max() > 1e-3
    for name in ("bin_conv2.bn.weight", "bin_ip1.bn.weight"):
        assert (given[name] < 0.01).any()
        assert np.array_equal(loaded[name], np.maximum(given[name], np.float32(0.01)))
    for name in ("conv1.weight", "ip2.weight", "bin_ip1.bn.bias"):
        assert np.array_equal(loaded[name], given[name])
