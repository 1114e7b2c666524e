"""Estimators: pure functions with their gradients, and the Larq quantizers that wrap them, one file per paper."""

from bnn_keras.quantizers.activations import RealActivation, clip, leaky_clip
from bnn_keras.quantizers.annealing import Annealed
from bnn_keras.quantizers.bireal import DetachedScaledSign, detached_scaled_sign
from bnn_keras.quantizers.dropout import Dropout
from bnn_keras.quantizers.inference import inference_form
from bnn_keras.quantizers.irnet import BalancedScaledSign, ErrorDecaySign, balanced_scaled_sign, error_decay_sign
from bnn_keras.quantizers.mcdonnell import HeScaledSign, he_scaled_sign
from bnn_keras.quantizers.reactnet import ShiftedPReLU, ShiftedSign, shifted_prelu, shifted_sign
from bnn_keras.quantizers.recu import ClampedScaledSign, NormalizedSign, clamped_scaled_sign, normalized_sign
from bnn_keras.quantizers.signs import (
    ApproximateSign,
    ClippedSign,
    approximate_sign,
    clipped_sign,
    has_powers_of_two,
)
from bnn_keras.quantizers.slopes import estimator_slope, outside_window
from bnn_keras.quantizers.xnor import XnorScaledSign, XnorSign, xnor_scaled_sign, xnor_sign

__all__ = [
    "Annealed",
    "ApproximateSign",
    "BalancedScaledSign",
    "ClampedScaledSign",
    "ClippedSign",
    "DetachedScaledSign",
    "Dropout",
    "ErrorDecaySign",
    "HeScaledSign",
    "NormalizedSign",
    "RealActivation",
    "ShiftedPReLU",
    "ShiftedSign",
    "XnorScaledSign",
    "XnorSign",
    "approximate_sign",
    "balanced_scaled_sign",
    "clamped_scaled_sign",
    "clip",
    "clipped_sign",
    "detached_scaled_sign",
    "error_decay_sign",
    "estimator_slope",
    "has_powers_of_two",
    "he_scaled_sign",
    "inference_form",
    "leaky_clip",
    "normalized_sign",
    "outside_window",
    "shifted_prelu",
    "shifted_sign",
    "xnor_scaled_sign",
    "xnor_sign",
]
