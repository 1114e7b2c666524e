"""The inference form of a quantizer computes the same and, for every sign, is Larq's sign."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog, schemes
from bnn_keras.build import build_scheme
from bnn_keras.experiment import resolve
from bnn_keras.quantizers import Dropout, RealActivation, inference_form

# Both zeros, and both sides of every point at which an estimator changes.
INPUTS = np.array([-1e6, -1.5, -1.0, -0.5, -1e-6, -0.0, 0.0, 1e-6, 0.5, 1.0, 1.5, 1e6], np.float32)
BINARY = [name for name, row in catalog.SCHEMES.items() if "1/1" in row.bits and name not in ("zoo", "reactnet")]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("scheme", BINARY)
def test_inputs_of_every_scheme_are_signs(scheme, dropout):
    scheme = build_scheme(resolve("lenet5", scheme=scheme, bits="1/1").experiment)
    layer = scheme.dense(2, dropout=dropout)
    form = inference_form(layer.input_quantizer)
    assert type(form) is larq.quantizers.SteSign
    for quantizer in (form, layer.input_quantizer):
        assert np.array_equal(quantizer(tf.constant(INPUTS)), np.where(INPUTS >= 0, 1, -1))


def test_sign_behind_a_learnt_shift_stays():
    quantizer = schemes.reactnet().dense(2).input_quantizer
    assert inference_form(quantizer) is inference_form(Dropout(0.5, quantizer)) is quantizer


@pytest.mark.parametrize(
    "quantizer",
    [RealActivation("clip"), larq.quantizers.DoReFaQuantizer(2), larq.quantizers.SteHeaviside(), None],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_other_quantizers_stay(quantizer):
    assert inference_form(quantizer) is quantizer
    assert inference_form(Dropout(0.5, quantizer)) is quantizer


def test_real_activations_of_a_scheme_stay():
    assert inference_form(schemes.xnor().with_bits("1/32").dense(2).input_quantizer).function == "relu"
