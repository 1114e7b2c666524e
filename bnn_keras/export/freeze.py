"""Freeze a trained network for inference: replace quantized kernels by their binary values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import larq
import numpy as np
import tensorflow as tf

from bnn_keras.graphs import take_layer_weights
from bnn_keras.kernels import Kernel, has_binary_inputs, is_binary, split_kernel
from bnn_keras.layers import ScaledConv2D
from bnn_keras.quantizers import Dropout, inference_form


@larq.utils.register_keras_custom_object
class FrozenConv2D(larq.layers.QuantConv2D):
    """A binary convolution for inference: y = conv(x, ±α) + bias.

    Args:
        *args: Arguments of `larq.layers.QuantConv2D`.
        scaled: Compute α · conv(x, ±1) as `ScaledConv2D` does, with α in a weight `scale`.
        **kwargs: Arguments of `larq.layers.QuantConv2D`.
    """

    frozen = True

    def __init__(self, *args: Any, scaled: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scaled = scaled

    def build(self, input_shape: Any) -> None:
        """Add the scales."""
        super().build(input_shape)
        if self.scaled:
            self.scale = self.add_weight("scale", shape=(self.filters,), initializer="ones", trainable=False)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolve, and scale the output of each filter."""
        y = super().convolution_op(inputs, kernel)
        return y * self.scale if self.scaled else y

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {**super().get_config(), "scaled": self.scaled}


