"""Compare XNOR-Net's estimators with golden values of the reference and with the formula in NumPy."""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, to_hwio, to_oihw, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from procedural import quantizer_values

from bnn_keras.constraints import CentreAndClip
from bnn_keras.quantizers import XnorScaledSign, xnor_scaled_sign, xnor_sign

GOLDEN = quantizer_values()
SCALES = {"mnist": 1.0, "cifar": 1.0, "imagenet": 1e9}
CASES = [
    (dataset, key.split("/")[1])
    for dataset in SCALES
    for key in GOLDEN
    if key.startswith(f"xnor_{dataset}/") and key.endswith("/latent")
]


def test_golden_file_has_all_values():
    assert len(CASES) == 16


@pytest.mark.parametrize(("dataset", "kernel"), CASES)
def test_kernel_equals_reference(dataset, kernel):
    raw = to_hwio(GOLDEN[f"kernel/{kernel}"].astype(np.float64))
    upstream = to_hwio(GOLDEN[f"kernel_g/{kernel}"].astype(np.float64))
    prefix = f"xnor_{dataset}/{kernel}"

    latent = CentreAndClip()(tf.constant(raw)).numpy()
    assert_close(to_oihw(latent), GOLDEN[f"{prefix}/latent"])
    assert_close(to_oihw(CentreAndClip()(tf.constant(latent)).numpy()), GOLDEN[f"{prefix}/latent2"])

    binary, gradient = value_and_gradient(
        lambda x: xnor_scaled_sign(x, gradient_scale=SCALES[dataset]), latent, upstream
    )
    assert_close(to_oihw(binary), GOLDEN[f"{prefix}/binary"])
    assert_close(to_oihw(gradient), GOLDEN[f"{prefix}/grad"])

    without_factors = {"fan_in_factor": False, "channel_factor": False}
    _, gradient = value_and_gradient(lambda x: xnor_scaled_sign(x, **without_factors), latent, upstream)
    assert_close(to_oihw(gradient), GOLDEN[f"{prefix}/grad_nofactor"])


@pytest.mark.parametrize("name", ["nchw", "nc", "edge"])
def test_activation_equals_reference(name):
    x = GOLDEN[f"act/{name}"].astype(np.float64)
    y, gradient = value_and_gradient(xnor_sign, x, GOLDEN[f"act_g/{name}"].astype(np.float64))
    nonzero = x != 0
    assert np.array_equal(y[nonzero], GOLDEN[f"xnor_act/{name}/y"][nonzero])
    assert np.array_equal(gradient, GOLDEN[f"xnor_act/{name}/grad"])


def test_sign_of_zero_is_one():
    assert xnor_sign(tf.constant([0.0, -0.0])).numpy().tolist() == [1, 1]


@settings(deadline=None, max_examples=25)
@given(
    kernel=arrays(np.float64, (3, 2, 4, 5), elements=st.floats(-1.5, 1.5, allow_subnormal=False)),
    upstream=arrays(np.float64, (3, 2, 4, 5), elements=st.floats(-1, 1, allow_subnormal=False)),
    fan_in=st.booleans(),
    channel=st.booleans(),
)
def test_kernel_equals_formula(kernel, upstream, fan_in, channel):
    n, c = 24, 4
    sign = np.where(kernel >= 0, 1.0, -1.0)
    alpha = np.abs(kernel).sum((0, 1, 2)) / n
    factor = (n if fan_in else 1) * (1 - 1 / c if channel else 1)
    expected = factor * (alpha * upstream * (np.abs(kernel) <= 1) + sign * (upstream * sign).sum((0, 1, 2)) / n)
    binary, gradient = value_and_gradient(lambda x: xnor_scaled_sign(x, fan_in, channel), kernel, upstream)
    np.testing.assert_allclose(binary, alpha * sign, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)


def test_serialization_keeps_arguments():
    quantizer = XnorScaledSign(fan_in_factor=False, channel_factor=False, gradient_scale=1e9)
    copy = larq.quantizers.deserialize(larq.quantizers.serialize(quantizer))
    assert (copy.fan_in_factor, copy.channel_factor, copy.gradient_scale) == (False, False, 1e9)
