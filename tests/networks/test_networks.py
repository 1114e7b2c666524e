"""Counts, initial weights, sizes and options of each network."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from helpers import small_network

from bnn_keras import catalog, schemes
from bnn_keras.build import build_model, build_network, build_scheme
from bnn_keras.counts import binary_variables, count
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.networks import xnor_net


def uniform(limit):
    return "uniform", -limit, limit


def positive(limit):
    return "uniform", 0, limit


def normal(deviation):
    return "normal", deviation


# Network, options, counts, and the distribution of the fresh kernels of some layers, all from the references. Counts
# are parameters (without unused ones), binary parameters, multiply-accumulates of one image, those with binary inputs
# and kernels, those with binary kernels only.
NETWORKS = [
    (
        "lenet5",
        {},
        (431_220, 425_000, 2_293_000, 2_000_000, 0),
        {"conv1": uniform(25**-0.5), "ip2": uniform(500**-0.5)},
    ),
    ("nin", {}, (969_418, 949_248, 222_486_528, 207_618_048, 0), {"xnor.0": normal(0.05)}),
    (
        "alexnet",
        {},
        (62_415_592, 58_236_928, 1_135_256_096, 1_025_744_896, 0),
        {"features.0": normal(2 / 363), "classifier.4": normal(2 / 4096)},
    ),
    ("wrn_20_1", {}, (268_356, 267_264, 40_591_360, 0, 40_108_032), {}),
    ("wrn_20_1", {"dataset": "cifar100"}, (274_296, 267_264, 40_960_000, 0, 40_108_032), {}),
    ("wrn_20_1", {"scheme": "float"}, (268_356, 0, 40_591_360, 0, 0), {}),
    (
        "wrn_20_2",
        {},
        (1_071_220, 1_069_056, 161_398_784, 0, 160_432_128),
        {"group1.block1.conv0": normal((2 / (9 * 64)) ** 0.5)},
    ),
    ("wrn_20_2", {"dataset": "cifar100"}, (1_082_920, 1_069_056, 162_136_064, 0, 160_432_128), {}),
    ("wrn_20_10", {"dataset": "cifar10"}, (26_737_140, 26_726_400, 4_015_636_480, 0, 4_010_803_200), {}),
    ("wrn_20_10", {}, (26_794_920, 26_726_400, 4_019_322_880, 0, 4_010_803_200), {}),
    (
        "birealnet18",
        {},
        (11_689_512, 10_985_472, 1_814_073_344, 1_676_279_808, 0),
        {"layer2.1.binary_conv": positive(0.001), "conv1": uniform(147**-0.5)},
    ),
    (
        "birealnet18",
        {"scheme": "reactnet"},
        (11_704_424, 10_985_472, 1_814_073_344, 1_676_279_808, 0),
        {"layer2.1.binary_conv": positive(0.001), "conv1": uniform(147**-0.5), "fc": uniform(512**-0.5)},
    ),
    (
        "birealnet18",
        {"scheme": "reactnet", "bits": "32/1"},
        (11_704_424, 0, 1_814_073_344, 0, 0),
        {"layer2.1.binary_conv": uniform((9 * 128) ** -0.5), "layer2.0.downsample.1": uniform(64**-0.5)},
    ),
    (
        "reactnet_a",
        {},
        (29_343_592, 28_253_184, 4_828_758_016, 4_816_896_000, 0),
        {"feature.2.binary_3x3": positive(0.001), "feature.0.conv1": uniform(27**-0.5)},
    ),
    (
        "reactnet_a",
        {"bits": "32/1"},
        (29_343_592, 0, 4_828_758_016, 0, 0),
        {"feature.2.binary_3x3": uniform((9 * 64) ** -0.5), "feature.3.binary_pw": uniform(128**-0.5)},
    ),
    (
        "birealnet34",
        {"scheme": "reactnet"},
        (21_827_432, 21_086_208, 3_663_761_408, 3_525_967_872, 0),
        {},
    ),
    ("birealnet34", {}, (21_797_672, 21_086_208, 3_663_761_408, 3_525_967_872, 0), {}),
    ("birealnet50", {}, (25_730_088 - 1_024, 20_672_512, 4_166_254_592, 3_596_615_680, 0), {}),
    (
        "resnet20",
        {},
        (269_850, 267_264, 40_551_040, 40_108_032, 0),
        {"layer2.1.conv1": normal((2 / (9 * 32)) ** 0.5), "linear": normal((2 / 64) ** 0.5)},
    ),
    ("resnet20", {"bits": "1/32"}, (269_850, 267_264, 40_551_040, 0, 40_108_032), {}),
    (
        "vgg_small",
        {},
        (4_660_106, 4_571_136, 607_600_640, 603_979_776, 0),
        {"conv2": normal((2 / (9 * 256)) ** 0.5), "fc": normal(0.01)},
    ),
    (
        "resnet18_cifar",
        {},
        (11_174_986, 10_985_472, 555_422_720, 547_356_672, 0),
        {"layer2.1.conv1": uniform((9 * 128) ** -0.5)},
    ),
    (
        "resnet18",
        {},
        (11_692_536 - 2_000, 10_985_472, 1_814_073_344, 1_676_279_808, 0),
        {"layer2.0.downsample.0": normal((2 / 128) ** 0.5), "fc": uniform(512**-0.5)},
    ),
    ("resnet18", {"bits": "1/32"}, (11_692_536 - 2_000, 10_985_472, 1_814_073_344, 0, 1_676_279_808), {}),
    ("resnet34", {}, (21_800_696 - 2_000, 21_086_208, 3_663_761_408, 3_525_967_872, 0), {}),
    ("resnet34", {"bits": "1/32"}, (21_800_696 - 2_000, 21_086_208, 3_663_761_408, 0, 3_525_967_872), {}),
    (
        "resnet20",
        {"scheme": "recu"},
        (270_522, 267_264, 40_551_040, 40_108_032, 0),
        {"layer2.1.conv1": normal((2 / (9 * 32)) ** 0.5), "linear": uniform(64**-0.5)},
    ),
    ("vgg_small", {"scheme": "recu"}, (4_661_770, 4_571_136, 607_600_640, 603_979_776, 0), {}),
    (
        "resnet18_cifar",
        {"scheme": "recu"},
        (11_005_002, 10_985_472, 549_131_264, 547_356_672, 0),
        {"layer2.1.conv1": normal((2 / (9 * 128)) ** 0.5)},
    ),
    (
        "resnet18",
        {"scheme": "recu"},
        (11_694_376, 10_985_472, 1_814_073_344, 1_676_279_808, 0),
        {"layer2.0.downsample.0": normal((2 / 64) ** 0.5), "fc": uniform(512**-0.5)},
    ),
    ("resnet34", {"scheme": "recu"}, (21_806_248, 21_086_208, 3_663_761_408, 3_525_967_872, 0), {}),
]
# Trainable and binary parameters of the networks of rethinking-bnn-optimization.
BOP_NETWORKS = [
    ("binarynet", {}, (10_355_850, 10_352_000)),
    ("binary_alexnet", {}, (61_848_720, 61_827_776)),
    ("xnornet", {}, (62_387_104, 58_236_928)),
    ("birealnet18", {"overrides": ["network.variant=rethinking"]}, (11_689_512, 10_985_472)),
]
KEYS = ("parameters", "binary_parameters", "macs", "binary_macs", "binary_weight_macs")
LARGE = 5_000_000  # parameters


def model_of(network, **options):
    dataset = {} if "dataset" in options else {"dataset": catalog.NETWORKS[network].dataset}
    return build_model(resolve(network, **dataset, **options).experiment)


def scheme_of(network):
    return build_scheme(resolve(network).experiment)


def _cases(networks):
    """Yield the entries of a table; large networks are slow."""
    for network, options, counts, *rest in networks:
        case = "-".join([network, *(f"{key}={value}" for key, value in options.items())])
        marks = pytest.mark.slow if counts[0] > LARGE else []
        yield pytest.param(network, options, counts, *rest, id=case, marks=marks)


def assert_drawn_from(kernel, kind, *sizes):
    if kind == "normal":
        (deviation,) = sizes
        assert kernel.std() == pytest.approx(deviation, rel=0.1)
        assert np.abs(kernel).max() > 2.5 * deviation  # not truncated at two standard deviations
    else:
        low, high = sizes
        assert low <= kernel.min() <= low + 0.1 * high
        assert high - 0.1 * high <= kernel.max() <= high


@pytest.mark.parametrize(("network", "options", "expected", "initial"), list(_cases(NETWORKS)))
def test_counts_and_initial_weights_equal_the_reference(network, options, expected, initial):
    model = model_of(network, **options)
    counts = count(model)
    assert tuple(counts[key] for key in KEYS) == expected
    for layer, distribution in initial.items():
        assert_drawn_from(model.get_layer(layer).kernel.numpy(), *distribution)


@pytest.mark.parametrize(("network", "options", "expected"), list(_cases(BOP_NETWORKS)))
def test_counts_under_bop_equal_the_reference(network, options, expected):
    counts = count(model_of(network, optimizer="bop", **options))
    assert (counts["parameters"], counts["binary_parameters"]) == expected


def test_sizes_and_constraints_of_lenet5():
    model = model_of("lenet5")
    counts = count(model)
    statistics, scales = 180, 50 + 500
    assert counts["bytes_float32"] == 4 * (431_220 + statistics)
    assert counts["bytes_minimum"] == 425_000 / 8 + 4 * (6_220 + statistics + scales)
    for variable in binary_variables(model):  # fresh latent weights fulfil their constraint
        assert np.allclose(variable.numpy().mean(-2), 0, atol=1e-7)


# Published number of operations: multiply-accumulates with a real operand, and 1/64 of the others.
PUBLISHED_OPERATIONS = {("birealnet18", "reactnet"): (1.63e8, 1.640e8), ("reactnet_a", "reactnet"): (0.87e8, 0.871e8)}


@pytest.mark.parametrize(
    ("network", "scheme"),
    [pytest.param(*case, marks=pytest.mark.slow if "reactnet_a" in case else ()) for case in PUBLISHED_OPERATIONS],
)
def test_operations_are_the_published_ones(network, scheme):
    published, ours = PUBLISHED_OPERATIONS[network, scheme]
    operations = count(model_of(network, scheme=scheme))["operations"]
    assert operations == pytest.approx(ours, rel=5e-4)
    assert operations == pytest.approx(published, rel=0.01)


def test_operations_of_real_kernels_and_real_inputs_are_not_divided():
    for options in ({"bits": "32/1"}, {"bits": "1/32"}, {"scheme": "float"}):
        counts = count(model_of("lenet5", **options))
        assert counts["operations"] == counts["macs"] == 2_293_000
    counts = count(model_of("lenet5"))
    assert counts["operations"] == 293_000 + 2_000_000 / 64


def test_shifts_are_zero_and_slopes_a_quarter_in_fresh_networks():
    """And batch norms scale by 1 and shift by 0, as in the reference."""
    model = small_network("reactnet_a", build_scheme(resolve("reactnet_a").experiment))
    initial = {"shift": 0, "before": 0, "slope": 0.25, "after": 0, "gamma": 1, "beta": 0}
    found = {name: set() for name in initial}
    for variable in model.trainable_variables:
        kind = variable.name.split("/")[-1].removesuffix(":0")
        if kind in found:
            found[kind] |= set(variable.numpy())
    assert found == {name: {value} for name, value in initial.items()}


def test_layers_of_one_kind_have_different_initial_weights():
    model = build_network("birealnet18", scheme_of("birealnet18"), (32, 32, 3), 10, blocks=(2,), filters=(8,))
    first, second = (model.get_layer(f"layer1.{index}.binary_conv").kernel.numpy() for index in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("network", ["resnet20", "resnet18_cifar", "resnet18", "resnet34"])
@pytest.mark.parametrize(("structure", "shortcuts_per_block"), [("normal", 1), ("bireal", 2)])
def test_structure_sets_the_number_of_shortcuts(network, structure, shortcuts_per_block):
    model = small_network(network, scheme_of(network), structure=structure)
    blocks = sum(layer.name.endswith("add2") for layer in model.layers)
    shortcuts = sum(isinstance(layer, tf.keras.layers.Add) for layer in model.layers)
    assert shortcuts == blocks * shortcuts_per_block > 0


def scales_of_fresh_norms(model):
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    return {layer.name: np.unique(layer.gamma).tolist() for layer in norms}


@pytest.mark.parametrize("network", ["resnet20", "resnet18_cifar", "resnet18", "resnet34"])
def test_variant_recu_has_its_shortcuts_and_initial_weights(network):
    irnet, recu = (small_network(network, scheme_of(network), variant=variant) for variant in ("irnet", "recu"))
    images = network in ("resnet18", "resnet34")  # of ImageNet
    scales = scales_of_fresh_norms(recu)
    assert scales.pop("bn2") == [1]  # behind the mean over the map
    assert all(values == pytest.approx([1e-8 if images else 1]) for values in scales.values())
    assert all(values == [1] for values in scales_of_fresh_norms(irnet).values())
    kinds = {layer.name: type(layer).__name__ for layer in recu.layers[1:]}
    if images:
        assert kinds.keys() == {layer.name for layer in irnet.layers[1:]}
        assert kinds["layer2.0.subsample"] == "Subsample"
    else:
        assert kinds["layer2.0.pool"] == "AveragePooling2D"
        assert kinds["layer2.0.pad"] == "PadChannels"
        assert not any("subsample" in name or "shortcut" in name for name in kinds)


def test_default_structure_depends_on_the_bits():
    def structure(network, **options):
        return resolve(network, **options).experiment.network.choices.get("structure")

    assert [structure("resnet18", bits=bits) for bits in ("1/1", "1/32")] == ["bireal", "normal"]
    assert [structure("resnet18_cifar", bits=bits) for bits in ("1/1", "1/32")] == ["normal", "normal"]
    assert structure("resnet20", scheme="float") == "normal"
    assert structure("resnet20", bits="1/32", overrides=["network.structure=bireal"]) == "bireal"
    assert structure("vgg_small") is None


def test_wide_resnet_has_the_given_depth_and_width():
    narrow = count(model_of("wrn_20_1", overrides=["network.depth=26", "network.width=1.5"]))
    # Binary kernels of groups with 24, 48, 96 channels and four blocks each.
    kernels = 9 * sum(4 * 2 * c * c for c in (24, 48, 96)) - 9 * (48 * 24 + 96 * 48)
    assert narrow["binary_parameters"] == kernels


def test_wide_resnet_divides_its_depth_as_the_reference():
    """n = (depth − 2) // 6: WRN-16-4 has the blocks of WRN-14-4."""
    sixteen, fourteen = (
        model_of("wrn_20_1", overrides=[f"network.depth={depth}", "network.width=4"]) for depth in (16, 14)
    )
    assert count(sixteen) == count(fourteen)
    with pytest.raises(BnnError, match=r"network\.depth is 7; expected 8 or more, such as 20"):
        model_of("wrn_20_1", overrides=["network.depth=7"])


