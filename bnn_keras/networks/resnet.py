"""Residual networks of IR-Net, ReCU and torchvision, with a shortcut per convolution or per two convolutions."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.layers import PadChannels, Subsample, TorchBatchNormalization
from bnn_keras.networks.initializers import he_normal, scales, torch_default
from bnn_keras.schemes import Scheme

# `network.structure` of an experiment → whether every convolution has its own shortcut, as in Bi-Real Net.
SHORTCUT_PER_CONVOLUTION = {"bireal": True, "normal": False}

layers = tf.keras.layers


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes and differences of residual networks.

    Attributes:
        filters: Number of filters of each stage.
        blocks: Number of blocks of each stage.
        large: Whether the stem is a 7×7 convolution with stride 2 and a max pool (ImageNet), else a 3×3 convolution.
        shortcut: Name of the shortcut's pointwise convolution and batch norm. None for shortcuts without weights: a
            smaller map with channels of zeros on both sides.
        stem_activation: Whether an activation follows the stem, at 1-bit and at 32-bit activations.
        head_activation: Whether an activation precedes the last layer, at 1-bit and at 32-bit activations.
        head_norm: Whether a batch norm follows the mean over the map.
        head: Name of the last layer.
        initial: Initializer of convolutions: "fan_in" or "fan_out" (He), or "torch" for PyTorch's default.
        head_initial: Initializer of the last layer's kernel, as `initial`.
        pooled: Whether shortcuts shrink the map by an average pool 2, else they keep every other pixel.
        scales: Initial scales of batch norms: "ones", or "uniform" in [0, 1).
        map_scale: Initial scale of batch norms of maps, if `scales` is not for them.
        bottleneck: Whether blocks are pointwise, 3×3 and pointwise convolutions, the last with four times the filters.
    """

    filters: tuple[int, ...]
    blocks: tuple[int, ...]
    large: bool
    shortcut: str | None
    stem_activation: tuple[bool, bool]
    head_activation: tuple[bool, bool]
    head: str
    initial: str
    head_norm: bool = True
    head_initial: str = "torch"
    pooled: bool = False
    scales: str = "ones"
    map_scale: float | None = None
    bottleneck: bool = False

    def convolution_initializers(self, fan_in: int) -> dict[str, Any]:
        """Return the initializers of a convolution."""
        return torch_default(fan_in, bias=False) if self.initial == "torch" else he_normal(self.initial)

    def dense_initializers(self, fan_in: int) -> dict[str, Any]:
        """Return the initializers of the last layer."""
        return torch_default(fan_in) | (he_normal(self.head_initial) if self.head_initial != "torch" else {})


