"""IR-Net's residual networks, in the normal and in the Bi-Real structure."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from bnn_keras.layers import PadChannels, Subsample, TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal, torch_default
from bnn_keras.schemes import Scheme

layers = tf.keras.layers


@dataclasses.dataclass(frozen=True)
class Plan:
    """What IR-Net's residual networks do differently.

    Attributes:
        filters: Of each stage.
        blocks: Of each stage.
        large: Whether the stem is a 7×7 convolution with stride 2 and a max pool (ImageNet), else a 3×3 one.
        shortcut: Name of the shortcut's pointwise convolution and batch norm; None where it is a subsampled map with
            channels of zeros on both sides.
        stem_activation: Whether an activation stands behind the stem, where activations have 1 bit / 32 bits.
        head_activation: Whether one stands in front of the last layer, likewise.
        head: Name of the last layer.
        initial: How kernels of convolutions are drawn: "fan_in", "fan_out" (He) or PyTorch's default.
    """

    filters: tuple[int, ...]
    blocks: tuple[int, ...]
    large: bool
    shortcut: str | None
    stem_activation: tuple[bool, bool]
    head_activation: tuple[bool, bool]
    head: str
    initial: str

    def kernel(self, fan_in: int) -> dict[str, Any]:
        """Initializers of a convolution."""
        return torch_default(fan_in, bias=False) if self.initial == "torch" else he_normal(self.initial)

    def last(self, fan_in: int) -> dict[str, Any]:
        """Initializers of the last layer; the first network's trainer draws its kernel as those of convolutions."""
        return torch_default(fan_in) | (he_normal("fan_in") if self.initial == "fan_in" else {})


def resnet(scheme: Scheme, images: tf.Tensor, classes: int, structure: str, plan: Plan) -> tf.Tensor:
    """A residual network with binary 3×3 convolutions; first convolution, shortcuts and last layer are real.

    Structure "normal": conv → batch norm → activation → conv → batch norm, + shortcut → activation.
    Structure "bireal": twice conv → batch norm, + shortcut → activation.
    A batch norm stands between the mean over the map and the last layer. The activation is hardtanh where activations
    have 1 bit, else ReLU (`Scheme.activation`).

    Args:
        scheme: Gives the binary layers and the activation.
        images: (batch, height, width, channels).
        classes: Number of logits.
        structure: "normal" or "bireal".
        plan: Sizes and details.

    Returns:
        Logits, (batch, classes); the references with `large` and CIFAR-10's ResNet-18 return their log-softmax.

    Source: Qin et al. 2020, arXiv:1909.10788; IR-Net, CIFAR-10/ResNet20, CIFAR-10/ResNet18, ImageNet.
    """

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        return TorchBatchNormalization(name=name)(x)

    def binary(x: tf.Tensor, name: str, filters: int, stride: int = 1) -> tf.Tensor:
        arguments = {"padding": "same", "use_bias": False, **plan.kernel(9 * x.shape[-1])}
        return scheme.conv2d(filters, 3, strides=stride, inputs="activated", name=name, **arguments)(x)

    def shortcut(x: tf.Tensor, name: str, filters: int, stride: int) -> tf.Tensor:
        channels = x.shape[-1]
        if stride > 1:
            x = Subsample(name=f"{name}.subsample")(x)
        if channels == filters:
            return x
        if plan.shortcut is None:
            margin = (filters - channels) // 2
            return PadChannels(margin, margin, name=f"{name}.pad")(x)
        name = f"{name}.{plan.shortcut}"
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}.0", **plan.kernel(channels))(x)
        return norm(x, f"{name}.1")

    def block(x: tf.Tensor, name: str, filters: int, stride: int) -> tf.Tensor:
        beside = shortcut(x, name, filters, stride)
        x = norm(binary(x, f"{name}.conv1", filters, stride), f"{name}.bn1")
        if structure == "bireal":
            x = layers.Add(name=f"{name}.add1")([x, beside])
        x = scheme.activation(f"{name}.activation1")(x)
        beside = x if structure == "bireal" else beside
        x = norm(binary(x, f"{name}.conv2", filters), f"{name}.bn2")
        x = layers.Add(name=f"{name}.add2")([x, beside])
        return scheme.activation(f"{name}.activation2")(x)

    bits = 0 if scheme.binary_activations else 1
    size, stride = (7, 2) if plan.large else (3, 1)
    initial = plan.kernel(size**2 * images.shape[-1])
    x = layers.Conv2D(plan.filters[0], size, stride, "same", use_bias=False, name="conv1", **initial)(images)
    x = norm(x, "bn1")
    x = scheme.activation("activation1")(x) if plan.stem_activation[bits] else x
    x = layers.MaxPool2D(3, 2, "same", name="maxpool")(x) if plan.large else x
    for stage, (filters, number) in enumerate(zip(plan.filters, plan.blocks, strict=True), 1):
        for place in range(number):
            x = block(x, f"layer{stage}.{place}", filters, 2 if stage > 1 and place == 0 else 1)
    x = norm(layers.GlobalAveragePooling2D(name="avgpool")(x), "bn2")
    x = scheme.activation("activation2")(x) if plan.head_activation[bits] else x
    return layers.Dense(classes, name=plan.head, **plan.last(x.shape[-1]))(x)


_RESNET20 = Plan(
    filters=(16, 32, 64),
    blocks=(3, 3, 3),
    large=False,
    shortcut=None,
    stem_activation=(True, False),
    head_activation=(False, True),
    head="linear",
    initial="fan_in",
)
_RESNET18_CIFAR = Plan(
    filters=(64, 128, 256, 512),
    blocks=(2, 2, 2, 2),
    large=False,
    shortcut="shortcut",
    stem_activation=(False, False),
    head_activation=(False, False),
    head="linear",
    initial="torch",
)
_RESNET18 = Plan(
    filters=(64, 128, 256, 512),
    blocks=(2, 2, 2, 2),
    large=True,
    shortcut="downsample",
    stem_activation=(True, True),
    head_activation=(False, False),
    head="fc",
    initial="fan_out",
)
_RESNET34 = dataclasses.replace(_RESNET18, blocks=(3, 4, 6, 3))


def resnet20(scheme: Scheme, images: tf.Tensor, classes: int, structure: str = "bireal") -> tf.Tensor:
    """IR-Net's ResNet-20 for CIFAR-10; see `resnet`."""
    return resnet(scheme, images, classes, structure, _RESNET20)


def resnet18_cifar(scheme: Scheme, images: tf.Tensor, classes: int, structure: str = "normal") -> tf.Tensor:
    """IR-Net's ResNet-18 for CIFAR-10; see `resnet`."""
    return resnet(scheme, images, classes, structure, _RESNET18_CIFAR)


def resnet18(scheme: Scheme, images: tf.Tensor, classes: int, structure: str = "bireal") -> tf.Tensor:
    """IR-Net's ResNet-18 for ImageNet; see `resnet`."""
    return resnet(scheme, images, classes, structure, _RESNET18)


def resnet34(scheme: Scheme, images: tf.Tensor, classes: int, structure: str = "bireal") -> tf.Tensor:
    """IR-Net's ResNet-34 for ImageNet; see `resnet`."""
    return resnet(scheme, images, classes, structure, _RESNET34)
