"""From a trained network to one for inference: kernels are ±1 with their scales, and nothing quantizes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import larq
import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.export.packed_reader import Kernel
from bnn_keras.layers import ScaledConv2D
from bnn_keras.quantizers import Dropout

# Where a quantizer of one bit must say what the sign says; both zeros count as positive.
_PROBES = np.array([-1e6, -1.5, -1.0, -0.5, -1e-6, -0.0, 0.0, 1e-6, 0.5, 1.0, 1.5, 1e6], np.float32)


def kernel_of(values: np.ndarray, name: str) -> Kernel:
    """Takes a two-valued kernel apart.

    Args:
        values: ±α, with one α for each filter, (…, filters).
        name: The layer's, for the error.

    Raises:
        BnnError: A filter has other values.
    """
    magnitudes = np.abs(values).reshape(-1, values.shape[-1])
    scales = magnitudes.max(axis=0)
    if not (np.isfinite(scales).all() and (magnitudes == scales).all()):
        raise BnnError(
            f"the kernel of layer {name!r} is not binary: its quantizer says one bit, but a filter has magnitudes from "
            f"{magnitudes.min():g} to {magnitudes.max():g}; Bop's kernels are binary after its first step: train it "
            "for one, then export"
        )
    if (scales == scales[0]).all():
        scales = scales[: int(scales[0] != 1)]
    return Kernel(np.where(np.signbit(values), -1, 1).astype(np.int8), scales.astype(np.float32))


@larq.utils.register_keras_custom_object
class FrozenConv2D(larq.layers.QuantConv2D):
    """A binary convolution for inference: y = conv(x, ±α) + bias.

    Args:
        scaled: Compute α · conv(x, ±1) as `ScaledConv2D` does, with α as a weight of its own.
    """

    def __init__(self, *args: Any, scaled: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scaled = scaled

    def build(self, input_shape: Any) -> None:
        """Adds the scales."""
        super().build(input_shape)
        if self.scaled:
            self.scale = self.add_weight("scale", shape=(self.filters,), initializer="ones", trainable=False)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves, and scales the result for each filter."""
        y = super().convolution_op(inputs, kernel)
        return y * self.scale if self.scaled else y

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {**super().get_config(), "scaled": self.scaled}


