"""Compare McDonnell's estimator with golden values of the reference and with the formula in NumPy."""

import numpy as np
import pytest
from helpers import assert_close, to_hwio, to_oihw, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from procedural import quantizer_values

from bnn_keras.quantizers import he_scaled_sign

GOLDEN = quantizer_values()
KERNELS = [key.split("/")[1] for key in GOLDEN if key.startswith("mcdonnell/") and key.endswith("/y")]


def test_golden_file_has_all_values():
    assert len(KERNELS) == 6


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_reference(kernel):
    raw, upstream = (to_hwio(GOLDEN[f"{field}/{kernel}"].astype(np.float64)) for field in ("kernel", "kernel_g"))
    binary, gradient = value_and_gradient(he_scaled_sign, raw, upstream)
    assert np.all(raw != 0)  # sign(0) is 0 in the reference, +1 here
    assert_close(to_oihw(binary), GOLDEN[f"mcdonnell/{kernel}/y"])
    assert np.array_equal(to_oihw(gradient), GOLDEN[f"mcdonnell/{kernel}/grad"])


@settings(deadline=None, max_examples=25)
@given(
    kernel_and_upstream=arrays(
        np.float64, st.sampled_from([(2, 3, 2, 4, 5), (2, 24, 5)]), elements=st.floats(-3, 3, allow_subnormal=False)
    )
)
def test_kernel_equals_formula(kernel_and_upstream):
    kernel, upstream = kernel_and_upstream
    binary, gradient = value_and_gradient(he_scaled_sign, kernel, upstream)
    np.testing.assert_allclose(binary, np.sqrt(2 / 24) * np.where(kernel >= 0, 1, -1), rtol=1e-12)
    assert np.array_equal(gradient, upstream)
