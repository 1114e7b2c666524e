"""The two signs have the values and gradients of Larq's, bit for bit."""

import larq
import numpy as np
import pytest
from helpers import value_and_gradient

from bnn_keras.quantizers import ApproximateSign, ClippedSign, inference_form

PAIRS = {
    "clipped_sign": (ClippedSign, larq.quantizers.SteSign),
    "approximate_sign": (ApproximateSign, larq.quantizers.ApproxSign),
}
EDGES = np.array([-2, -1, 1, 2, -0.0, 0.0], np.float32)


@pytest.mark.parametrize("name", PAIRS)
def test_equals_larq(name):
    random = np.random.default_rng(1)
    x = np.concatenate([EDGES, np.nextafter(EDGES, np.float32(0)), random.normal(0, 1, 500).astype(np.float32)])
    upstream = random.normal(0, 1, x.shape).astype(np.float32)
    ours, larqs = (value_and_gradient(quantizer(), x, upstream) for quantizer in PAIRS[name])
    assert all(map(np.array_equal, ours, larqs))


def test_gradient_without_clipping():
    _, gradient = value_and_gradient(ClippedSign(clip_value=None), 3 * EDGES, EDGES)
    assert np.array_equal(gradient, EDGES)


@pytest.mark.parametrize("name", PAIRS)
def test_serialization_and_inference(name):
    quantizer = larq.quantizers.get(name)
    copy = larq.quantizers.deserialize(larq.quantizers.serialize(quantizer))
    assert type(quantizer) is type(copy) is PAIRS[name][0]
    assert copy.get_config() == quantizer.get_config()
    assert type(inference_form(quantizer)) is larq.quantizers.SteSign
