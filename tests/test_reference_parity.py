"""Every network computes what its reference computes: one test per golden file, in float64.

`BNN_KERAS_GOLDENS` names a folder with other values of the same form.
"""

import os
from pathlib import Path

import numpy as np
import parity
import procedural
import pytest

from bnn_keras import interop

OWN = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("BNN_KERAS_GOLDENS", OWN))
FILES = sorted(path for path in FOLDER.glob("*.npz") if path.stem != "quantizers")
LARGE = ("alexnet", "birealnet34", "birealnet50", "imagenet", "cifar_resnet18", "vgg_small", "xnornet")
EACH_FILE = pytest.mark.parametrize(
    "file",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if any(part in path.stem for part in LARGE) else [])
        for path in FILES
    ],
)
FLOAT32 = {"birealnet50": 1e-2}  # a sign turns: 0.5 % in the reference's own float32 too


def test_there_is_a_file_for_every_network():
    assert {path.stem for path in FILES} >= set(parity.NETWORKS)


@EACH_FILE
@pytest.mark.usefixtures("float64")
def test_equals_reference(file):
    differences = parity.compare(file, procedural)
    assert "output" in differences
    allowed = parity.tolerances(file.stem)
    beyond = {kind: value for kind, value in differences.items() if not value <= allowed[kind]}
    assert not beyond, differences


@EACH_FILE
def test_float32_evaluation_equals_reference(file):
    golden, meta, _, weights, images, _ = procedural.load(file)
    comparison = parity.Evaluation(file.stem, meta, weights, images)
    assert comparison.distance(golden["eval_out"]) <= FLOAT32.get(file.stem, 1e-5)


def test_evaluation_changes_no_weight():
    """XNOR-Net-PyTorch's does."""
    _, meta, _, weights, images, _ = procedural.load(OWN / "xnor_lenet5_clip.npz")
    model = parity.Evaluation("xnor_lenet5_clip", meta, weights, images).model
    before = model.get_weights()
    model(images.transpose(0, 2, 3, 1), training=False)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


@pytest.mark.usefixtures("float64")
def test_comparison_sees_a_wrong_weight():
    golden, meta, _, weights, images, _ = procedural.load(OWN / "wrn_20_1_1bit_cifar10.npz")
    weights["conv_last"] = weights["conv_last"] * 1.000001
    assert parity.Evaluation("wrn_20_1_1bit_cifar10", meta, weights, images).distance(golden["eval_out"]) > 1e-9


@pytest.mark.usefixtures("float64")
def test_without_the_rotation_it_is_another_network():
    golden, meta, _, weights, images, _ = procedural.load(OWN / "wrn_20_1_1bit_cifar10.npz")
    comparison = parity.Evaluation("wrn_20_1_1bit_cifar10", meta, weights, images[:, :, ::-1, ::-1])
    assert comparison.distance(golden["eval_out"]) > 1e-2
    assert "rotate180" in [layer.name for layer in comparison.model.layers]
    assert set(interop.to_reference(comparison.model)) <= set(weights)