@larq.utils.register_keras_custom_object
class FrozenDense(larq.layers.QuantDense):
    """A binary dense layer for inference: y = x · (±α) + bias.

    Args:
        *args: Arguments of `larq.layers.QuantDense`.
        as_convolution: Compute it as a pointwise convolution of a 1 × 1 map, because inference engines have binary
            convolutions but no binary dense layers. Outputs are equal up to rounding.
        **kwargs: Arguments of `larq.layers.QuantDense`.
    """

    kernel: Any
    frozen = True

    def __init__(self, *args: Any, as_convolution: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.as_convolution = as_convolution

    def build(self, input_shape: Any) -> None:
        """Add kernel and bias.

        With `as_convolution` the kernel is stored in the shape of a convolution, because converters do not fold the
        reshape of a large constant.
        """
        super().build(input_shape)
        if self.as_convolution:
            shape = (1, 1, *self.kernel.shape)
            self.kernel = None
            self.kernel = self.add_weight("pointwise_kernel", shape=shape, initializer="zeros", trainable=False)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Map (batch, inputs) to (batch, units)."""
        if not self.as_convolution:
            return super().call(inputs)
        # Converters recognise a binary convolution only if its input is the output of the sign.
        x = self.input_quantizer(tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1])))
        x = tf.reshape(tf.nn.conv2d(x, self.kernel, 1, "VALID"), (-1, self.units))
        x = tf.nn.bias_add(x, self.bias) if self.use_bias else x
        return self.activation(x) if self.activation else x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for serialization."""
        return {**super().get_config(), "as_convolution": self.as_convolution}


def binary_kernels(model: tf.keras.Model) -> dict[str, Kernel]:
    """Return the quantized kernels of all binary layers of a network, by layer name.

    Raises:
        BnnError: A kernel is not binary although its quantizer has a precision of 1 bit: with Bop before the first
            step, with IR-Net if a filter's standard deviation is 0.
    """
    kernels = {}
    for layer in model.layers:
        if isinstance(layer, (FrozenConv2D, FrozenDense)):
            scale = layer.scale.numpy() if getattr(layer, "scaled", False) else np.float32(1)
            kernels[layer.name] = split_kernel(layer.kernel.numpy() * scale, layer.name)
        elif is_binary(layer):
            with larq.context.quantized_scope(True):
                kernels[layer.name] = split_kernel(tf.convert_to_tensor(layer.kernel).numpy(), layer.name)
    return kernels


def freeze(
    model: tf.keras.Model, kernels: Mapping[str, Kernel] | None = None, *, dense_as_convolutions: bool = False
) -> tf.keras.Model:
    """Return a copy of a network for inference, with binary kernels in place of latent weights and quantizers.

    Dropout is removed. One-bit input quantizers are replaced by the sign. Outputs are equal to the network's bit for
    bit; with `dense_as_convolutions` up to rounding.

    Args:
        model: The network, trained with latent weights or with Bop.
        kernels: Binary kernels by layer name. Defaults to those of the network.
        dense_as_convolutions: Compute binary dense layers with one-bit inputs as pointwise convolutions.

    Returns:
        A model with the same inputs and outputs.

    Raises:
        BnnError: As `binary_kernels`.

    Example:
        >>> import larq, numpy as np, tensorflow as tf
        >>> from bnn_keras.export.freeze import freeze
        >>> binary = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
        >>> dense = larq.layers.QuantDense(2, input_quantizer="ste_sign", **binary)
        >>> model = tf.keras.Sequential([tf.keras.Input((3,)), dense])
        >>> frozen = freeze(model)
        >>> np.unique(np.abs(frozen.get_weights()[0])).tolist()
        [1.0]
        >>> images = np.ones((1, 3), np.float32)
        >>> np.array_equal(frozen(images), model(images))
        True
    """
    kernels = binary_kernels(model) if kernels is None else kernels

    def frozen(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if isinstance(layer, (tf.keras.layers.Dropout, Dropout)):
            return tf.keras.layers.Activation("linear", name=layer.name)
        if layer.name in kernels:
            return _frozen_layer(layer, kernels[layer.name], dense_as_convolutions)
        return layer.__class__.from_config({**layer.get_config(), **_plain_inputs(layer)})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # initializers of Larq Zoo's QuickNet are functions
        copy = tf.keras.models.clone_model(model, clone_function=frozen)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if old.name in kernels:
            _set_kernel(new, kernels[old.name], old.bias if old.use_bias else None)
            _set_quantizer(new.input_quantizer, old.input_quantizer)
        elif new.weights:
            take_layer_weights(new, old)
    copy.trainable = False
    return copy


def thaw(frozen: tf.keras.Model, model: tf.keras.Model) -> None:
    """Give a network for training the weights of a frozen copy of it.

    A frozen copy has no latent weights: they become scale · sign. A quantizer's learnt scales become those of the copy.

    Args:
        frozen: The result of `freeze`.
        model: The network that it is a copy of, with the same layers.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> networks = [build_model(resolve("lenet5", scheme="bireal", seed=seed).experiment) for seed in (1, 2)]
        >>> images = np.ones((1, 28, 28, 1), np.float32)
        >>> thaw(freeze(networks[0]), networks[1])
        >>> np.allclose(networks[0](images), networks[1](images), atol=1e-5)
        True
    """
    kernels = binary_kernels(frozen)
    for old, new in zip(frozen.layers, model.layers, strict=True):
        if old.name not in kernels:
            if old.weights:  # dropout has none in inference
                take_layer_weights(new, old)
            continue
        _set_kernel(new, kernels[old.name], old.bias if old.use_bias else None)
        for scale in getattr(new.kernel_quantizer, "trainable_weights", []):
            scale.assign(np.broadcast_to(_scales(kernels[old.name]), scale.shape))
        _take_quantizer(new.input_quantizer, old.input_quantizer)


def _frozen_layer(layer: tf.keras.layers.Layer, kernel: Kernel, as_convolution: bool) -> tf.keras.layers.Layer:
    unused = dict.fromkeys(("kernel_quantizer", "kernel_constraint", "kernel_regularizer", "bias_constraint"))
    config = {**layer.get_config(), **_plain_inputs(layer), **unused}
    if kernel.signs.ndim == 4:
        quantized = isinstance(layer, ScaledConv2D) and not isinstance(layer.kernel_quantizer, larq.quantizers.NoOp)
        scaled = getattr(layer, "scaled", quantized)
        return FrozenConv2D.from_config(config | {"scaled": scaled})
    return FrozenDense.from_config(config | {"as_convolution": as_convolution and has_binary_inputs(layer)})


def _set_kernel(layer: tf.keras.layers.Layer, kernel: Kernel, bias: tf.Variable | None) -> None:
    scales = _scales(kernel)
    if getattr(layer, "scaled", False):
        layer.scale.assign(np.broadcast_to(scales, layer.scale.shape))
        scales = np.float32(1)
    layer.kernel.assign(np.reshape(kernel.signs * scales, layer.kernel.shape))
    if bias is not None:
        layer.bias.assign(bias)


def _scales(kernel: Kernel) -> np.ndarray | np.float32:
    return kernel.scales if len(kernel.scales) else np.float32(1)


def _take_quantizer(new: Any, old: Any) -> None:
    """Copy the weights of the input quantizer of a frozen layer to that of a layer for training."""
    form = inference_form(new)
    if form is not None and form.weights:
        for weight, value in zip(form.weights, old.weights, strict=True):
            weight.assign(value)


def _set_quantizer(new: Any, old: Any) -> None:
    """Copy the weights of a layer's input quantizer."""
    form = inference_form(old)
    if form is not None and form.weights:
        new.set_weights([weight.numpy() for weight in form.weights])


def _plain_inputs(layer: tf.keras.layers.Layer) -> dict[str, Any]:
    """Return the config of a layer's input quantizer for inference."""
    if not hasattr(layer, "input_quantizer"):
        return {}
    quantizer = inference_form(layer.input_quantizer)
    return {"input_quantizer": larq.quantizers.serialize(quantizer) if quantizer else None}
