"""What a quantizer computes in inference. Each one says so itself."""

from __future__ import annotations

from typing import Any

import larq

# Larq's quantizers whose forward pass is the sign; they differ in their gradients.
_SIGNS = (larq.quantizers.SteSign, larq.quantizers.ApproxSign, larq.quantizers.SwishSign)


def inference_form(quantizer: Any) -> Any:
    """Return the quantizer with the same forward pass that inference engines know, in the simplest form.

    All signs become `ste_sign`, which converters recognise. A quantizer of another form has a method `inference_form`,
    which returns what it is in inference. Quantizers without one are returned unchanged.

    Args:
        quantizer: An input quantizer or activation, or None.

    >>> from bnn_keras.quantizers import Dropout, XnorSign
    >>> type(inference_form(Dropout(0.5, XnorSign()))).__name__
    'SteSign'
    """
    own = getattr(quantizer, "inference_form", None)
    if own is not None:
        return own()
    return larq.quantizers.SteSign() if isinstance(quantizer, _SIGNS) else quantizer
