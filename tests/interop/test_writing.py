"""Write checkpoint files that the references' code loads, and read them back bit for bit."""

import json

import numpy as np
import procedural
import pytest
from helpers import GOLDEN

from bnn_keras.build import build_network, build_scheme
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.interop import Progress, files, load_reference, state_dict, write_checkpoint

# Golden file, which has the names of the reference's tensors in its order: network and arguments.
NETWORKS = {
    "xnor_lenet5": ("lenet5", {}),
    "xnor_nin": ("nin", {}),
    "xnor_alexnet": ("alexnet", {}),
    "wrn_20_1_1bit_cifar10": ("wrn_20_1", {}),
    "birealnet18": ("birealnet18", {}),
    "birealnet50": ("birealnet50", {}),
    "irnet_cifar_resnet20_1w1a": ("resnet20", {}),
    "irnet_cifar_vgg_small_1w1a": ("vgg_small", {}),
    "irnet_imagenet_resnet18_1w1a": ("resnet18", {}),
}
SLOW = ("birealnet18", "birealnet50", "irnet_imagenet_resnet18_1w1a", "irnet_cifar_vgg_small_1w1a", "xnor_alexnet")
# What each trainer stores beside the state dict after three epochs, and the first name in its state dict.
ENTRIES = {
    "lenet5": ({"acc": 61.5}, "conv1.weight"),
    "nin": ({"best_acc": 61.5}, "xnor.0.weight"),
    "alexnet": ({"epoch": 3, "arch": "alexnet", "best_prec1": 61.5}, "features.module.0.weight"),
    "wrn_20_1": ({"epoch": 2}, "module.conv0"),
    "birealnet18": ({"epoch": 2, "best_top1_acc": 61.5}, "module.conv1.weight"),
    "resnet20": ({"epoch": 3, "best_prec1": 61.5}, "module.conv1.weight"),
}


def build(network, size=None, **choices):
    experiment = resolve(network, **choices).experiment
    height, _, channels = experiment.input_shape
    shape = (size or height, size or height, channels)
    scheme, options = build_scheme(experiment), experiment.network.choices
    return build_network(network, scheme, shape, experiment.data.row.classes, rotated=True, **options)


@pytest.mark.parametrize(
    "file", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]
)
def test_state_dict_has_the_tensors_of_the_reference_in_its_order(file):
    """The order of parameters is that of the optimizer's state; the golden files list statistics after all others."""
    network, choices = NETWORKS[file]
    written = state_dict(build(network, **choices))
    with np.load(GOLDEN / f"{file}.npz") as golden:
        expected = {name: tuple(shape) for name, shape, kind in json.loads(str(golden["names"])) if kind != "count"}
    assert {name: value.shape for name, value in written.items()} == expected
    parameters = [[name for name in names if "running_" not in name] for names in (written, expected)]
    assert parameters[0] == parameters[1]


def test_unused_tensors_have_their_initial_values():
    tensors = state_dict(build("resnet18", 64, dataset="cifar10", overrides=["network.structure=bireal"]))
    assert {
        name: tensors[f"bn3.{name}"].tolist()[:2] for name in ("weight", "bias", "running_mean", "running_var")
    } == {
        "weight": [1, 1],
        "bias": [0, 0],
        "running_mean": [0, 0],
        "running_var": [1, 1],
    }
    assert len(tensors["bn3.weight"]) == 10


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=pytest.mark.slow if name == "alexnet" else ()) for name in ENTRIES]
)
def test_file_is_that_of_the_trainer(tmp_path, network):
    torch = pytest.importorskip("torch")
    expected, first = ENTRIES[network]
    model = build(network, 64 if network == "birealnet18" else None)
    write_checkpoint(tmp_path / "x.pth.tar", model, Progress(3, 61.5))
    content = torch.load(tmp_path / "x.pth.tar", weights_only=True)
    state = content.pop("state_dict")
    assert (content, next(iter(state))) == (expected, first)
    read = files.read_content(tmp_path / "x.pth.tar")
    assert read.entries == expected
    assert list(read.tensors) == list(state_dict(model))
    assert all(read.tensors[name].tobytes() == value.tobytes() for name, value in state_dict(model).items())


def test_packed_file_is_unpacked_as_the_reference_does(tmp_path):
    """evaluate_packed.py: ±√(2 / n) with n = 8 × bytes of a filter, and no dictionary around the tensors."""
    torch = pytest.importorskip("torch")
    _, _, _, weights, _, _ = procedural.load(GOLDEN / "wrn_20_1_1bit_cifar10.npz")
    model = build("wrn_20_1")
    load_reference(model, weights)
    write_checkpoint(tmp_path / "x.pth.tar", model, packed=True)
    content = torch.load(tmp_path / "x.pth.tar", weights_only=True)
    packed = {name: value.numpy() for name, value in content.items() if value.dtype == torch.uint8}
    assert len(packed) == 18
    assert all(name.startswith("module.group") for name in packed)
    for name, bits in packed.items():
        latent = weights[name.removeprefix("module.")]
        signs = np.unpackbits(bits, axis=1) * 2.0 - 1
        np.testing.assert_array_equal(signs, np.sign(latent))
    for name in content.keys() - packed.keys():
        np.testing.assert_array_equal(content[name], weights[name.removeprefix("module.")])


# --- files that cannot be written ---


@pytest.mark.parametrize(
    ("network", "choices", "message"),
    [
        (
            "lenet5",
            {},
            "the reference of lenet5 does not read packed signs; export to 'reference', or export one of wrn",
        ),
        ("wrn_20_1", {"scheme": "float"}, "the reference of wrn_20_1 does not read packed signs"),
        ("wrn_20_1", {"overrides": ["network.width=0.25"]}, r"group0\.block0\.conv0 of wrn_20_1 has 4 input channels"),
    ],
)
def test_networks_without_packed_files(network, choices, message):
    with pytest.raises(BnnError, match=message):
        state_dict(build(network, **choices), packed=True)


def test_tensor_that_the_reference_uses_and_the_network_does_not_have():
    with pytest.raises(BnnError, match=r"reference of resnet20 stores '\*\.tau'.*choose another scheme"):
        state_dict(build("resnet20", scheme="recu"))


def test_suffix_of_another_file(tmp_path):
    with pytest.raises(BnnError, match=r"x\.onnx' is not the name of a PyTorch file; name it 'x\.pth\.tar'"):
        write_checkpoint(tmp_path / "x.onnx", build("lenet5"))
