"""Networks."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import pydantic

from bnn_keras.catalog.datasets import IMAGENET_NORMALIZATION
from bnn_keras.catalog.options import BY_BITS, Options
from bnn_keras.catalog.rows import NetworkRow, ReferenceFile, ReferenceLayout, table
from bnn_keras.tables import Count, Positive


class Structured(Options):
    """Options of residual networks."""

    structure: Annotated[Literal["normal", "bireal"] | None, BY_BITS] = None
    """`normal`: a shortcut around two convolutions; `bireal`: one around each. Default: that of the paper at these
    bits"""


class IrnetResidual(Structured):
    """Options of the residual networks that IR-Net and ReCU share."""

    variant: Literal["irnet", "recu"] = "irnet"
    """`recu`: initial weights of ReCU and, in networks for CIFAR-10, its shortcuts: an average pool and channels of
    zeros"""
    scales: Literal["ones", "uniform"] = "ones"
    """Initial scales of batch norms. `uniform`: from [0, 1), as PyTorch before 1.2 has them"""


class CifarResnet20(IrnetResidual):
    """Options of the narrow residual networks for CIFAR-10."""

    depth: Literal[20, 32, 44, 56, 110] = 20
    """Number of layers"""


class CifarResnet18(IrnetResidual):
    """Options of the wide residual networks for CIFAR-10."""

    depth: Literal[18, 34, 50] = 18
    """Number of layers. 50: blocks of three convolutions, which IR-Net's code does not binarize"""


class BinaryNet(Options):
    """Options of BinaryNet."""

    filters: Count = 128
    """Number of filters of the first two convolutions; the next two pairs have two and four times as many"""
    dense_units: Count = 1024
    """Number of units of the two hidden dense layers"""
    kernel_size: Count = 3
    """Height and width of the kernels of convolutions"""


class Dropout(Options):
    """Options of networks with dropout."""

    dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.5
    """Share of quantized inputs that some layers drop in training"""


class AlexNet(Dropout):
    """Options of XNOR-Net's AlexNet."""

    kernel_deviation: Positive = 2.0
    """Standard deviation of initial kernels, times the number of weights of one output"""
    dense_scales: Literal["ones", "uniform"] = "ones"
    """Initial scales of batch norms of dense layers. `uniform`: from [0, 1), as PyTorch before 1.2 has them"""


class Variant(Options):
    """Options of Bi-Real Net's network of 34 layers."""

    variant: Literal["bireal", "caffe"] = "bireal"
    """`caffe`: the network of Bi-Real-net's Caffe files: shortcuts with a bias and without batch norm, initial weights,
    max pool"""


class Variant18(Options):
    """Options of Bi-Real Net's network of 18 layers."""

    variant: Literal["bireal", "caffe", "rethinking"] = "bireal"
    """`caffe`: the network of Bi-Real-net's Caffe files: shortcuts with a bias and without batch norm, initial weights,
    max pool. `rethinking`: batch norm, initial weights and layer names of rethinking-bnn-optimization"""


class Pretrained(Options):
    """Options of Larq Zoo's networks."""

    weights: Literal["none", "imagenet"] = "none"
    """`imagenet`: pre-trained weights; with other classes than 1,000, the last layer is new"""


class Wide(Options):
    """Options of wide residual networks."""

    depth: Count = 20
    """Number of layers, 8 or more; each of the three groups has ⌊(depth − 2) / 6⌋ blocks"""
    width: Positive = 1.0
    """Factor of the numbers of filters"""
    last_scales: Literal["ones", "uniform"] = "ones"
    """Initial scales of the last batch norm. `uniform`: from [0, 1), as PyTorch before 1.2 has them"""

    @classmethod
    def of(cls, width: int) -> type[Options]:
        """Return the options with another default of the width."""
        field = (Positive, pydantic.Field(float(width), description=cls.model_fields["width"].description))
        return pydantic.create_model(
            "Wide", __base__=cls, __cls_kwargs__={"use_attribute_docstrings": False}, width=field
        )


