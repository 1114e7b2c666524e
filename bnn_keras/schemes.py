"""How a layer is binarized: one short entry per paper. Networks ask a scheme for their layers."""

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


def _nothing() -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What binarizes a layer, as factories: an instance made early would keep the float type of that moment.

    Attributes:
        name: The scheme's name in the catalog.
        bits: Bits of weights / activations.
        kernel_quantizer: Makes the quantizer of a layer's kernel.
        input_quantizer: Makes the quantizer of a layer's inputs, where activations have one bit.
        kernel_constraint: Makes the constraint on a layer's latent kernel.
        real_activation: What stands in the place of `input_quantizer` where activations have 32 bits
            (`quantizers.RealActivation`).
        latent_free: Whether kernels are ±1 themselves, for Bop, and have no quantizer, scale or constraint.
    """

    name: str
    bits: str
    kernel_quantizer: Factory = _nothing
    input_quantizer: Factory = _nothing
    kernel_constraint: Factory = _nothing
    real_activation: str = "relu"
    latent_free: bool = False

    def with_bits(self, bits: str) -> Scheme:
        """The scheme at other bits of weights / activations."""
        return dataclasses.replace(self, bits=bits)

    def without_latents(self) -> Scheme:
        """The scheme with kernels that are ±1 themselves, as Bop keeps them; they are so after its first step."""
        return dataclasses.replace(self, latent_free=True)

    @property
    def binary_activations(self) -> bool:
        """Whether activations have one bit."""
        return self.bits.endswith("/1")

    def conv2d(
        self, filters: int, kernel_size: int, *, inputs: Inputs = "features", dropout: float = 0.0, **kwargs: Any
    ) -> tf.keras.layers.Layer:
        """A binarized convolution.

        Args:
            filters: Number of filters.
            kernel_size: Height and width of the kernel.
            inputs: What comes in. "features": binarized, or sent through the real activation. "activated": the same,
                but they have been through an activation before: nothing is done to them where they keep 32 bits.
                "images": nothing is ever done to them.
            dropout: Share of the quantized inputs that training sets to 0.
            **kwargs: As `tf.keras.layers.Conv2D`.
        """
        with _larq_does_not_ask_for_constraints():
            return ScaledConv2D(filters, kernel_size, **self._quantization(inputs, dropout), **kwargs)

    def dense(
        self, units: int, *, inputs: Inputs = "features", dropout: float = 0.0, **kwargs: Any
    ) -> tf.keras.layers.Layer:
        """A binarized dense layer; arguments as those of `conv2d` and `tf.keras.layers.Dense`."""
        with _larq_does_not_ask_for_constraints():
            return larq.layers.QuantDense(units, **self._quantization(inputs, dropout), **kwargs)

    def activation(self, name: str) -> tf.keras.layers.Layer:
        """What stands after a sum or a batch norm in networks that have something there.

        Hardtanh where the next layer takes signs, else the real activation.
        """
        return quantizers.RealActivation("clip" if self.binary_activations else self.real_activation, name=name)

    def _quantization(self, inputs: Inputs, dropout: float) -> dict[str, Any]:
        quantizer = self._input_quantizer(inputs)
        return {
            "kernel_quantizer": larq.quantizers.NoOp(precision=1) if self._flips else self.kernel_quantizer(),
            "kernel_constraint": None if self._flips else self.kernel_constraint(),
            "input_quantizer": quantizers.Dropout(dropout, quantizer, name="dropout") if dropout else quantizer,
        }

    @property
    def _flips(self) -> bool:
        return self.latent_free and self.bits.startswith("1/")

    def _input_quantizer(self, inputs: Inputs) -> Any:
        if inputs == "images":
            return None
        if self.binary_activations:
            return self.input_quantizer()
        return None if inputs == "activated" else quantizers.RealActivation(self.real_activation)


@contextlib.contextmanager
def _larq_does_not_ask_for_constraints() -> Iterator[None]:
    """Larq warns of binary kernels without a constraint; some papers mean it so."""
    logger = logging.getLogger("larq.layers_base")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def float_(activation: str = "relu") -> Scheme:
    """No binarization: the network with real-valued weights and activations.

    Args:
        activation: "relu", or "leaky_clip" or "clip" for the pre-training of Bi-Real Net's first recipe.
    """
    return Scheme("float", "32/32", real_activation=activation)


def binarynet(activation: str = "relu") -> Scheme:
    """BinaryNet: signs with clipped straight-through gradients for kernels and activations, clipped latents.

    Source: Courbariaux et al. 2016, arXiv:1602.02830; rethinking-bnn-optimization, models/binarynet.py (`default`).
    """
    return Scheme(
        "binarynet",
        "1/1",
        kernel_quantizer=larq.quantizers.SteSign,
        input_quantizer=larq.quantizers.SteSign,
        kernel_constraint=lambda: larq.constraints.WeightClip(1),
        real_activation=activation,
    )


def xnor(activation: str = "relu", gradient_scale: float = 1.0) -> Scheme:
    """XNOR-Net: kernels α · sign with the corrected gradient, centred and clipped latents, signs as activations.

    Args:
        activation: What stands in the place of the signs where activations have 32 bits.
        gradient_scale: Factor of the kernels' gradients; the reference has 1e9 for ImageNet.

    Source: Rastegari et al. 2016, arXiv:1603.05279; XNOR-Net-PyTorch, MNIST/util.py.
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
    """McDonnell's 1-bit weights: signs with He's deviation as their scale; gradients pass, latents are free.

    The paper keeps activations real; signs at 1/1 are an extension.

    Source: McDonnell 2018, arXiv:1802.08530; binary-wide-resnet, wrn_mcdonnell.py.
    """
    return Scheme(
        "mcdonnell",
        "1/32",
        kernel_quantizer=quantizers.HeScaledSign,
        input_quantizer=larq.quantizers.SteSign,
        real_activation=activation,
    )


def bireal(activation: str = "relu", scaled: bool = True) -> Scheme:
    """Bi-Real Net: kernels α · sign without a gradient through α, activations with the approximate sign's gradient.

    Args:
        activation: What stands in the place of the signs where activations have 32 bits.
        scaled: Without it kernels are ±1, as where the first paper retrains batch norms to take the scales over.

    Source: Liu et al. 2018, arXiv:1808.00278; Bi-Real-net, pytorch_implementation.
    """
    return Scheme(
        "bireal",
        "1/1",
        kernel_quantizer=quantizers.DetachedScaledSign if scaled else larq.quantizers.SteSign,
        input_quantizer=larq.quantizers.ApproxSign,
        real_activation=activation,
    )


def irnet(activation: str = "relu", t: float = 0.1, k: float = 10.0) -> Scheme:
    """IR-Net: balanced, standardised kernels with power-of-two scales; the error decay estimator for all signs.

    Args:
        activation: What stands in the place of the signs where activations have 32 bits.
        t: Steepness of the estimator to begin with; one pair (t, k) for all layers made by the scheme.
        k: Its scale to begin with.

    Source: Qin et al. 2020, arXiv:1909.10788; IR-Net, CIFAR-10/ResNet20/1w1a/modules.
    """
    annealed = quantizers.Annealed(t=t, k=k)
    return Scheme(
        "irnet",
        "1/1",
        kernel_quantizer=lambda: quantizers.BalancedScaledSign(annealed=annealed),
        input_quantizer=lambda: quantizers.ErrorDecaySign(annealed=annealed),
        real_activation=activation,
    )


def zoo() -> Scheme:
    """The scheme of Larq Zoo's networks, which bring their own quantizers: it makes no layers."""
    return Scheme("zoo", "1/1")