# Parameters and binary parameters of IR-Net's networks for CIFAR-10, from their shapes: three stages of n blocks of two
# 3 × 3 convolutions with 16, 32, 64 filters, n = (depth − 2) / 6; and ResNet-34's stages of 3, 4, 6, 3 blocks.
def resnet_kernels(filters, blocks):
    shapes = [
        (filters[max(stage - (index == 0), 0)], filters[stage]) for stage, n in enumerate(blocks) for index in range(n)
    ]
    return sum(9 * (before * after + after * after) for before, after in shapes)


@pytest.mark.parametrize(
    ("network", "depth", "filters", "blocks"),
    [
        ("resnet20", 32, (16, 32, 64), (5, 5, 5)),
        pytest.param("resnet20", 110, (16, 32, 64), (18, 18, 18), marks=pytest.mark.nightly),
        pytest.param("resnet18_cifar", 34, (64, 128, 256, 512), (3, 4, 6, 3), marks=pytest.mark.slow),
    ],
)
def test_depths_of_residual_networks_for_cifar(network, depth, filters, blocks):
    counts = count(model_of(network, overrides=[f"network.depth={depth}"]))
    kernels = resnet_kernels(filters, blocks)
    first, last = 27 * filters[0], 11 * filters[-1] - filters[-1] + 10
    norms = 2 * (filters[0] + filters[-1] + 2 * sum(f * n for f, n in zip(filters, blocks, strict=True)))
    projected = sum(a * b + 2 * b for a, b in itertools.pairwise(filters)) if network == "resnet18_cifar" else 0
    assert counts["binary_parameters"] == kernels
    assert counts["parameters"] == kernels + first + last + norms + projected


