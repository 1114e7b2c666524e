"""Schemes: how layers are binarized, one function per paper. Networks get their layers from a scheme."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import larq
import tensorflow as tf

from bnn_keras import constraints, quantizers
from bnn_keras.layers import ScaledConv2D

Factory = Callable[[], Any]
Inputs = Literal["features", "activated", "images"]
Published = Literal["relu", "hardtanh"]


def _none() -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Build binarized layers.

    Quantizers and constraints are given as factories, because an instance keeps the float type that was set when it was
    created.

    Attributes:
        name: Name of the scheme in the catalog.
        bits: Bits of weights / activations, "1/1", "1/32", "32/1" or "32/32".
        kernel_quantizer: Creates the quantizer of a layer's kernel.
        input_quantizer: Creates the quantizer of a layer's inputs, used at 1-bit activations.
        kernel_constraint: Creates the constraint of a layer's latent kernel.
        real_activation: Function of the `quantizers.RealActivation` that replaces `input_quantizer` at 32-bit
            activations.
        own_activation: Creates the scheme's own activation, by name, for every place where a network may have one. The
            real activation in front of layers is then left out. None for schemes that take the network's.
        latent_free: Whether kernels are ±1 themselves, for Bop, without quantizer, scale and constraint.
        annealed: Values that the quantizers share and that training changes; None if there are none.

    >>> layer = xnor().conv2d(8, 3)
    >>> layer.kernel_quantizer.precision, layer.input_quantizer.precision
    (1, 1)
    >>> xnor().with_bits("1/32").conv2d(8, 3).input_quantizer.function
    'relu'
    >>> layer = xnor().with_bits("32/1").conv2d(8, 3)
    >>> layer.kernel_quantizer, layer.input_quantizer.precision
    (None, 1)
    """

    name: str
    bits: str
    kernel_quantizer: Factory = _none
    input_quantizer: Factory = _none
    kernel_constraint: Factory = _none
    real_activation: str = "relu"
    own_activation: Callable[[str], tf.keras.layers.Layer] | None = None
    latent_free: bool = False
    annealed: quantizers.Annealed | None = None

    def with_bits(self, bits: str) -> Scheme:
        """Return the scheme with other bits of weights / activations."""
        return dataclasses.replace(self, bits=bits)

    def without_latents(self) -> Scheme:
        """Return the scheme for Bop: kernels without quantizer, which are ±1 from the first step of Bop on."""
        return dataclasses.replace(self, latent_free=True)

    @property
    def binary_weights(self) -> bool:
        """Return whether kernels have one bit."""
        return self.bits.startswith("1/")

    @property
    def binary_activations(self) -> bool:
        """Return whether activations have one bit."""
        return self.bits.endswith("/1")

    def conv2d(
        self, filters: int, kernel_size: int, *, inputs: Inputs | Any = "features", dropout: float = 0.0, **kwargs: Any
    ) -> tf.keras.layers.Layer:
        """Build a binarized convolution.

        Args:
            filters: Number of filters.
            kernel_size: Height and width of the kernel.
            inputs: Kind of the layer's inputs. "features": quantize them at 1-bit activations, else apply the real
                activation. "activated": an activation precedes the layer, so quantize them at 1-bit activations, else
                leave them as they are. "images": always leave them as they are. A quantizer (`quantizer_of`) is shared
                with other layers that read the same features.
            dropout: Fraction of the quantized inputs to drop during training.
            **kwargs: Arguments of `tf.keras.layers.Conv2D`.
        """
        with _larq_warnings_disabled():
            return ScaledConv2D(filters, kernel_size, **self._quantization(inputs, dropout), **kwargs)

    def dense(
        self, units: int, *, inputs: Inputs | Any = "features", dropout: float = 0.0, **kwargs: Any
    ) -> tf.keras.layers.Layer:
        """Build a binarized dense layer. See `conv2d`; further arguments are those of `tf.keras.layers.Dense`."""
        with _larq_warnings_disabled():
            return larq.layers.QuantDense(units, **self._quantization(inputs, dropout), **kwargs)

    def activation(self, x: tf.Tensor, name: str, published: Published | None = None) -> tf.Tensor:
        """Apply the activation behind a binary layer or a sum: the scheme's own, or else the network's.

        Args:
            x: Features, (batch, …, channels).
            name: Name of the layer.
            published: What the paper of the network has there: "relu"; "hardtanh", hardtanh at 1-bit activations and
                the real activation at 32 bits; or None for nothing.

        Returns:
            The activations, in the shape of `x`.
        """
        if self.own_activation:
            return self.own_activation(name)(x)
        if published == "relu":
            return tf.keras.layers.ReLU(name=name)(x)
        if published == "hardtanh":
            function = "clip" if self.binary_activations else self.real_activation
            return quantizers.RealActivation(function, name=name)(x)
        return x

    def _quantization(self, inputs: Inputs, dropout: float) -> dict[str, Any]:
        """Return quantizers and constraint as arguments of a Larq layer."""
        quantizer = self.quantizer_of(inputs)
        return {
            **self._kernel(),
            "input_quantizer": quantizers.Dropout(dropout, quantizer, name="dropout") if dropout else quantizer,
        }

    def _kernel(self) -> dict[str, Any]:
        """Return quantizer and constraint of a kernel."""
        if not self.binary_weights:
            return {"kernel_quantizer": None, "kernel_constraint": None}
        if self.latent_free:
            return {"kernel_quantizer": larq.quantizers.NoOp(precision=1), "kernel_constraint": None}
        return {"kernel_quantizer": self.kernel_quantizer(), "kernel_constraint": self.kernel_constraint()}

    def quantizer_of(self, inputs: Inputs | Any) -> Any:
        """Create the quantizer, or the real activation, for one kind of inputs; None to leave them as they are."""
        if not isinstance(inputs, str):
            return inputs
        if inputs == "images":
            return None
        if self.binary_activations:
            return self.input_quantizer()
        if inputs == "activated" or self.own_activation:
            return None
        return quantizers.RealActivation(self.real_activation)


