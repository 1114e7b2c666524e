"""What is counted of each network, its initial weights, its sizes and options."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_model, build_network, build_scheme
from bnn_keras.counts import binary_variables, count
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve

# Counted on the references: parameters (without those that nothing uses), binary ones, multiply-accumulates of an
# image, those with binary inputs and kernels, those with binary kernels alone.
COUNTS = [
    ("lenet5", {}, (431_220, 425_000, 2_293_000, 2_000_000, 0)),
    ("nin", {}, (969_418, 949_248, 222_486_528, 207_618_048, 0)),
    ("alexnet", {}, (62_415_592, 58_236_928, 1_135_256_096, 1_025_744_896, 0)),
    ("wrn_20_1", {}, (268_356, 267_264, 40_591_360, 0, 40_108_032)),
    ("wrn_20_1", {"dataset": "cifar100"}, (274_296, 267_264, 40_960_000, 0, 40_108_032)),
    ("wrn_20_1", {"scheme": "float"}, (268_356, 0, 40_591_360, 0, 0)),
    ("wrn_20_2", {}, (1_071_220, 1_069_056, 161_398_784, 0, 160_432_128)),
    ("wrn_20_2", {"dataset": "cifar100"}, (1_082_920, 1_069_056, 162_136_064, 0, 160_432_128)),
    ("wrn_20_10", {"dataset": "cifar10"}, (26_737_140, 26_726_400, 4_015_636_480, 0, 4_010_803_200)),
    ("wrn_20_10", {}, (26_794_920, 26_726_400, 4_019_322_880, 0, 4_010_803_200)),
    ("birealnet18", {}, (11_689_512, 10_985_472, 1_814_073_344, 1_676_279_808, 0)),
    ("birealnet34", {}, (21_797_672, 21_086_208, 3_663_761_408, 3_525_967_872, 0)),
    ("birealnet50", {}, (25_730_088 - 1_024, 20_672_512, 4_166_254_592, 3_596_615_680, 0)),
    ("resnet20", {}, (269_850, 267_264, 40_551_040, 40_108_032, 0)),
    ("resnet20", {"bits": "1/32"}, (269_850, 267_264, 40_551_040, 0, 40_108_032)),
    ("vgg_small", {}, (4_660_106, 4_571_136, 607_600_640, 603_979_776, 0)),
    ("resnet18_cifar", {}, (11_174_986, 10_985_472, 555_422_720, 547_356_672, 0)),
    ("resnet18", {}, (11_692_536 - 2_000, 10_985_472, 1_814_073_344, 1_676_279_808, 0)),
    ("resnet18", {"bits": "1/32"}, (11_692_536 - 2_000, 10_985_472, 1_814_073_344, 0, 1_676_279_808)),
    ("resnet34", {}, (21_800_696 - 2_000, 21_086_208, 3_663_761_408, 3_525_967_872, 0)),
    ("resnet34", {"bits": "1/32"}, (21_800_696 - 2_000, 21_086_208, 3_663_761_408, 0, 3_525_967_872)),
]
# Of rethinking-bnn-optimization: trainable parameters, binary ones.
BOP_COUNTS = [
    ("binarynet", {}, (10_355_850, 10_352_000)),
    ("binary_alexnet", {}, (61_848_720, 61_827_776)),
    ("xnornet", {}, (62_387_104, 58_236_928)),
    ("birealnet18", {"overrides": ["network.variant=rethinking"]}, (11_689_512, 10_985_472)),
]
KEYS = ("parameters", "binary_parameters", "macs", "binary_macs", "binary_weight_macs")


def model_of(network, **options):
    dataset = {} if "dataset" in options else {"dataset": catalog.NETWORKS[network].dataset}
    return build_model(resolve(network, **dataset, **options).experiment)


@pytest.mark.parametrize(("network", "options", "expected"), COUNTS)
def test_counts_equal_the_references(network, options, expected):
    counts = count(model_of(network, **options))
    assert tuple(counts[key] for key in KEYS) == expected


@pytest.mark.parametrize(("network", "options", "expected"), BOP_COUNTS)
def test_counts_under_bop_equal_the_references(network, options, expected):
    counts = count(model_of(network, optimizer="bop", **options))
    assert (counts["parameters"], counts["binary_parameters"]) == expected


def test_sizes_follow_from_the_counts():
    counts = count(model_of("lenet5"))
    statistics, scales = 180, 50 + 500
    assert counts["bytes_float32"] == 4 * (431_220 + statistics)
    assert counts["bytes_minimum"] == 425_000 / 8 + 4 * (6_220 + statistics + scales)


def test_fresh_latents_fulfil_their_constraint():
    for variable in binary_variables(model_of("lenet5")):
        assert np.allclose(variable.numpy().mean(-2), 0, atol=1e-7)


# Layer, and the deviation or the limits of its fresh kernel in the reference.
INITIAL = [
    ("lenet5", "conv1", ("uniform", 25**-0.5)),
    ("lenet5", "ip2", ("uniform", 500**-0.5)),
    ("nin", "xnor.0", ("normal", 0.05)),
    ("alexnet", "features.0", ("normal", 2 / 363)),
    ("alexnet", "classifier.4", ("normal", 2 / 4096)),
    ("wrn_20_2", "group1.block1.conv0", ("normal", (2 / (9 * 64)) ** 0.5)),
    ("birealnet18", "layer2.1.binary_conv", ("positive", 0.001)),
    ("birealnet18", "conv1", ("uniform", 147**-0.5)),
    ("resnet20", "layer2.1.conv1", ("normal", (2 / (9 * 32)) ** 0.5)),
    ("resnet20", "linear", ("normal", (2 / 64) ** 0.5)),
    ("resnet18_cifar", "layer2.1.conv1", ("uniform", (9 * 128) ** -0.5)),
    ("resnet18", "layer2.0.downsample.0", ("normal", (2 / 128) ** 0.5)),
    ("resnet18", "fc", ("uniform", 512**-0.5)),
    ("vgg_small", "conv2", ("normal", (2 / (9 * 256)) ** 0.5)),
    ("vgg_small", "fc", ("normal", 0.01)),
]


@pytest.mark.parametrize(("network", "layer", "expected"), INITIAL)
def test_initial_weights_are_drawn_as_in_the_reference(network, layer, expected):
    kind, size = expected
    kernel = model_of(network).get_layer(layer).kernel.numpy()
    if kind == "normal":
        assert kernel.std() == pytest.approx(size, rel=0.1)
        assert np.abs(kernel).max() > 2.5 * size  # not cut off at two deviations
    else:
        low, high = (0, size) if kind == "positive" else (-size, size)
        assert low <= kernel.min() <= low + 0.1 * size
        assert high - 0.1 * size <= kernel.max() <= high


def test_layers_of_one_kind_are_drawn_apart():
    model = model_of("birealnet18")
    first, second = (model.get_layer(f"layer1.{place}.binary_conv").kernel.numpy() for place in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("network", ["resnet20", "resnet18_cifar", "resnet18", "resnet34"])
@pytest.mark.parametrize("structure", ["normal", "bireal"])
def test_structures(network, structure):
    scheme = build_scheme(resolve(network).experiment)
    model = build_network(network, scheme, (32, 32, 3), 10, structure=structure)
    blocks = sum(layer.name.endswith("add2") for layer in model.layers)
    shortcuts = sum(isinstance(layer, tf.keras.layers.Add) for layer in model.layers)
    assert shortcuts == blocks * (2 if structure == "bireal" else 1)


def test_structure_follows_from_the_bits():
    def structure(network, **options):
        return resolve(network, **options).experiment.network.structure

    assert [structure("resnet18", bits=bits) for bits in ("1/1", "1/32")] == ["bireal", "normal"]
    assert [structure("resnet18_cifar", bits=bits) for bits in ("1/1", "1/32")] == ["normal", "normal"]
    assert structure("resnet20", scheme="float") == "normal"
    assert structure("resnet20", bits="1/32", overrides=["network.structure=bireal"]) == "bireal"
    assert structure("vgg_small") is None


def test_wide_resnets_of_any_depth_and_width():
    narrow = count(model_of("wrn_20_1", overrides=["network.depth=26", "network.width=1.5"]))
    # Binary kernels of groups with 24, 48, 96 channels and four blocks each.
    kernels = 9 * sum(4 * 2 * c * c for c in (24, 48, 96)) - 9 * (48 * 24 + 96 * 48)
    assert narrow["binary_parameters"] == kernels


@pytest.mark.parametrize("depth", [2, 3, 21])
def test_a_depth_that_does_not_exist(depth):
    with pytest.raises(BnnError, match=rf"depth 8, 14, 20, 26, …, got {depth}; set network.depth to one"):
        model_of("wrn_20_1", overrides=[f"network.depth={depth}"])


def test_images_too_small():
    with pytest.raises(
        BnnError, match=r"cannot build network 'alexnet' for images 28 × 28 × 1 .*made for 227 × 227 × 3"
    ):
        model_of("alexnet", dataset="mnist_5k")


@pytest.mark.parametrize(
    "network", ["nin", "wrn_20_1", "resnet20", "resnet18_cifar", "vgg_small", "binarynet", "birealnet18"]
)
def test_small_grey_images(network):
    """28 → 14 → 7: odd sizes too."""
    model = model_of(network, dataset="mnist_5k")
    assert model(np.zeros((2, 28, 28, 1), np.float32)).shape == (2, 10)


@pytest.mark.parametrize("size", [7, 9, 13])
@pytest.mark.parametrize("network", ["wrn_20_1", "resnet20", "resnet18_cifar"])
def test_odd_sizes(network, size):
    scheme = build_scheme(resolve(network).experiment)
    structure = {"structure": "bireal"} if catalog.NETWORKS[network].structures else {}
    options = {"depth": 20, "width": 1} if network == "wrn_20_1" else structure
    model = build_network(network, scheme, (size, size, 3), 10, **options)
    assert model.output_shape == (None, 10)


def test_dropout_is_an_option():
    assert not any("dropout" in weight.name for weight in model_of("nin", overrides=["network.dropout=0"]).weights)
    steps = [weight for weight in model_of("nin").weights if not weight.dtype.is_floating]
    assert len(steps) == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("network.depth=20", "network 'lenet5' takes no further keys; not depth"),
        ("network.structure=normal", "network 'lenet5' has one structure; leave the key out"),
        ("scheme.t=0.5", "scheme 'xnor' takes gradient_scale; not t"),
        ("scheme.activation=clip", "scheme 'xnor' takes gradient_scale; not activation"),
    ],
)
def test_options_of_other_names(key, message):
    with pytest.raises(BnnError, match=message):
        resolve("lenet5", overrides=[key])


@pytest.mark.parametrize(("network", "scheme"), [("lenet5", "zoo"), ("zoo/quicknet", "xnor")])
def test_larq_zoo_keeps_to_itself(network, scheme):
    with pytest.raises(BnnError, match=f"network '{network}' and scheme '{scheme}' do not go together"):
        resolve(network, scheme=scheme)
