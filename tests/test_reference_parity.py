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
# What is compared of a golden file: everything, the evaluation, or the evaluation and the training with one t or τ.
EVERYTHING, EVALUATION = None, ()
ONE_T, ONE_TAU = (1.0,), (0.85,)
QUICK = {
    "xnor_lenet5": EVERYTHING,
    "xnor_lenet5_clip": EVERYTHING,
    "xnor_nin": EVALUATION,
    "wrn_20_1_1bit_cifar10": EVERYTHING,
    "small/birealnet18": EVALUATION,
    "irnet_cifar_resnet20_1w1a": ONE_T,
    "irnet_cifar_vgg_small_1w1a": EVALUATION,
    "small/irnet_imagenet_resnet18_1w1a": EVALUATION,
    "reactnet_a": EVALUATION,
    "recu_cifar_resnet20": ONE_TAU,
    "s3_binarynet": EVERYTHING,
    "torchvision_resnet18": EVALUATION,
}
SLOW = {
    "small/birealnet18": EVERYTHING,
    "xnor_nin": EVERYTHING,
    "xnor_alexnet": EVALUATION,
    "wrn_20_1_float_cifar10": EVERYTHING,
    "wrn_20_2_1bit_cifar100": EVERYTHING,
    "wrn_20_10_1bit_cifar10": EVERYTHING,
    "small/birealnet34": EVALUATION,
    "small/birealnet50": EVALUATION,
    "irnet_cifar_resnet20_1w1a": EVERYTHING,
    "irnet_cifar_resnet20_1w32a": ONE_T,
    "irnet_cifar_vgg_small_1w1a": ONE_T,
    "irnet_cifar_resnet18_1w1a": EVALUATION,
    "small/irnet_imagenet_resnet18_1w1a": ONE_T,
    "small/irnet_imagenet_resnet18_1w32a": EVALUATION,
    "small/irnet_imagenet_resnet34_1w1a": EVALUATION,
    "reactnet_resnet18": EVERYTHING,
    "reactnet_resnet18_step1": EVERYTHING,
    "recu_cifar_vgg_small": EVALUATION,
    "recu_imagenet_resnet18": EVALUATION,
    "s3_binary_alexnet": EVALUATION,
    "s3_xnornet": EVALUATION,
    "s3_birealnet": EVERYTHING,
    "torchvision_resnet18": EVERYTHING,
    "torchvision_resnet34": EVALUATION,
}


def _name(path):
    return f"small/{path.stem}" if parity.is_small(path) else path.stem


def _cases():
    """Yield golden files with the values of t or τ to train with. All that CI does not compare is nightly."""
    for path in parity.golden_files(FOLDER):
        name = _name(path)
        for part, mark in ((QUICK, ()), (SLOW, pytest.mark.slow)):
            if name in part:
                case = name if part[name] is EVERYTHING else f"{name}-in_part"
                yield pytest.param(path, part[name], id=case, marks=mark)
        if all(part.get(name, EVALUATION) is not EVERYTHING for part in (QUICK, SLOW)):
            yield pytest.param(path, EVERYTHING, id=name, marks=pytest.mark.nightly)


def _load(name):
    return procedural.load(FOLDER / f"{name}.npz")


def _evaluation_distance(name, meta, weights, images, reference):
    return parity.distance(parity.Evaluation(name, meta, weights, images).output(), reference)


def test_every_network_has_a_golden_file():
    assert {path.stem for path in parity.golden_files(FOLDER)} == set(parity.NETWORKS)


def test_every_network_is_compared_before_the_nightly_tests():
    cases = {name.removeprefix("small/") for name in (*QUICK, *SLOW)}
    networks = {name for name in catalog.NETWORKS if not name.startswith("zoo/")}
    assert {parity.NETWORKS[case][0] for case in cases} == networks


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
    float32 = temperatures is EVERYTHING
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