RESNET20 = Plan(
    filters=(16, 32, 64),
    blocks=(3, 3, 3),
    large=False,
    shortcut=None,
    stem_activation=(True, False),
    head_activation=(False, True),
    head="linear",
    initial="fan_in",
    head_initial="fan_in",  # IR-Net's trainer draws the kernel of the last layer like those of convolutions
)
RESNET18_CIFAR = Plan(
    filters=(64, 128, 256, 512),
    blocks=(2, 2, 2, 2),
    large=False,
    shortcut="shortcut",
    stem_activation=(False, False),
    head_activation=(False, False),
    head="linear",
    initial="torch",
)
RESNET18 = Plan(
    filters=(64, 128, 256, 512),
    blocks=(2, 2, 2, 2),
    large=True,
    shortcut="downsample",
    stem_activation=(True, True),
    head_activation=(False, False),
    head="fc",
    initial="fan_out",
)
RESNET34 = dataclasses.replace(RESNET18, blocks=(3, 4, 6, 3))
# `network.depth` of an experiment → blocks of each stage.
CIFAR_BLOCKS = {depth: 3 * ((depth - 2) // 6,) for depth in (20, 32, 44, 56, 110)}
WIDE_CIFAR_BLOCKS = {18: RESNET18.blocks, 34: RESNET34.blocks, 50: RESNET34.blocks}
# `network.variant` of an experiment → changes of IR-Net's plan, for networks on CIFAR-10 and on ImageNet.
CIFAR_VARIANTS: dict[str, dict[str, Any]] = {
    "irnet": {},
    "recu": {"shortcut": None, "pooled": True, "initial": "fan_in", "head_initial": "torch"},
}
IMAGENET_VARIANTS: dict[str, dict[str, Any]] = {"irnet": {}, "recu": {"initial": "fan_in", "map_scale": 1e-8}}
TORCHVISION_RESNET18 = dataclasses.replace(RESNET18, head_norm=False)
TORCHVISION_RESNET34 = dataclasses.replace(RESNET34, head_norm=False)


def resnet(
    scheme: Scheme, images: tf.Tensor, classes: int, plan: Plan, shortcut_per_convolution: bool = False
) -> tf.Tensor:
    """Build a residual network with binary 3×3 convolutions. First convolution, shortcuts and last layer are real.

    A block is conv → batch norm → activation → conv → batch norm, + shortcut → activation. With a shortcut per
    convolution it is twice conv → batch norm, + shortcut → activation. In IR-Net's and ReCU's networks a batch norm
    follows the mean over the map. The activation is hardtanh at 1-bit activations, else ReLU (`Scheme.activation`).

    Args:
        scheme: Builds the binary layers and the activations.
        images: (batch, height, width, channels).
        classes: Number of logits.
        plan: Sizes and differences of the network.
        shortcut_per_convolution: Whether each convolution has a shortcut, else each block of two.

    Raises:
        BnnError: A bottleneck was to have a shortcut per convolution.

    Returns:
        Logits, (batch, classes). IR-Net returns their log-softmax if `plan.large`, and in CIFAR-10's ResNet-18.

    Source: Qin et al. 2020, arXiv:1909.10788; IR-Net, CIFAR-10/ResNet20, CIFAR-10/ResNet18, ImageNet; Xu et al. 2021,
        arXiv:2103.12369; ReCU, cifar/models_cifar, imagenet/models_imagenet/resnet.py; torchvision, models/resnet.py.
    """

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        fixed = plan.map_scale if x.shape.rank == 4 else None
        initial = scales(plan.scales) if fixed is None else tf.keras.initializers.Constant(fixed)
        return TorchBatchNormalization(gamma_initializer=initial, name=name)(x)

    def binary(x: tf.Tensor, name: str, filters: int, stride: int = 1, size: int = 3) -> tf.Tensor:
        arguments = {"padding": "same", "use_bias": False, **plan.convolution_initializers(size**2 * x.shape[-1])}
        return scheme.conv2d(filters, size, strides=stride, inputs="activated", name=name, **arguments)(x)

    def shortcut_of(x: tf.Tensor, name: str, filters: int, stride: int) -> tf.Tensor:
        channels = x.shape[-1]
        if stride > 1 and plan.pooled:
            x = layers.AveragePooling2D(2, stride, "same", name=f"{name}.pool")(x)
        elif stride > 1:
            x = Subsample(name=f"{name}.subsample")(x)
        if channels == filters:
            return x
        if plan.shortcut is None:
            margin = (filters - channels) // 2
            return PadChannels(margin, margin, name=f"{name}.pad")(x)
        name = f"{name}.{plan.shortcut}"
        initializers = plan.convolution_initializers(channels)
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}.0", **initializers)(x)
        return norm(x, f"{name}.1")

    def block(x: tf.Tensor, name: str, filters: int, stride: int) -> tf.Tensor:
        shortcut = shortcut_of(x, name, filters, stride)
        x = norm(binary(x, f"{name}.conv1", filters, stride), f"{name}.bn1")
        if shortcut_per_convolution:
            x = layers.Add(name=f"{name}.add1")([x, shortcut])
        x = scheme.activation(x, f"{name}.activation1", "hardtanh")
        shortcut = x if shortcut_per_convolution else shortcut
        x = norm(binary(x, f"{name}.conv2", filters), f"{name}.bn2")
        x = layers.Add(name=f"{name}.add2")([x, shortcut])
        return scheme.activation(x, f"{name}.activation2", "hardtanh")

    def bottleneck(x: tf.Tensor, name: str, filters: int, stride: int) -> tf.Tensor:
        shortcut = shortcut_of(x, name, 4 * filters, stride)
        x = norm(binary(x, f"{name}.conv1", filters, size=1), f"{name}.bn1")
        x = scheme.activation(x, f"{name}.activation1", "hardtanh")
        x = norm(binary(x, f"{name}.conv2", filters, stride), f"{name}.bn2")
        x = scheme.activation(x, f"{name}.activation2", "hardtanh")
        x = norm(binary(x, f"{name}.conv3", 4 * filters, size=1), f"{name}.bn3")
        return scheme.activation(layers.Add(name=f"{name}.add")([x, shortcut]), f"{name}.activation3", "hardtanh")

    if plan.bottleneck and shortcut_per_convolution:
        raise BnnError(
            "network.structure is 'bireal'; expected 'normal', because blocks of three convolutions have one shortcut: "
            "set network.structure=normal"
        )
    build_block = bottleneck if plan.bottleneck else block
    bits = 0 if scheme.binary_activations else 1
    size, stride = (7, 2) if plan.large else (3, 1)
    initializers = plan.convolution_initializers(size**2 * images.shape[-1])
    x = layers.Conv2D(plan.filters[0], size, stride, "same", use_bias=False, name="conv1", **initializers)(images)
    x = norm(x, "bn1")
    x = scheme.activation(x, "activation1", "hardtanh") if plan.stem_activation[bits] else x
    x = layers.MaxPool2D(3, 2, "same", name="maxpool")(x) if plan.large else x
    for stage, (filters, number) in enumerate(zip(plan.filters, plan.blocks, strict=True), 1):
        for index in range(number):
            x = build_block(x, f"layer{stage}.{index}", filters, 2 if stage > 1 and index == 0 else 1)
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    x = norm(x, "bn2") if plan.head_norm else x
    x = scheme.activation(x, "activation2", "hardtanh") if plan.head_activation[bits] else x
    return layers.Dense(classes, name=plan.head, **plan.dense_initializers(x.shape[-1]))(x)


def resnet20(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    structure: str = "bireal",
    variant: str = "irnet",
    scales: str = "ones",
    depth: int = 20,
    blocks: tuple[int, ...] | None = None,
    filters: tuple[int, ...] = RESNET20.filters,
) -> tf.Tensor:
    """Build the ResNet-20 for CIFAR-10 of IR-Net, or of ReCU with variant "recu"; see `resnet`.

    With `depth` 32, 44, 56 or 110 it is IR-Net's network of that depth.
    """
    changes = {"blocks": blocks or CIFAR_BLOCKS[depth], "filters": filters, "scales": scales, **CIFAR_VARIANTS[variant]}
    plan = dataclasses.replace(RESNET20, **changes)
    return resnet(scheme, images, classes, plan, SHORTCUT_PER_CONVOLUTION[structure])


def resnet18_cifar(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    structure: str = "normal",
    variant: str = "irnet",
    scales: str = "ones",
    depth: int = 18,
    blocks: tuple[int, ...] | None = None,
    filters: tuple[int, ...] = RESNET18_CIFAR.filters,
) -> tf.Tensor:
    """Build the ResNet-18 for CIFAR-10 of IR-Net, or of ReCU with variant "recu"; see `resnet`.

    With `depth` 34 it is IR-Net's ResNet-34, and with 50 its ResNet-50, whose blocks the reference does not binarize:
    with the scheme "float" it is the reference's.
    """
    changes = {
        "blocks": blocks or WIDE_CIFAR_BLOCKS[depth],
        "filters": filters,
        "scales": scales,
        **CIFAR_VARIANTS[variant],
    }
    plan = dataclasses.replace(RESNET18_CIFAR, bottleneck=depth == 50, **changes)
    return resnet(scheme, images, classes, plan, SHORTCUT_PER_CONVOLUTION[structure])


def resnet18(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    structure: str = "bireal",
    variant: str = "irnet",
    scales: str = "ones",
    blocks: tuple[int, ...] = RESNET18.blocks,
    filters: tuple[int, ...] = RESNET18.filters,
) -> tf.Tensor:
    """Build the ResNet-18 for ImageNet of IR-Net, or of ReCU with variant "recu"; see `resnet`."""
    plan = dataclasses.replace(RESNET18, blocks=blocks, filters=filters, scales=scales, **IMAGENET_VARIANTS[variant])
    return resnet(scheme, images, classes, plan, SHORTCUT_PER_CONVOLUTION[structure])


def resnet34(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    structure: str = "bireal",
    variant: str = "irnet",
    scales: str = "ones",
    blocks: tuple[int, ...] = RESNET34.blocks,
    filters: tuple[int, ...] = RESNET34.filters,
) -> tf.Tensor:
    """Build the ResNet-34 for ImageNet of IR-Net, or of ReCU with variant "recu"; see `resnet`."""
    plan = dataclasses.replace(RESNET34, blocks=blocks, filters=filters, scales=scales, **IMAGENET_VARIANTS[variant])
    return resnet(scheme, images, classes, plan, SHORTCUT_PER_CONVOLUTION[structure])


def torchvision_resnet18(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    structure: str = "normal",
    blocks: tuple[int, ...] = TORCHVISION_RESNET18.blocks,
    filters: tuple[int, ...] = TORCHVISION_RESNET18.filters,
) -> tf.Tensor:
    """Build torchvision's ResNet-18; see `resnet`."""
    plan = dataclasses.replace(TORCHVISION_RESNET18, blocks=blocks, filters=filters)
    return resnet(scheme, images, classes, plan, SHORTCUT_PER_CONVOLUTION[structure])


def torchvision_resnet34(
    scheme: Scheme,
    images: tf.Tensor,
    classes: int,
    structure: str = "normal",
    blocks: tuple[int, ...] = TORCHVISION_RESNET34.blocks,
    filters: tuple[int, ...] = TORCHVISION_RESNET34.filters,
) -> tf.Tensor:
    """Build torchvision's ResNet-34; see `resnet`."""
    plan = dataclasses.replace(TORCHVISION_RESNET34, blocks=blocks, filters=filters)
    return resnet(scheme, images, classes, plan, SHORTCUT_PER_CONVOLUTION[structure])
