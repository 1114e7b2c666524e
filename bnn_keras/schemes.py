"""How a layer is binarized: one short entry per paper. Networks ask a scheme for their layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import larq
import tensorflow as tf

from bnn_keras import constraints, quantizers
from bnn_keras.layers import ScaledConv2D

Factory = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What binarizes a layer, as factories: an instance made early would keep the float type of that moment.

    Attributes:
        name: The scheme's name in the catalog.
        bits: Bits of weights / activations.
        kernel_quantizer: Makes the quantizer of a layer's kernel.
        input_quantizer: Makes the quantizer of a layer's inputs.
        kernel_constraint: Makes the constraint on a layer's latent kernel.
    """

    name: str
    bits: str
    kernel_quantizer: Factory
    input_quantizer: Factory
    kernel_constraint: Factory

    def conv2d(self, filters: int, kernel_size: int, **kwargs: Any) -> tf.keras.layers.Layer:
        """A binarized convolution; further arguments are those of `tf.keras.layers.Conv2D`."""
        return ScaledConv2D(filters, kernel_size, **self._quantization(), **kwargs)

    def dense(self, units: int, **kwargs: Any) -> tf.keras.layers.Layer:
        """A binarized dense layer; further arguments are those of `tf.keras.layers.Dense`."""
        return larq.layers.QuantDense(units, **self._quantization(), **kwargs)

    def _quantization(self) -> dict[str, Any]:
        return {
            "kernel_quantizer": self.kernel_quantizer(),
            "input_quantizer": self.input_quantizer(),
            "kernel_constraint": self.kernel_constraint(),
        }


def xnor(bits: str) -> Scheme:
    """XNOR-Net: kernels α · sign with the corrected gradient, centred and clipped latents, signs as activations.

    Source: Rastegari et al. 2016, arXiv:1603.05279; XNOR-Net-PyTorch, MNIST/util.py.
    """
    return Scheme(
        name="xnor",
        bits=bits,
        kernel_quantizer=quantizers.XnorScaledSign,
        input_quantizer=quantizers.XnorSign,
        kernel_constraint=constraints.CentreAndClip,
    )
