"""Binary kernels: their representation, and how to split a quantized kernel into signs and scales.

`Kernel` is defined in `packed_reader`, because users copy that file on its own. Other modules import it from here.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.packed_reader import Kernel as Kernel


def split_kernel(values: np.ndarray, name: str) -> Kernel:
    """Split a quantized kernel into signs and scales.

    Args:
        values: ±α with one α per filter, (…, filters).
        name: The layer's name, for the error message.

    Raises:
        BnnError: A filter has more than one magnitude, or a magnitude that is not finite.
    """
    magnitudes = np.abs(values).reshape(-1, values.shape[-1])
    scales = magnitudes.max(axis=0)
    if not (np.isfinite(scales).all() and (magnitudes == scales).all()):
        raise BnnError(
            f"the kernel of layer {name!r} is not binary: its quantizer has a precision of 1 bit, but a filter has "
            f"magnitudes from {magnitudes.min():g} to {magnitudes.max():g}; return one magnitude per filter from the "
            "quantizer, or, with Bop, whose kernels are binary after the first step, train for a step and export again"
        )
    if (scales == scales[0]).all():
        scales = scales[: int(scales[0] != 1)]
    return Kernel(np.where(np.signbit(values), -1, 1).astype(np.int8), scales.astype(np.float32))


def is_binary(layer: tf.keras.layers.Layer) -> bool:
    """Return whether a layer has a kernel of one bit per weight: a quantized one, or that of a frozen layer."""
    return getattr(layer, "frozen", False) or getattr(getattr(layer, "kernel_quantizer", None), "precision", None) == 1


def has_binary_inputs(layer: tf.keras.layers.Layer) -> bool:
    """Return whether a layer quantizes its inputs to one bit."""
    return getattr(getattr(layer, "input_quantizer", None), "precision", None) == 1
