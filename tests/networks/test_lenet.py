import numpy as np
import pytest

from bnn_keras.build import build_model
from bnn_keras.constraints import CentreAndClip
from bnn_keras.counts import binary_variables, count
from bnn_keras.experiment import resolve


@pytest.fixture(scope="module")
def model():
    return build_model(resolve("lenet5").experiment)


def test_counts_equal_the_references(model):
    """Counted on the reference: 431,220 parameters, 425,000 of them binary, 2,293,000 MACs, 2,000,000 binary."""
    assert count(model) | {"bytes_float32": None, "bytes_minimum": None} == {
        "parameters": 431_220,
        "binary_parameters": 425_000,
        "macs": 2_293_000,
        "binary_macs": 2_000_000,
        "binary_weight_macs": 0,
        "bytes_float32": None,
        "bytes_minimum": None,
    }


def test_sizes_follow_from_the_counts(model):
    statistics, scales = 180, 50 + 500
    counts = count(model)
    assert counts["bytes_float32"] == 4 * (431_220 + statistics)
    assert counts["bytes_minimum"] == 425_000 / 8 + 4 * (6_220 + statistics + scales)


def test_fresh_latents_fulfil_their_constraint(model):
    for variable in binary_variables(model):
        assert isinstance(variable.constraint, CentreAndClip)
        assert np.allclose(variable.numpy().mean(-2), 0, atol=1e-7)


def test_initial_weights_are_uniform_as_in_pytorch(model):
    for name, fan_in in (("conv1", 25), ("ip2", 500)):
        kernel, bias = model.get_layer(name).get_weights()
        limit = fan_in**-0.5
        assert limit * 0.95 < np.abs(kernel).max() <= limit
        assert np.abs(bias).max() <= limit
        assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.1)


def test_another_shape_and_number_of_classes():
    from bnn_keras.networks.lenet import lenet5
    from bnn_keras.schemes import xnor

    model = lenet5(xnor("1/1"), (32, 32, 3), 7)
    assert model(np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 7)
