"""Find binary kernels among the float constants of a converted graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bnn_keras.export.kernels import Kernel


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
