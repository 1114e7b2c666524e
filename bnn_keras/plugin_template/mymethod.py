"""A binarization method of your own: signs whose scale is learnt. Start here.

bnnk --plugin mymethod.py train lenet5 --experiment mymethod.toml
pytest test_mymethod.py
"""

import larq
import tensorflow as tf

from bnn_keras.catalog import Options, Positive, SchemeRow
from bnn_keras.schemes import Scheme


def scaled_sign(kernel: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Binarize a kernel to ±s for each filter.

    Forward: b = s · sign(w). Backward: dw = s · db · 1[|w| ≤ 1], ds = Σ sign(w) · db over the filter.

    Args:
        kernel: Latent kernel, (height, width, channels, filters).
        scale: The scales s, (filters,).

    Returns:
        ±s in the shape of `kernel`.
    """
    return scale * larq.quantizers.SteSign()(kernel)  # SteSign defines the gradient of the sign


# The decorator lets Keras load a saved model that has this class.
@larq.utils.register_keras_custom_object
class ScaledSign(larq.quantizers.Quantizer):
    """Quantize the kernel of a layer with `scaled_sign`. The scales are weights: training learns and saves them."""

    precision = 1  # bits of the quantized values

    def __init__(self, initial_scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape):
        """Create the scales, one for each filter."""
        initial = tf.keras.initializers.Constant(self.initial_scale)
        self.scale = self.add_weight("scale", shape=(input_shape[-1],), initializer=initial)
        super().build(input_shape)

    def call(self, inputs):
        """Return ±s in the shape of the kernel."""
        return scaled_sign(inputs, self.scale)

    def get_config(self):
        """Return the arguments of the class, for Keras."""
        return {**super().get_config(), "initial_scale": self.initial_scale}


class MyOptions(Options):
    """Keys that the scheme adds to the table `scheme` of an experiment: types, defaults and what they mean."""

    initial_scale: Positive = 1.0
    """Scale of each filter before training"""


def mymethod(initial_scale: float) -> Scheme:
    """Create the scheme. Its options are the arguments.

    A scheme says how layers are binarized. Networks get their layers from it, so it works on every network. Each part
    is a function that makes a new one for each layer; see `bnn_keras.schemes.Scheme` for all parts.
    """
    return Scheme(
        "mymethod",
        "1/1",
        kernel_quantizer=lambda: ScaledSign(initial_scale, name="scaled_sign"),
        input_quantizer=larq.quantizers.SteSign,
        kernel_constraint=lambda: larq.constraints.WeightClip(1),
    )


# What bnnk reads: any number of SchemeRow, NetworkRow, OptimizerRow, DatasetRow and FormatRow.
rows = [
    SchemeRow(
        name="mymethod",
        builder=mymethod,
        description="Signs whose scale is learnt",
        bits=("1/1", "1/32", "32/1", "32/32"),  # weights / activations; the first are the default
        options=MyOptions,
    )
]