@contextlib.contextmanager
def _larq_warnings_disabled() -> Iterator[None]:
    """Disable Larq's warning about binary kernels without a constraint: some papers use none."""
    logger = logging.getLogger("larq.layers_base")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def float_(activation: str = "relu") -> Scheme:
    """Create the scheme without binarization: real-valued weights and activations.

    Args:
        activation: "relu", or "leaky_clip" or "clip" for the pre-training of Bi-Real Net's first recipe.

    >>> scheme = float_()
    >>> scheme.bits, scheme.dense(2).kernel_quantizer
    ('32/32', None)
    """
    return Scheme("float", "32/32", real_activation=activation)


def binarynet(activation: str = "relu") -> Scheme:
    """Create BinaryNet's scheme.

    Kernels and activations are signs with a clipped straight-through estimator; latent weights are clipped to [−1, 1].

    Args:
        activation: Real activation, used at 32-bit activations.

    Source: Courbariaux et al. 2016, arXiv:1602.02830; rethinking-bnn-optimization, models/binarynet.py (`default`).

    >>> type(binarynet().dense(2).kernel_quantizer).__name__
    'ClippedSign'
    """
    return Scheme(
        "binarynet",
        "1/1",
        kernel_quantizer=quantizers.ClippedSign,
        input_quantizer=quantizers.ClippedSign,
        kernel_constraint=lambda: larq.constraints.WeightClip(1),
        real_activation=activation,
    )


def xnor(activation: str = "relu", gradient_scale: float = 1.0) -> Scheme:
    """Create XNOR-Net's scheme.

    Kernels are α · sign(w) with a gradient through α; latent weights are centred and clipped; activations are signs.

    Args:
        activation: Real activation, used at 32-bit activations.
        gradient_scale: Factor of the gradients of kernels. The reference uses 1e9 for ImageNet.

    Source: Rastegari et al. 2016, arXiv:1603.05279; XNOR-Net-PyTorch, MNIST/util.py.

    >>> xnor(gradient_scale=1e9).dense(2).kernel_quantizer.gradient_scale
    1000000000.0
    """
    return Scheme(
        "xnor",
        "1/1",
        kernel_quantizer=lambda: quantizers.XnorScaledSign(gradient_scale=gradient_scale),
        input_quantizer=quantizers.XnorSign,
        kernel_constraint=constraints.CentreAndClip,
        real_activation=activation,
    )


def mcdonnell(activation: str = "relu") -> Scheme:
    """Create McDonnell's scheme for 1-bit weights.

    Kernels are signs times the standard deviation of He's initialisation, with an unchanged gradient; latent weights
    have no constraint. The paper keeps activations real. 1/1, with signs as activations, is an extension.

    Args:
        activation: Real activation, used at 32-bit activations.

    Source: McDonnell 2018, arXiv:1802.08530; binary-wide-resnet, wrn_mcdonnell.py.

    >>> mcdonnell().bits, mcdonnell().dense(2).kernel_constraint
    ('1/32', None)
    """
    return Scheme(
        "mcdonnell",
        "1/32",
        kernel_quantizer=quantizers.HeScaledSign,
        input_quantizer=quantizers.ClippedSign,
        real_activation=activation,
    )


