"""Estimators: each file has pure functions with their gradients, and thin Larq quantizers around them."""

from bnn_keras.quantizers.xnor import XnorScaledSign, XnorSign, xnor_scaled_sign, xnor_sign

__all__ = ["XnorScaledSign", "XnorSign", "xnor_scaled_sign", "xnor_sign"]