def test_resnet50_for_cifar_has_bottlenecks():
    """In IR-Net's code, 1 × 1 × n, 3 × 3 × n and 1 × 1 × 4n kernels without bias, and a projection in each stage."""
    model = small_network("resnet18_cifar", scheme_of("resnet18_cifar"), depth=50)
    shapes = {
        variable.name.removesuffix("/kernel:0"): tuple(variable.shape)
        for variable in model.trainable_variables
        if variable.name.startswith("layer") and "kernel" in variable.name
    }
    assert shapes == {
        "layer1.0.conv1": (1, 1, 8, 8),
        "layer1.0.conv2": (3, 3, 8, 8),
        "layer1.0.conv3": (1, 1, 8, 32),
        "layer1.0.shortcut.0": (1, 1, 8, 32),
        "layer2.0.conv1": (1, 1, 32, 16),
        "layer2.0.conv2": (3, 3, 16, 16),
        "layer2.0.conv3": (1, 1, 16, 64),
        "layer2.0.shortcut.0": (1, 1, 32, 64),
    }
    with pytest.raises(BnnError, match=r"network\.structure is 'bireal'; expected 'normal'"):
        small_network("resnet18_cifar", scheme_of("resnet18_cifar"), depth=50, structure="bireal")


@pytest.mark.slow
def test_parameters_of_resnet50_for_cifar():
    counts = count(model_of("resnet18_cifar", scheme="float", overrides=["network.depth=50"]))
    # Kernels and batch norms of the blocks and of their projections, stem, batch norms, last layer.
    parameters, channels = 27 * 64 + 2 * 64, 64
    for n, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        parameters += channels * 4 * n + 8 * n
        for _ in range(blocks):
            parameters += channels * n + 9 * n * n + 4 * n * n + 2 * 6 * n
            channels = 4 * n
    assert counts["parameters"] == parameters + 2 * 2048 + 2048 * 10 + 10


