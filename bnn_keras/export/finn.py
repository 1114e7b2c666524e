"""QONNX files in the form that FINN reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.export.qonnx import DOMAIN, constant, is_padded, read, replace


def for_finn(file: str | Path) -> Any:
    """Return the network of a QONNX file in the form that FINN's passes accept.

    FINN refuses zeros around a map of signs, because a bit has no zero. These signs become a `MultiThreshold` with two
    equal thresholds, which counts how many of them x reaches, minus 1: ``[x ≥ 0] + [x ≥ 0] − 1``, of type `INT2`. The
    layers behind have binary kernels still, and inputs of two bits.

    Args:
        file: A file of format `qonnx`.

    Returns:
        A `qonnx.core.modelwrapper.ModelWrapper`, for `ConvertQONNXtoFINN`.

    Raises:
        ImportError: QONNX is not installed.
        ValueError: The file has operators of other domains.
    """
    from onnx import helper
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(read(str(file))))
    for sign in model.get_nodes_by_op_type("BipolarQuant"):
        if model.get_initializer(sign.input[0]) is None and is_padded(model, sign):
            inputs = [sign.input[0], constant(model, np.zeros((1, 2), np.float32))]
            number = helper.make_node(
                "MultiThreshold",
                inputs,
                list(sign.output),
                domain=DOMAIN,
                out_dtype="INT2",
                out_scale=1.0,
                out_bias=-1.0,
            )
            replace(model, [sign], [number])
    return model
