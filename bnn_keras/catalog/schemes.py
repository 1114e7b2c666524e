"""Binarization schemes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from bnn_keras.catalog.options import BY_BITS, Options
from bnn_keras.catalog.rows import Bits, SchemeRow, table
from bnn_keras.schedule_config import Geometric, ScheduleConfig, Scheduled, ShiftedExponential
from bnn_keras.tables import Positive


class RealActivation(Options):
    """Options of schemes without an activation of their own."""

    activation: Annotated[Literal["relu", "leaky_clip", "clip"] | None, BY_BITS] = None
    """Activation function in place of the signs, if activations have 32 bits. Default: `relu`"""

    @pydantic.field_validator("activation")
    @classmethod
    def _only_at_32_bits(cls, activation: str | None, info: pydantic.ValidationInfo) -> str | None:
        bits = str(info.data.get("bits"))
        if bits.endswith("/32"):
            return activation or "relu"
        if activation:
            raise ValueError(f"activations have one bit at bits {bits!r}; leave the key out")
        return None


class Xnor(RealActivation):
    """Options of XNOR-Net."""

    gradient_scale: Positive = 1.0
    """Factor of the kernels' gradients; XNOR-Net-PyTorch uses 1e9 for ImageNet"""


class Bireal(RealActivation):
    """Options of Bi-Real Net."""

    scaled: bool = True
    """`false`: kernels are ±1, without the mean of their magnitudes"""
    masked_gradient: bool = True
    """`false`: latent weights beyond ±1 pass gradients too, as in Bi-Real-net's Caffe code"""


def _ends(value: float | ScheduleConfig) -> list[float]:
    """Return a number, or the values that a schedule runs between."""
    if not isinstance(value, ScheduleConfig):
        return [value]
    ends = [getattr(value, "initial", None), getattr(value, "final", None), getattr(value.warm_up, "initial", None)]
    return [end for end in ends if end is not None]


def _never_zero(t: Any) -> Any:
    """Check that 1/t exists."""
    if 0 in _ends(t):
        raise ValueError("expected values greater than 0: k = max(1/t, 1) needs 1/t")
    return t


class Irnet(RealActivation):
    """Options of IR-Net."""

    t: Annotated[Scheduled, pydantic.AfterValidator(_never_zero)] = Geometric(initial=0.1, final=10.0)
    """Steepness of the error decay estimator: a number or a schedule over all stages. Default: from 0.1 to 10"""
    k: Scheduled | None = None
    """Scale of the error decay estimator: a number or a schedule over all stages. Default: max(1/t, 1)"""


def _upper_quantile(tau: Any) -> Any:
    """Check that τ is a quantile above the median."""
    if not all(0.5 <= end <= 1 for end in _ends(tau)):
        raise ValueError("expected values from 0.5 to 1, such as 0.85: a quantile of the weights' magnitudes")
    return tau


class Recu(RealActivation):
    """Options of ReCU."""

    tau: Annotated[Scheduled, pydantic.AfterValidator(_upper_quantile)] = ShiftedExponential(
        schedule="shifted_exponential", initial=0.85, final=0.99
    )
    """Quantile beyond which kernels pass no gradient: a number or a schedule over all stages. Default: from 0.85 to
    0.99"""


_BINARY_BITS: tuple[Bits, ...] = ("1/1", "1/32", "32/1", "32/32")

SCHEMES = table(
    SchemeRow(
        name="float",
        builder="bnn_keras.schemes:float_",
        description="No binarization",
        bits=("32/32",),
        source="",
        options=RealActivation,
    ),
    SchemeRow(
        name="binarynet",
        builder="bnn_keras.schemes:binarynet",
        description="BinaryNet: signs with clipped straight-through gradients, clipped latent weights",
        bits=_BINARY_BITS,
        source="Courbariaux et al. 2016, arXiv:1602.02830",
        options=RealActivation,
    ),
    SchemeRow(
        name="xnor",
        builder="bnn_keras.schemes:xnor",
        description="XNOR-Net: sign scaled by the kernel's mean magnitude, centred and clipped latent weights",
        bits=_BINARY_BITS,
        source="Rastegari et al. 2016, arXiv:1603.05279; XNOR-Net-PyTorch, MNIST/util.py",
        options=Xnor,
    ),
    SchemeRow(
        name="mcdonnell",
        builder="bnn_keras.schemes:mcdonnell",
        description="McDonnell: sign scaled by He's deviation, gradient unchanged",
        bits=("1/32", "1/1", "32/1", "32/32"),
        source="McDonnell 2018, arXiv:1802.08530; binary-wide-resnet, wrn_mcdonnell.py",
        options=RealActivation,
    ),
    SchemeRow(
        name="bireal",
        builder="bnn_keras.schemes:bireal",
        description="Bi-Real Net: scaled sign without a gradient through the scale, approximate sign of activations",
        bits=_BINARY_BITS,
        source="Liu et al. 2018, arXiv:1808.00278; Bi-Real-net, pytorch_implementation, caffe_implementation",
        options=Bireal,
    ),
    SchemeRow(
        name="irnet",
        builder="bnn_keras.schemes:irnet",
        description="IR-Net: standardised kernels with power-of-two scales, error decay estimator",
        bits=_BINARY_BITS,
        source="Qin et al. 2020, arXiv:1909.10788; IR-Net, CIFAR-10/ResNet20/1w1a/modules",
        options=Irnet,
        anneals=("t", "k"),
        derived={"k": ("t", "bnn_keras.schedules:error_decay_scale")},
    ),
    SchemeRow(
        name="reactnet",
        builder="bnn_keras.schemes:reactnet",
        description="ReActNet: signs and PReLUs with learnt shifts, scaled sign without a gradient through the scale",
        bits=_BINARY_BITS,
        source="Liu et al. 2020, arXiv:2003.03488; ReActNet, resnet, mobilenet",
    ),
    SchemeRow(
        name="recu",
        builder="bnn_keras.schemes:recu",
        description="ReCU: standardised kernels with learnt scales; weights beyond a rising quantile pass no gradient",
        bits=_BINARY_BITS,
        source="Xu et al. 2021, arXiv:2103.12369; ReCU, cifar/modules/binarized_modules.py",
        options=Recu,
        anneals=("tau",),
    ),
    SchemeRow(
        name="zoo",
        builder="bnn_keras.schemes:zoo",
        description="The quantizers of a Larq Zoo network; for these networks only",
        bits=("1/1",),
        source="larq_zoo",
        layers=False,
    ),
)
