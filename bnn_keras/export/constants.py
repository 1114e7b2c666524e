"""Binary kernels among the constants of a converted graph: find them, and split them into signs and scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bnn_keras.kernels import Kernel


@dataclasses.dataclass(frozen=True)
class FloatLayers:
    """Binary layers that an exported file does not have in one bit, and why, by layer name.

    Attributes:
        stored: Layers whose kernels take more than one bit per weight in the file.
        computed: Layers that the format's library computes in float.
    """

    stored: Mapping[str, str]
    computed: Mapping[str, str]


def find_float_layers(kernels: Mapping[str, Kernel], constants: Sequence[tuple[np.ndarray, str]]) -> dict[str, str]:
    """Return the layers whose binary kernels are float constants of a converted graph.

    Converters fold scales and batch norms into kernels, so kernels are compared up to a sign and a scale per filter.

    Args:
        kernels: Binary kernels by layer name.
        constants: Float kernels of the graph, (filters, height, width, inputs) or (units, inputs), each with the reason
            why it is float.

    Returns:
        Reasons by layer name.
    """
    reasons = {_key(constant.reshape(len(constant), -1)): reason for constant, reason in constants}
    keys = {
        name: _key(np.moveaxis(kernel.signs, -1, 0).reshape(kernel.signs.shape[-1], -1))
        for name, kernel in kernels.items()
    }
    return {name: reasons[key] for name, key in keys.items() if key in reasons}


def _key(filters: np.ndarray) -> bytes:
    """Return the signs of filters (filters, weights), relative to the first weight of each."""
    negative = np.signbit(filters)
    return str(filters.shape).encode() + np.packbits(negative ^ negative[:, :1]).tobytes()


def scales_of(values: np.ndarray, axis: int) -> np.ndarray | None:
    """Return α of a kernel whose values are exactly ±α, with one α per filter or one for all.

    Args:
        values: The kernel.
        axis: Its axis of filters.

    Returns:
        α in float32, with the axes of the kernel and size 1 along all of them, or along all but `axis`. None if the
        filters have other values, or a single one, which one bit and a scale would not make smaller.

    >>> scales_of(np.array([[1.0, -3.0], [-1.0, -3.0]]), axis=1)
    array([[1., 3.]], dtype=float32)
    >>> scales_of(np.array([[1.0, -3.0], [-1.0, -3.0]]), axis=0) is None
    True
    """
    magnitudes = np.abs(values.astype(np.float32))
    scales = magnitudes.max(axis=tuple(other for other in range(values.ndim) if other != axis), keepdims=True)
    if scales.size == values.size or not (magnitudes == scales).all():
        return None
    return scales.ravel()[:1].reshape((1,) * values.ndim) if (scales == scales.flat[0]).all() else scales