def bireal(activation: str = "relu", scaled: bool = True, masked_gradient: bool = True) -> Scheme:
    """Create Bi-Real Net's scheme.

    Kernels are α · sign(w) without a gradient through α; activations are signs with the gradient of `approximate_sign`.

    Args:
        activation: Real activation, used at 32-bit activations.
        scaled: Whether kernels are ±α. If False they are ±1, as in the paper's last step, which retrains batch norms so
            that they include the scales.
        masked_gradient: Whether latent weights beyond ±1 pass no gradient, as in the reference's PyTorch code; its
            Caffe code has no such mask.

    Source: Liu et al. 2018, arXiv:1808.00278; Bi-Real-net, pytorch_implementation, caffe_implementation.

    >>> [type(bireal(scaled=scaled).dense(2).kernel_quantizer).__name__ for scaled in (True, False)]
    ['DetachedScaledSign', 'ClippedSign']
    """

    def kernel_quantizer() -> larq.quantizers.Quantizer:
        if scaled:
            return quantizers.DetachedScaledSign(masked_gradient=masked_gradient)
        return quantizers.ClippedSign(clip_value=1.0 if masked_gradient else None)

    return Scheme(
        "bireal",
        "1/1",
        kernel_quantizer=kernel_quantizer,
        input_quantizer=quantizers.ApproximateSign,
        real_activation=activation,
    )


def irnet(activation: str = "relu", t: float = 0.1, k: float = 10.0) -> Scheme:
    """Create IR-Net's scheme.

    Kernels are balanced, standardised and scaled by powers of two; all signs use the error decay estimator. All layers
    of the scheme share one pair (t, k).

    Args:
        activation: Real activation, used at 32-bit activations.
        t: Initial steepness of the estimator.
        k: Initial scale of the estimator.

    Source: Qin et al. 2020, arXiv:1909.10788; IR-Net, CIFAR-10/ResNet20/1w1a/modules.

    >>> scheme = irnet(t=0.5)
    >>> scheme.annealed is scheme.dense(2).kernel_quantizer.annealed is scheme.dense(2).input_quantizer.annealed
    True
    """
    annealed = quantizers.Annealed(t=t, k=k)
    return Scheme(
        "irnet",
        "1/1",
        kernel_quantizer=lambda: quantizers.BalancedScaledSign(annealed=annealed),
        input_quantizer=lambda: quantizers.ErrorDecaySign(annealed=annealed),
        real_activation=activation,
        annealed=annealed,
    )


def reactnet() -> Scheme:
    """Create ReActNet's scheme.

    Signs and activations have learnt shifts for each channel (RSign, RPReLU); kernels are Bi-Real Net's.

    Source: Liu et al. 2020, arXiv:2003.03488; ReActNet, resnet and mobilenet.

    >>> layer = reactnet().conv2d(2, 3)
    >>> type(layer.input_quantizer).__name__, type(layer.kernel_quantizer).__name__
    ('ShiftedSign', 'DetachedScaledSign')
    """
    return Scheme(
        "reactnet",
        "1/1",
        kernel_quantizer=quantizers.DetachedScaledSign,
        input_quantizer=lambda: quantizers.ShiftedSign(name="shifted_sign"),
        own_activation=lambda name: quantizers.ShiftedPReLU(name=name),
    )


def recu(activation: str = "relu", tau: float = 1.0) -> Scheme:
    """Create ReCU's scheme.

    Kernels are α · sign(w) with a learnt α; their weights are standardised, and those beyond the quantile τ pass no
    gradient. Inputs are divided by the deviation of their image in training. All layers of the scheme share τ.

    Args:
        activation: Real activation, used at 32-bit activations.
        tau: Initial τ.

    Source: Xu et al. 2021, arXiv:2103.12369; ReCU, cifar/modules/binarized_modules.py.

    >>> scheme = recu(tau=0.85)
    >>> scheme.annealed is scheme.conv2d(2, 3).kernel_quantizer.annealed
    True
    """
    annealed = quantizers.Annealed(tau=tau)
    return Scheme(
        "recu",
        "1/1",
        kernel_quantizer=lambda: quantizers.ClampedScaledSign(annealed=annealed, name="clamped_scaled_sign"),
        input_quantizer=quantizers.NormalizedSign,
        real_activation=activation,
        annealed=annealed,
    )


def zoo() -> Scheme:
    """Create the scheme of Larq Zoo's networks. They have their own quantizers and get no layers from it.

    >>> zoo().name
    'zoo'
    """
    return Scheme("zoo", "1/1")
