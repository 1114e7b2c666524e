"""Verify that every network equals its reference: one test per golden file.

`BNN_KERAS_GOLDENS` names a folder with other golden files of the same form.
"""

import os
from pathlib import Path

import numpy as np
import parity
import procedural
import pytest
from helpers import GOLDEN

from bnn_keras import catalog, interop

FOLDER = Path(os.environ.get("BNN_KERAS_GOLDENS", GOLDEN))
# The quick tests compare one golden file for each function that builds a network. Large networks are only evaluated, or
# trained with one t or τ; the slow tests then compare the rest.
EVERYTHING, EVALUATION = None, ()
ONE_T, OTHER_T = (1.0,), (0.1, 5.0)
ONE_TAU, OTHER_TAU = (0.85,), (0.99,)
QUICK = {
    "xnor_lenet5": EVERYTHING,
    "xnor_nin": EVERYTHING,
    "xnor_alexnet": EVALUATION,
    "wrn_20_1_1bit_cifar10": EVERYTHING,
    "small/birealnet18": EVERYTHING,
    "small/birealnet34": EVALUATION,
    "small/birealnet50": EVALUATION,
    "irnet_cifar_resnet20_1w1a": EVERYTHING,
    "irnet_cifar_vgg_small_1w1a": ONE_T,
    "irnet_cifar_resnet18_1w1a": EVALUATION,
    "small/irnet_imagenet_resnet18_1w1a": EVALUATION,
    "small/irnet_imagenet_resnet34_1w1a": EVALUATION,
    "reactnet_resnet18": EVALUATION,
    "reactnet_a": EVALUATION,
    "recu_cifar_resnet20": ONE_TAU,
    "torchvision_resnet18": EVALUATION,
    "torchvision_resnet34": EVALUATION,
    "s3_binarynet": EVERYTHING,
    "s3_binary_alexnet": EVALUATION,
    "s3_xnornet": EVALUATION,
}
NIGHTLY = ("reactnet_resnet34", "recu_imagenet_resnet34")  # deeper versions of others
REST = {EVALUATION: EVERYTHING, ONE_T: OTHER_T, ONE_TAU: OTHER_TAU}


def _cases():
    """Yield golden files with the values of t or τ to train with.

    Small images replace large ones, which are nightly if both exist.
    """
    for path in parity.golden_files(FOLDER):
        case = f"small/{path.stem}" if parity.is_small(path) else path.stem
        if case in QUICK:
            yield pytest.param(path, QUICK[case], id=f"{case}-in_part" if QUICK[case] in REST else case)
        if QUICK.get(case, EVALUATION) in REST:
            has_small_version = not parity.is_small(path) and (FOLDER / "small" / path.name).is_file()
            mark = pytest.mark.nightly if has_small_version or case in NIGHTLY else pytest.mark.slow
            yield pytest.param(path, REST[QUICK.get(case, EVALUATION)], id=case, marks=mark)


def _load(name):
    return procedural.load(FOLDER / f"{name}.npz")


def _evaluation_distance(name, meta, weights, images, reference):
    return parity.distance(parity.Evaluation(name, meta, weights, images).output(), reference)


def test_every_network_has_a_golden_file():
    assert {path.stem for path in parity.golden_files(FOLDER)} == set(parity.NETWORKS)


def test_every_builder_is_compared_in_the_quick_tests():
    networks = [parity.NETWORKS[case.removeprefix("small/")][0] for case in QUICK]
    builders = {row.builder for name, row in catalog.NETWORKS.items() if not name.startswith("zoo/")}
    assert {catalog.NETWORKS[network].builder for network in networks} == builders


def test_golden_files_of_other_things_are_left_out(tmp_path):
    (tmp_path / "small").mkdir()
    for name in (
        "quantizers",
        "quantizers_more",
        "another_network",
        "birealnet18",
        "small/birealnet18",
        "small/birealnet34",
    ):
        (tmp_path / f"{name}.npz").touch()
    found = [str(path.relative_to(tmp_path)) for path in parity.golden_files(tmp_path)]
    assert found == ["small/birealnet18.npz", "birealnet18.npz", "small/birealnet34.npz"]


@pytest.mark.parametrize(("path", "temperatures"), list(_cases()))
def test_network_equals_reference(path, temperatures):
    """In float64: outputs, gradients, running statistics, five training steps. In float32: the evaluation output."""
    float32 = temperatures not in REST
    differences = parity.compare(path, float32, temperatures)
    assert differences.keys() >= ({"output", "output_float32"} if float32 else {"output"})
    allowed = parity.tolerances(path.stem, parity.is_small(path))
    too_large = {kind: value for kind, value in differences.items() if not value <= allowed[kind]}
    assert not too_large, differences


def test_evaluation_changes_no_weight():
    """XNOR-Net-PyTorch's evaluation does."""
    _, meta, _, weights, images, _ = _load("xnor_lenet5_clip")
    model = parity.Evaluation("xnor_lenet5_clip", meta, weights, images).model
    before = model.get_weights()
    model(images.transpose(0, 2, 3, 1), training=False)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


@pytest.mark.usefixtures("float64")
def test_wrong_weight_is_detected():
    golden, meta, _, weights, images, _ = _load("wrn_20_1_1bit_cifar10")
    weights["conv_last"] = weights["conv_last"] * 1.000001
    assert _evaluation_distance("wrn_20_1_1bit_cifar10", meta, weights, images, golden["eval_out"]) > 1e-9


@pytest.mark.usefixtures("float64")
def test_unrotated_network_differs():
    golden, meta, _, weights, images, _ = _load("wrn_20_1_1bit_cifar10")
    evaluation = parity.Evaluation("wrn_20_1_1bit_cifar10", meta, weights, images[:, :, ::-1, ::-1])
    assert parity.distance(evaluation.output(), golden["eval_out"]) > 1e-2
    assert "rotate180" in [layer.name for layer in evaluation.model.layers]
    assert set(interop.to_reference(evaluation.model)) <= set(weights)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperatures", [EVALUATION, EVERYTHING])
def test_nan_is_a_difference(temperatures, monkeypatch):
    def load(model, tensors):
        load_reference(model, tensors)
        model.get_layer("ip2").bias.assign(np.full(10, np.nan))

    load_reference = interop.load_reference
    monkeypatch.setattr(interop, "load_reference", load)
    path = FOLDER / "xnor_lenet5.npz"
    golden, meta, _, weights, images, labels = procedural.load(path)
    differences = parity.Comparison(path, golden, meta, weights, images, labels, temperatures).differences
    assert all(np.isnan(differences[kind]) for kind in differences.keys() - {"statistics"})


def test_differences_from_zero_are_absolute():
    assert parity.distance([0.25, 0.0], np.zeros(2)) == 0.25
    assert parity.distance([3.0, 0.0], np.array([2.0, 0.0])) == 0.5
