"""Freeze networks: binary kernels in place of latent weights, equal outputs."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.export.freeze import binary_kernels, freeze, thaw
from bnn_keras.export.random_weights import randomize_weights

SCHEMES = [name for name in catalog.SCHEMES if name != "zoo"]


def model_of(network="lenet5", **options):
    model = build_model(resolve(network, **options).experiment)
    return model, randomize_weights(model)


@pytest.mark.parametrize("bits", ["1/1", "1/32"])
@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "float"])
@pytest.mark.parametrize("network", ["lenet5", pytest.param("nin", marks=pytest.mark.slow)])
def test_outputs_equal_the_network_bit_for_bit(network, scheme, bits):
    model, images = model_of(network, scheme=scheme, bits=bits)
    frozen = freeze(model)
    assert np.array_equal(model(images), frozen(images))
    assert not frozen.trainable_weights
    assert not any(getattr(layer, "kernel_quantizer", None) for layer in frozen.layers)
    np.testing.assert_allclose(freeze(model, dense_as_convolutions=True)(images), model(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "scheme", "scales"),
    [
        ("lenet5", "xnor", [50, 500]),
        ("lenet5", "mcdonnell", [1, 1]),
        ("lenet5", "binarynet", [0, 0]),
        ("lenet5", "bireal", [50, 500]),
        ("lenet5", "float", []),
    ],
)
def test_kernels_are_split_into_signs_and_scales(network, scheme, scales):
    model, _ = model_of(network, scheme=scheme)
    kernels = binary_kernels(model)
    assert [len(kernel.scales) for kernel in kernels.values()] == scales
    for name, kernel in kernels.items():
        with larq.context.quantized_scope(True):
            quantized = tf.convert_to_tensor(model.get_layer(name).kernel).numpy()
        assert kernel.signs.dtype == np.int8
        assert np.array_equal(kernel.signs * (kernel.scales if len(kernel.scales) else np.float32(1)), quantized)
    frozen = freeze(model)
    frozen_kernels = binary_kernels(frozen)
    assert all(np.array_equal(kernels[name].signs, frozen_kernels[name].signs) for name in kernels)
    assert all(np.array_equal(kernels[name].scales, frozen_kernels[name].scales) for name in kernels)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in ("float", "irnet")])
def test_thawed_network_computes_the_same(scheme):
    """IR-Net's quantizer divides by the deviation of the latent weights, which rounds."""
    (model, images), (other, _) = (model_of(scheme=scheme, seed=seed) for seed in (1, 2))
    frozen = freeze(model)
    thaw(frozen, other)
    np.testing.assert_allclose(other(images), frozen(images), rtol=1e-4, atol=1e-4)
    for name, kernel in binary_kernels(frozen).items():
        scales = kernel.scales if len(kernel.scales) else np.float32(1)
        np.testing.assert_array_equal(other.get_layer(name).kernel.latent_variable, kernel.signs * scales)


def test_a_frozen_network_survives_serialization(tmp_path):
    model, images = model_of(scheme="bireal")
    frozen = freeze(model, dense_as_convolutions=True)
    frozen.save(tmp_path / "frozen.keras")
    assert np.array_equal(frozen(images), tf.keras.models.load_model(tmp_path / "frozen.keras")(images))


def test_given_kernels_replace_those_of_the_network():
    model, images = model_of()
    other = binary_kernels(model_of(scheme="bireal")[0])
    frozen = freeze(model, other)
    assert np.array_equal(binary_kernels(frozen)["bin_ip1.linear"].scales, other["bin_ip1.linear"].scales)
    assert not np.array_equal(frozen(images), model(images))


def test_bop_before_its_first_step_is_not_binary():
    model = build_model(resolve("lenet5", optimizer="bop").experiment)
    message = r"the kernel of layer 'bin_conv2.conv' is not binary: .* with Bop, .* train for a step and export again"
    with pytest.raises(BnnError, match=message):
        freeze(model)


def test_a_kernel_that_is_not_finite_is_rejected():
    model = build_model(resolve("lenet5", scheme="irnet").experiment)
    kernel = model.get_layer("bin_conv2.conv").kernel
    kernel.assign(tf.ones_like(kernel))  # its standard deviation is 0
    with pytest.raises(BnnError, match="is not binary"):
        freeze(model)


def test_dropout_is_removed():
    frozen = freeze(model_of("nin")[0])
    assert not any("dropout" in weight.name or "step" in weight.name for weight in frozen.weights)