def test_binarynet_has_the_given_sizes():
    model = model_of("binarynet", overrides=["network.filters=4", "network.dense_units=8", "network.kernel_size=5"])
    kernels = [tuple(kernel.shape) for kernel in model.trainable_variables if "kernel" in kernel.name]
    assert kernels[:3] == [(5, 5, 3, 4), (5, 5, 4, 4), (5, 5, 4, 8)]
    assert kernels[5:] == [(5, 5, 16, 16), (3 * 3 * 16, 8), (8, 8), (8, 10)]


def test_too_small_images_are_rejected():
    with pytest.raises(
        BnnError, match=r"cannot build network 'alexnet' for images 28 × 28 × 1 .*made for 227 × 227 × 3"
    ):
        model_of("alexnet", dataset="mnist_5k")


GREY = ("nin", "wrn_20_1", "resnet20", "resnet18_cifar", "vgg_small", "binarynet", "birealnet18")
ODD = ("wrn_20_1", "resnet20", "resnet18_cifar")


@pytest.mark.parametrize(
    ("network", "shape"),
    [(network, (28, 28, 1)) for network in GREY]
    + [(network, (size, size, 3)) for network in ODD for size in (7, 9, 13)],
)
def test_network_accepts_grey_images_and_odd_sizes(network, shape):
    """The maps of a 28 × 28 image shrink to 14 × 14 and 7 × 7."""
    model = small_network(network, scheme_of(network), input_shape=shape)
    assert model.output_shape == (None, 10)
    assert model(np.zeros((2, *shape), np.float32)).shape == (2, 10)