_CIFAR = (32, 32, 3)
# Binary activations need a shortcut around each convolution.
_BY_ACTIVATIONS = {"1/1": "bireal", "32/1": "bireal", "1/32": "normal", "32/32": "normal"}
_IMAGENET = (224, 224, 3)
# What the trainers of the references store. IR-Net has no trainer for ImageNet.
_XNOR_IMAGENET = ReferenceFile(
    wrapped="features", epoch="epoch", best="best_prec1", optimizer="optimizer", constants={"arch": "alexnet"}
)
_WIDE_RESNET = ReferenceFile(wrapped="", epoch="epoch", epoch_of=1, optimizer="optimizer", scheduler="scheduler")
_BIREAL = ReferenceFile(
    wrapped="", epoch="epoch", epoch_of=1, best="best_top1_acc", optimizer="optimizer", second_group=(4, "")
)
_REACTNET_FILE = dataclasses.replace(_BIREAL, second_group=(4, "*conv*"))
_IRNET = ReferenceFile(wrapped="", epoch="epoch", best="best_prec1")
_KERAS = ReferenceLayout(file=ReferenceFile(kind="keras", epoch="epoch"))
_VECTOR = (-1,)
_MAP = (1, -1, 1, 1)
_REACTNET = ReferenceLayout(
    rotated=True,
    file=_REACTNET_FILE,
    parts={
        "binary_conv.shift": ("move0.bias", _MAP),
        "add.activation.before": ("move1.bias", _MAP),
        "add.activation.slope": ("prelu.weight", _VECTOR),
        "add.activation.after": ("move2.bias", _MAP),
    },
)


# Learnt parts of ReActNet-A: those behind its 3×3 convolutions, and those behind its pointwise ones.
_REACTNET_A = {
    "binary_3x3.shift": ("move11.bias", _MAP),
    "binary_pw.shift": ("move21.bias", _MAP),
    "binary_pw_down1.shift": ("move21.bias", _MAP),
    "binary_pw_down2.shift": ("move21.bias", _MAP),
    **{
        f"activation{place}.{weight}": (name.format(place), shape)
        for place in (1, 2)
        for weight, name, shape in (
            ("before", "move{}2.bias", _MAP),
            ("slope", "prelu{}.weight", _VECTOR),
            ("after", "move{}3.bias", _MAP),
        )
    },
}
_FLAT = ReferenceLayout(binary_kernel="{}.weights", flat=True, rotated=True, file=_BIREAL)
# A batch norm that IR-Net's networks for ImageNet have and never use.
_BN3 = {
    f"bn3.{name}": ((-1,), value)
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0))
}
_RECU = ReferenceLayout(rotated=True, parts={".alpha": (".alpha", (-1, 1, 1))}, unused={"*.tau": None}, file=_IRNET)


def _wide_resnet(width: int, dataset: str = "cifar10") -> NetworkRow:
    return NetworkRow(
        name=f"wrn_20_{width}",
        builder="bnn_keras.networks.wide_resnet:wide_resnet",
        description=f"McDonnell's wide residual network of depth 20 and width {width}",
        input_shape=_CIFAR,
        classes=100 if dataset == "cifar100" else 10,
        scheme="mcdonnell",
        bits="1/32",
        dataset=dataset,
        source="binary-wide-resnet, wrn_mcdonnell.py",
        options=Wide.of(width),
        reference=ReferenceLayout(kernel="{}", binary_kernel="{}", rotated=True, packs=True, file=_WIDE_RESNET),
    )


def _bireal(depth: int, reference: ReferenceLayout, **kwargs: Any) -> NetworkRow:
    return NetworkRow(
        name=f"birealnet{depth}",
        builder=f"bnn_keras.networks.birealnet:birealnet{depth}",
        description=f"Bi-Real Net with {depth} layers: a shortcut around every binary convolution",
        input_shape=_IMAGENET,
        classes=1000,
        scheme="bireal",
        bits="1/1",
        dataset="imagenet2012",
        reference=reference,
        **kwargs,
    )


