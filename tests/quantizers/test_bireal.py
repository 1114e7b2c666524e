"""Compare Bi-Real Net's estimators with golden values of the reference and with the formula in NumPy."""

import larq
import numpy as np
import pytest
from helpers import assert_close, to_hwio, to_oihw, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from procedural import quantizer_values

from bnn_keras.quantizers import RealActivation, detached_scaled_sign

GOLDEN = quantizer_values()
KERNELS = [key.split("/")[1] for key in GOLDEN if key.startswith("bireal_weight/") and key.endswith("/y")]
FUNCTIONS = {"bireal_act": larq.quantizers.ApproxSign, "bireal_leakyclip": lambda: RealActivation("leaky_clip")}
ACTIVATIONS = [key.split("/")[:2] for key in GOLDEN if key.split("/")[0] in FUNCTIONS and key.endswith("/y")]


def test_golden_file_has_all_values():
    assert len(KERNELS) == 6
    assert len(ACTIVATIONS) == 6


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_reference(kernel):
    raw, upstream = (to_hwio(GOLDEN[f"{field}/{kernel}"].astype(np.float64)) for field in ("kernel", "kernel_g"))
    binary, gradient = value_and_gradient(detached_scaled_sign, raw, upstream)
    assert np.all(raw != 0)  # sign(0) is 0 in the reference, +1 here
    assert_close(to_oihw(binary), GOLDEN[f"bireal_weight/{kernel}/y"])
    assert np.array_equal(to_oihw(gradient), GOLDEN[f"bireal_weight/{kernel}/grad"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("function", "name"), ACTIVATIONS)
def test_activation_equals_reference(function, name):
    x = GOLDEN[f"act/{name}"].astype(np.float64)
    y, gradient = value_and_gradient(FUNCTIONS[function](), x, GOLDEN[f"act_g/{name}"].astype(np.float64))
    nonzero = x != 0  # sign(0) is 0 in the reference, +1 in Larq
    assert_close(y[nonzero], GOLDEN[f"{function}/{name}/y"][nonzero])
    assert_close(gradient, GOLDEN[f"{function}/{name}/grad"])


@settings(deadline=None, max_examples=25)
@given(
    kernel_and_upstream=arrays(
        np.float64,
        st.sampled_from([(2, 3, 2, 4, 5), (2, 24, 5)]),
        elements=st.floats(-1.5, 1.5, allow_subnormal=False),
    )
)
def test_kernel_equals_formula(kernel_and_upstream):
    kernel, upstream = kernel_and_upstream
    alpha = np.abs(kernel).reshape(24, 5).sum(0) / 24
    binary, gradient = value_and_gradient(detached_scaled_sign, kernel, upstream)
    np.testing.assert_allclose(binary, alpha * np.where(kernel >= 0, 1, -1), rtol=1e-12, atol=1e-300)
    assert np.array_equal(gradient, upstream * (np.abs(kernel) <= 1))
    unmasked = value_and_gradient(lambda x: detached_scaled_sign(x, masked_gradient=False), kernel, upstream)
    assert np.array_equal(unmasked, (binary, upstream))


def test_gradient_passes_at_magnitude_one():
    kernel = np.array([[-1.0, 1.0, np.nextafter(1, 2), np.nextafter(-1, -2)]])
    _, gradient = value_and_gradient(detached_scaled_sign, kernel, np.full((1, 4), 3.0))
    assert gradient.tolist() == [[3, 3, 0, 0]]