@larq.utils.register_keras_custom_object
class FrozenDense(larq.layers.QuantDense):
    """A binary dense layer for inference: y = x · (±α) + bias.

    Args:
        as_convolution: Compute it as a pointwise convolution of a 1 × 1 map, which is what engines for binary networks
            have; equal but for rounding.
    """

    def __init__(self, *args: Any, as_convolution: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.as_convolution = as_convolution

    def build(self, input_shape: Any) -> None:
        """Adds kernel and bias; that of a convolution has its shape: engines do not reshape a large one."""
        super().build(input_shape)
        if self.as_convolution:
            shape = (1, 1, *self.kernel.shape)
            self.kernel = None
            self.kernel = self.add_weight("pointwise_kernel", shape=shape, initializer="zeros", trainable=False)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(batch, inputs) → (batch, units)."""
        if not self.as_convolution:
            return super().call(inputs)
        # Engines find a binary convolution where the sign stands right in front of it.
        x = self.input_quantizer(tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1])))
        x = tf.reshape(tf.nn.conv2d(x, self.kernel, 1, "VALID"), (-1, self.units))
        x = tf.nn.bias_add(x, self.bias) if self.use_bias else x
        return self.activation(x) if self.activation else x

    def get_config(self) -> dict[str, Any]:
        """The arguments, for serialization."""
        return {**super().get_config(), "as_convolution": self.as_convolution}


def binary_kernels(model: tf.keras.Model) -> dict[str, Kernel]:
    """The binary kernels of a network, as its quantizers make them, by the names of their layers.

    Raises:
        BnnError: A kernel whose quantizer says one bit has not: Bop's before its first step, IR-Net's of a filter
            without a deviation.
    """
    kernels = {}
    for layer in model.layers:
        if isinstance(layer, (FrozenConv2D, FrozenDense)):
            scale = layer.scale if getattr(layer, "scaled", False) else 1.0
            kernels[layer.name] = kernel_of((layer.kernel * scale).numpy(), layer.name)
        elif is_binary(layer):
            with larq.context.quantized_scope(True):
                kernels[layer.name] = kernel_of(tf.convert_to_tensor(layer.kernel).numpy(), layer.name)
    return kernels


def is_binary(layer: tf.keras.layers.Layer) -> bool:
    """Whether a layer quantizes its kernel to one bit."""
    return getattr(getattr(layer, "kernel_quantizer", None), "precision", None) == 1


def freeze(
    model: tf.keras.Model, kernels: Mapping[str, Kernel] | None = None, *, dense_as_convolutions: bool = False
) -> tf.keras.Model:
    """The network for inference.

    Binary kernels become ±1 with their scales. Dropout is gone, and so are the quantizers of inputs but for the plain
    sign. Outputs are the network's, bit for bit; with `dense_as_convolutions` but for rounding.

    Args:
        model: The network, with latent weights or Bop's.
        kernels: Binary kernels to put in, by the names of their layers; the network's own where absent.
        dense_as_convolutions: Compute binary dense layers with one-bit inputs as pointwise convolutions.

    Returns:
        A model from the same images to the same logits.

    Raises:
        BnnError: As `binary_kernels`.
    """
    own = binary_kernels(model) if kernels is None else kernels

    def frozen(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if isinstance(layer, (tf.keras.layers.Dropout, Dropout)):
            return tf.keras.layers.Activation("linear", name=layer.name)
        if layer.name in own:
            return _frozen_layer(layer, own[layer.name], dense_as_convolutions)
        return layer.__class__.from_config({**layer.get_config(), **_plain_inputs(layer)})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Larq Zoo's QuickNet has functions for initializers
        copy = tf.keras.models.clone_model(model, clone_function=frozen)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if old.name in own:
            _set_kernel(new, own[old.name], old.bias if old.use_bias else None)
        elif new.weights:
            new.set_weights([weight.numpy() for weight in old.weights][: len(new.weights)])
    copy.trainable = False
    return copy


def _frozen_layer(layer: tf.keras.layers.Layer, kernel: Kernel, as_convolution: bool) -> tf.keras.layers.Layer:
    unused = dict.fromkeys(("kernel_quantizer", "kernel_constraint", "kernel_regularizer", "bias_constraint"))
    config = {**layer.get_config(), **_plain_inputs(layer), **unused}
    if kernel.signs.ndim == 4:
        scaled = isinstance(layer, ScaledConv2D) and not isinstance(layer.kernel_quantizer, larq.quantizers.NoOp)
        return FrozenConv2D.from_config(config | {"scaled": scaled})
    return FrozenDense.from_config(config | {"as_convolution": as_convolution and has_binary_inputs(layer)})


def _set_kernel(layer: tf.keras.layers.Layer, kernel: Kernel, bias: tf.Variable | None) -> None:
    scales = kernel.scales if len(kernel.scales) else np.float32(1)
    if getattr(layer, "scaled", False):
        layer.scale.assign(np.broadcast_to(scales, layer.scale.shape))
        scales = np.float32(1)
    layer.kernel.assign(np.reshape(kernel.signs * scales, layer.kernel.shape))
    if bias is not None:
        layer.bias.assign(bias)


def has_binary_inputs(layer: tf.keras.layers.Layer) -> bool:
    """Whether a layer quantizes its inputs to one bit."""
    return getattr(getattr(layer, "input_quantizer", None), "precision", None) == 1


def _plain_inputs(layer: tf.keras.layers.Layer) -> dict[str, Any]:
    """The input quantizer of a layer for inference: without dropout, and the plain sign where it is one."""
    quantizer = getattr(layer, "input_quantizer", None)
    if isinstance(quantizer, Dropout):
        quantizer = quantizer.quantizer
    if quantizer is None:
        return {"input_quantizer": None} if hasattr(layer, "input_quantizer") else {}
    if np.array_equal(quantizer(tf.constant(_PROBES)), np.where(_PROBES >= 0, 1, -1)):
        quantizer = larq.quantizers.SteSign()
    return {"input_quantizer": larq.quantizers.serialize(quantizer)}