def _irnet(name: str, function: str, description: str, **kwargs: Any) -> NetworkRow:
    return NetworkRow(
        **{
            "name": name,
            "builder": f"bnn_keras.networks.{function}",
            "description": description,
            "input_shape": _CIFAR,
            "classes": 10,
            "scheme": "irnet",
            "bits": "1/1",
            "dataset": "cifar10",
            "reference": ReferenceLayout(rotated=True, file=_IRNET),
            "references": {"recu": _RECU},
            **kwargs,
        }
    )


def _irnet_for_imagenet(depth: int) -> NetworkRow:
    return _irnet(
        f"resnet{depth}",
        f"resnet:resnet{depth}",
        f"IR-Net's ResNet-{depth} for ImageNet",
        input_shape=_IMAGENET,
        classes=1000,
        dataset="imagenet2012",
        options=IrnetResidual,
        structures=_BY_ACTIVATIONS,
        reference=ReferenceLayout(rotated=True, unused=_BN3, file=ReferenceFile(state=None)),
        source=f"IR-Net, ImageNet/ResNet{depth}",
    )


def _torchvision(depth: int) -> NetworkRow:
    return NetworkRow(
        name=f"torchvision_resnet{depth}",
        builder=f"bnn_keras.networks.resnet:torchvision_resnet{depth}",
        description=f"torchvision's ResNet-{depth}, a teacher",
        input_shape=_IMAGENET,
        classes=1000,
        scheme="float",
        bits="32/32",
        dataset="imagenet2012",
        source="torchvision, models/resnet.py",
        options=Structured,
        structures=_BY_ACTIVATIONS,
        reference=ReferenceLayout(rotated=True, file=ReferenceFile(state=None)),
        normalization=IMAGENET_NORMALIZATION,
    )


def _rethinking(name: str, description: str, file: str, **kwargs: Any) -> NetworkRow:
    return NetworkRow(
        **{
            "name": name,
            "builder": f"bnn_keras.networks.rethinking:{name}",
            "description": description,
            "input_shape": _IMAGENET,
            "classes": 1000,
            "scheme": "binarynet",
            "bits": "1/1",
            "dataset": "imagenet2012",
            "source": f"rethinking-bnn-optimization, models/{file}",
            "reference": _KERAS,
            **kwargs,
        }
    )


_ZOO = (
    "quicknet_small",
    "quicknet",
    "quicknet_large",
    "binary_alexnet",
    "xnornet",
    "dorefanet",
    "birealnet",
    "binary_resnet_e18",
    "binary_densenet28",
    "binary_densenet37",
    "binary_densenet37_dilated",
    "binary_densenet45",
    "meliusnet22",
    "real_to_binary_net",
)


def _zoo(name: str) -> NetworkRow:
    return NetworkRow(
        name=f"zoo/{name}",
        builder=f"bnn_keras.networks.zoo:{name}",
        description="Larq Zoo's network of that name, with its own quantizers",
        input_shape=_IMAGENET,
        classes=1000,
        scheme="zoo",
        bits="1/1",
        dataset="imagenet2012",
        source="larq_zoo",
        options=Pretrained,
        own_layers=True,
        normalization=IMAGENET_NORMALIZATION,  # larq_zoo, training/data.py
    )