def test_nin_has_two_dropouts_by_default():
    assert not any("dropout" in weight.name for weight in small_network("nin", scheme_of("nin"), dropout=0).weights)
    steps = [weight for weight in small_network("nin", scheme_of("nin")).weights if not weight.dtype.is_floating]
    assert len(steps) == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("network.depth=20", "network.depth: unknown key of network 'lenet5'; known: name, rotated$"),
        ("network.structure=normal", "network.structure: unknown key of network 'lenet5'; known: name, rotated$"),
        ("scheme.t=0.5", "scheme.t: unknown key of scheme 'xnor'; known: name, bits, activation, gradient_scale$"),
        (
            "scheme.activation=clip",
            "scheme.activation: got 'clip'; activations have one bit at bits '1/1'; leave the key out",
        ),
    ],
)
def test_unknown_options_are_rejected(key, message):
    with pytest.raises(BnnError, match=message):
        resolve("lenet5", overrides=[key])


@pytest.mark.parametrize(("network", "scheme"), [("lenet5", "zoo"), ("zoo/quicknet", "xnor")])
def test_larq_zoo_networks_need_the_zoo_scheme(network, scheme):
    with pytest.raises(BnnError, match=f"network '{network}' and scheme '{scheme}' do not go together"):
        resolve(network, scheme=scheme)


def test_initial_weights_of_alexnet_as_of_2017():
    """Kernels from N(0, (1/n)²); PyTorch before 1.2 draws the scales of batch norms of vectors from [0, 1)."""
    images = tf.keras.Input((67, 67, 3))
    sizes = {"filters": (8, 8, 8, 8, 8), "units": (64, 64)}
    logits = xnor_net.alexnet(schemes.xnor(), images, 10, **sizes, kernel_deviation=1.0, dense_scales="uniform")
    model = tf.keras.Model(images, logits)
    kernel = model.get_layer("features.6.conv").kernel.numpy()
    assert kernel.std() == pytest.approx(1 / (9 * 8), rel=0.15)
    assert np.all(model.get_layer("features.6.bn").gamma == 1)
    for name in ("classifier.0.bn", "classifier.1.bn", "classifier.2"):
        gamma = model.get_layer(name).gamma.numpy()
        assert gamma.min() >= 0
        assert gamma.max() < 1
        assert len(set(gamma)) > 1