NETWORKS = table(
    NetworkRow(
        name="lenet5",
        builder="bnn_keras.networks.xnor_net:lenet5",
        description="XNOR-Net's LeNet-5: two convolutions, two dense layers; the middle two binary",
        input_shape=(28, 28, 1),
        classes=10,
        scheme="xnor",
        bits="1/1",
        dataset="mnist",
        source="XNOR-Net-PyTorch, MNIST/models/LeNet_5.py",
        reference=ReferenceLayout(file=ReferenceFile(best="acc")),
    ),
    NetworkRow(
        name="nin",
        builder="bnn_keras.networks.xnor_net:nin",
        description="XNOR-Net's Network in Network: nine convolutions, the middle seven binary",
        input_shape=_CIFAR,
        classes=10,
        scheme="xnor",
        bits="1/1",
        dataset="cifar10",
        source="XNOR-Net-PyTorch, CIFAR_10/models/nin.py",
        options=Dropout,
        reference=ReferenceLayout(rotated=True, file=ReferenceFile(best="best_acc")),
    ),
    NetworkRow(
        name="alexnet",
        builder="bnn_keras.networks.xnor_net:alexnet",
        description="XNOR-Net's AlexNet: five convolutions, three dense layers; all but the first and the last binary",
        input_shape=(227, 227, 3),
        classes=1000,
        scheme="xnor",
        bits="1/1",
        dataset="imagenet2012",
        source="XNOR-Net-PyTorch, ImageNet/networks/model_list/alexnet.py",
        note="alexnet is XNOR-Net's AlexNet; the network that rethinking-bnn-optimization's README calls alexnet is "
        "binary_alexnet",
        options=AlexNet,
        reference=ReferenceLayout(file=_XNOR_IMAGENET),
    ),
    _wide_resnet(1),
    _wide_resnet(2),
    _wide_resnet(10, "cifar100"),
    _rethinking(
        "binarynet",
        "BinaryNet: six convolutions, three dense layers, all binary",
        "binarynet.py",
        input_shape=_CIFAR,
        classes=10,
        dataset="cifar10",
        options=BinaryNet,
    ),
    _rethinking(
        "binary_alexnet", "Binary AlexNet: five convolutions, three dense layers, all binary", "binary_alexnet.py"
    ),
    _rethinking("xnornet", "XNOR-Net's AlexNet for Bop: all layers but the first and the last binary", "xnor.py"),
    _bireal(
        18,
        _FLAT,
        source="Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py",
        options=Variant18,
        references={"reactnet": _REACTNET, "rethinking": _KERAS},
    ),
    _bireal(
        34,
        _FLAT,
        source="Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py",
        options=Variant,
        references={"reactnet": _REACTNET},
    ),
    _bireal(
        50,
        ReferenceLayout(rotated=True, unused={"layers.0.down_conv1x1.weight": ((64, 16, 1, 1), 0.0)}, file=_BIREAL),
        source="Bi-Real-net, pytorch_implementation/BiReal_50/birealnet.py",
    ),
    NetworkRow(
        name="reactnet_a",
        builder="bnn_keras.networks.reactnet:reactnet_a",
        description="ReActNet-A: MobileNet's topology with binary 3×3 and pointwise convolutions",
        input_shape=_IMAGENET,
        classes=1000,
        scheme="reactnet",
        bits="1/1",
        dataset="imagenet2012",
        source="ReActNet, mobilenet/2_step2/reactnet.py",
        reference=dataclasses.replace(_FLAT, parts=_REACTNET_A, file=_REACTNET_FILE),
        references={"reactnet 32/1": ReferenceLayout(rotated=True, parts=_REACTNET_A, file=_REACTNET_FILE)},
    ),
    _irnet(
        "resnet20",
        "resnet:resnet20",
        "IR-Net's ResNet-20 for CIFAR-10",
        options=CifarResnet20,
        structures=_BY_ACTIVATIONS,
        source="IR-Net, CIFAR-10/ResNet20",
    ),
    _irnet(
        "vgg_small",
        "vgg:vgg_small",
        "IR-Net's VGG-Small: six convolutions, all but the first binary, and a dense layer",
        reference=ReferenceLayout(file=_IRNET),
        references={"recu": dataclasses.replace(_RECU, rotated=False)},
        source="IR-Net, CIFAR-10/VGG-Small/vgg.py",
    ),
    _irnet(
        "resnet18_cifar",
        "resnet:resnet18_cifar",
        "IR-Net's ResNet-18 for CIFAR-10",
        options=CifarResnet18,
        structures=dict.fromkeys(_BY_ACTIVATIONS, "normal"),
        source="IR-Net, CIFAR-10/ResNet18/resnet.py",
    ),
    _irnet_for_imagenet(18),
    _irnet_for_imagenet(34),
    _torchvision(18),
    _torchvision(34),
    *map(_zoo, _ZOO),
)
