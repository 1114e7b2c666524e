"""What exists, as plain rows: networks, schemes, optimizers, datasets. Needs no TensorFlow.

A `builder` names the function that makes the thing, "module:function"; only `bnn_keras.build` resolves it.
A new network, scheme, optimizer or dataset is one row here and one function there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from bnn_keras.errors import BnnError, unknown


@dataclasses.dataclass(frozen=True)
class ReferenceLayout:
    """How the PyTorch code that a network comes from stores it.

    Attributes:
        kernel: The name of a kernel's tensor, from the name of its layer.
        binary_kernel: That of a binary layer's kernel.
        flat: Whether kernels of binary layers are stored as columns (weights, 1).
        rotated: Whether our network is the reference's rotated by 180°.
        unused: Tensors, or modules of them, that the reference stores and never uses.
    """

    kernel: str = "{}.weight"
    binary_kernel: str = "{}.weight"
    flat: bool = False
    rotated: bool = False
    unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NetworkRow:
    """A topology. `builder` is `f(scheme, images, classes, **options) -> logits`.

    Attributes:
        scheme: The scheme of its own paper.
        bits: The bits of weights / activations of its own paper.
        dataset: The dataset of its own paper.
        mean: What that subtracts from pixels / 255.
        std: What that divides them by then.
        options: Further keys of the table `network` in an experiment, with their defaults.
        structures: The structure it has by default, by bits; empty where it has only one.
        reference: How PyTorch's code stores it; None where it is not from PyTorch.
    """

    name: str
    builder: str
    description: str
    input_shape: tuple[int, int, int]
    classes: int
    scheme: str
    bits: str
    dataset: str
    source: str
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    structures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: ReferenceLayout | None = None


@dataclasses.dataclass(frozen=True)
class SchemeRow:
    """A way of binarizing. `bits` lists the weight/activation widths it offers, the first is its own paper's.

    Attributes:
        options: Further keys of the table `scheme` in an experiment, with their defaults.
        anneals: Those of them that change while a network trains.
    """

    name: str
    builder: str
    description: str
    bits: tuple[str, ...]
    source: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    anneals: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class OptimizerRow:
    """An optimizer.

    Attributes:
        options: The hyper-parameters an experiment may set, and the only ones, with their defaults.
        latent_free: Whether it keeps binary kernels at ±1 instead of latent weights behind a quantizer.
    """

    name: str
    builder: str
    description: str
    options: Mapping[str, Any]
    latent_free: bool = False


@dataclasses.dataclass(frozen=True)
class DatasetRow:
    """A TFDS image classification dataset.

    Attributes:
        input_shape: Height, width, channels; height and width None where images differ: the network says them then.
        module: Registers builders that TFDS itself does not have.
    """

    name: str
    description: str
    input_shape: tuple[int | None, int | None, int]
    classes: int
    train: str
    test: str
    train_examples: int
    test_examples: int
    module: str | None = None

    @classmethod
    def other(cls, name: str, input_shape: tuple[int | None, int | None, int], classes: int) -> DatasetRow:
        """One that the catalog does not have, with splits of the usual names."""
        return cls(name, "", input_shape, classes, "train", "test", 0, 0)


@dataclasses.dataclass(frozen=True)
class FormatRow:
    """A file format of exported models. The module implements `bnn_keras.export.formats.Format`.

    Attributes:
        name: Name on the command line.
        module: Module that writes and reads the format.
        description: One line for help texts.
        floats: Types of all numbers that are not binary weights; the first is the default.
        packs: Which binary layers are stored in one bit per weight: "all", "binary inputs" (those whose inputs are
            binary too), or "none".
        suffix: Suffix of the file name; None for a folder, or for any name.
        folder: Whether an exported model is a folder.
        companions: Suffixes of further files beside the file, with the same stem. They hold the weights.
        batch: Batch size that an exported model accepts: "any", "one" (single images), or "fixed" (chosen on export).
        softmax: Whether an exported model can return probabilities.
        self_contained: Whether the file holds experiment and labels, so that it opens without its sidecar. Its module
            implements `bnn_keras.export.formats.SelfContainedFormat`.
        extra: Extra of bnn-keras that the format needs.
        float_extras: Extras that single types of `floats` need, by type.
        packages: Packages whose versions are recorded in the sidecar.
    """

    name: str
    module: str
    description: str
    floats: tuple[str, ...]
    packs: Literal["all", "binary inputs", "none"]
    suffix: str | None = None
    folder: bool = False
    companions: tuple[str, ...] = ()
    batch: Literal["any", "one", "fixed"] = "any"
    softmax: bool = True
    self_contained: bool = False
    extra: str | None = None
    float_extras: Mapping[str, str] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()


AnyRow = TypeVar("AnyRow", NetworkRow, SchemeRow, OptimizerRow, DatasetRow, FormatRow)


def _table(*rows: AnyRow) -> dict[str, AnyRow]:
    return {row.name: row for row in rows}


_CIFAR = (32, 32, 3)
_IMAGENET = (224, 224, 3)
_IMAGENET_NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_ROTATED = ReferenceLayout(rotated=True)


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
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        options={"depth": 20, "width": float(width)},
        reference=ReferenceLayout(kernel="{}", binary_kernel="{}", rotated=True),
    )


def _bireal(depth: int, reference: ReferenceLayout, **kwargs: Any) -> NetworkRow:
    return NetworkRow(
        name=f"birealnet{depth}",
        builder=f"bnn_keras.networks.birealnet:birealnet{depth}",
        description=f"Bi-Real Net with {depth} layers: a shortcut round every binary convolution",
        input_shape=_IMAGENET,
        classes=1000,
        scheme="bireal",
        bits="1/1",
        dataset="imagenet2012",
        reference=reference,
        **_IMAGENET_NORMALISATION,
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
            "reference": _ROTATED,
            **_IMAGENET_NORMALISATION,
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
        structures={"1/1": "bireal", "1/32": "normal", "32/32": "normal"},
        reference=ReferenceLayout(rotated=True, unused=("bn3",)),
        source=f"IR-Net, ImageNet/ResNet{depth}",
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
            **_IMAGENET_NORMALISATION,
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
        description="Larq Zoo's network of that name, with quantizers of its own",
        input_shape=_IMAGENET,
        classes=1000,
        scheme="zoo",
        bits="1/1",
        dataset="imagenet2012",
        source="larq_zoo",
        options={"weights": "none"},
    )


NETWORKS = _table(
    NetworkRow(
        name="lenet5",
        builder="bnn_keras.networks.xnor_net:lenet5",
        description="XNOR-Net's LeNet-5: two convolutions, two dense layers; the middle two binary",
        input_shape=(28, 28, 1),
        classes=10,
        scheme="xnor",
        bits="1/1",
        dataset="mnist",
        mean=(0.1307,),
        std=(0.3081,),
        source="XNOR-Net-PyTorch, MNIST/models/LeNet_5.py",
        reference=ReferenceLayout(),
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
        options={"dropout": 0.5},
        reference=_ROTATED,
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
        mean=(0.485, 0.456, 0.406),
        std=(1 / 255, 1 / 255, 1 / 255),
        source="XNOR-Net-PyTorch, ImageNet/networks/model_list/alexnet.py",
        options={"dropout": 0.5},
        reference=ReferenceLayout(),
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
        mean=(0.5,),
        std=(0.5,),
    ),
    _rethinking(
        "binary_alexnet", "Binary AlexNet: five convolutions, three dense layers, all binary", "binary_alexnet.py"
    ),
    _rethinking("xnornet", "XNOR-Net's AlexNet made for Bop: all but the first and the last layer binary", "xnor.py"),
    _bireal(
        18,
        ReferenceLayout(binary_kernel="{}.weights", flat=True, rotated=True),
        source="Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py",
        options={"variant": "bireal"},
    ),
    _bireal(
        34,
        ReferenceLayout(binary_kernel="{}.weights", flat=True, rotated=True),
        source="Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py",
    ),
    _bireal(
        50,
        ReferenceLayout(rotated=True, unused=("layers.0.down_conv1x1",)),
        source="Bi-Real-net, pytorch_implementation/BiReal_50/birealnet.py",
    ),
    _irnet(
        "resnet20",
        "resnet:resnet20",
        "IR-Net's ResNet-20 for CIFAR-10",
        structures={"1/1": "bireal", "1/32": "normal", "32/32": "normal"},
        source="IR-Net, CIFAR-10/ResNet20",
    ),
    _irnet(
        "vgg_small",
        "vgg:vgg_small",
        "IR-Net's VGG-Small: six convolutions, all but the first binary, and a dense layer",
        reference=ReferenceLayout(),
        source="IR-Net, CIFAR-10/VGG-Small/vgg.py",
    ),
    _irnet(
        "resnet18_cifar",
        "resnet:resnet18_cifar",
        "IR-Net's ResNet-18 for CIFAR-10",
        structures={"1/1": "normal", "1/32": "normal", "32/32": "normal"},
        source="IR-Net, CIFAR-10/ResNet18/resnet.py",
    ),
    _irnet_for_imagenet(18),
    _irnet_for_imagenet(34),
    *map(_zoo, _ZOO),
)

_BINARY_BITS = ("1/1", "1/32")
_REAL_ACTIVATION = {"activation": "relu"}
_RISING = {"schedule": "geometric", "initial": 0.1, "final": 10.0}

SCHEMES = _table(
    SchemeRow(
        name="float",
        builder="bnn_keras.schemes:float_",
        description="No binarization",
        bits=("32/32",),
        source="",
        options=_REAL_ACTIVATION,
    ),
    SchemeRow(
        name="binarynet",
        builder="bnn_keras.schemes:binarynet",
        description="BinaryNet: signs with clipped straight-through gradients, clipped latent weights",
        bits=_BINARY_BITS,
        source="Courbariaux et al. 2016, arXiv:1602.02830",
        options=_REAL_ACTIVATION,
    ),
    SchemeRow(
        name="xnor",
        builder="bnn_keras.schemes:xnor",
        description="XNOR-Net: sign scaled by the kernel's mean magnitude, centred and clipped latent weights",
        bits=_BINARY_BITS,
        source="Rastegari et al. 2016, arXiv:1603.05279; XNOR-Net-PyTorch, MNIST/util.py",
        options={**_REAL_ACTIVATION, "gradient_scale": 1.0},
    ),
    SchemeRow(
        name="mcdonnell",
        builder="bnn_keras.schemes:mcdonnell",
        description="McDonnell: sign scaled by He's deviation, gradient unchanged",
        bits=("1/32", "1/1"),
        source="McDonnell 2018, arXiv:1802.08530; binary-wide-resnet, wrn_mcdonnell.py",
        options=_REAL_ACTIVATION,
    ),
    SchemeRow(
        name="bireal",
        builder="bnn_keras.schemes:bireal",
        description="Bi-Real Net: scaled sign without a gradient through the scale, approximate sign of activations",
        bits=_BINARY_BITS,
        source="Liu et al. 2018, arXiv:1808.00278; Bi-Real-net, pytorch_implementation",
        options={**_REAL_ACTIVATION, "scaled": True},
    ),
    SchemeRow(
        name="irnet",
        builder="bnn_keras.schemes:irnet",
        description="IR-Net: standardised kernels with power-of-two scales, error decay estimator",
        bits=_BINARY_BITS,
        source="Qin et al. 2020, arXiv:1909.10788; IR-Net, CIFAR-10/ResNet20/1w1a/modules",
        options={**_REAL_ACTIVATION, "t": _RISING, "k": None},
        anneals=("t", "k"),
    ),
    SchemeRow(
        name="zoo",
        builder="bnn_keras.schemes:zoo",
        description="What a network of Larq Zoo brings with it; of these networks alone",
        bits=("1/1",),
        source="larq_zoo",
    ),
)

_ADAM = {"beta_1": 0.9, "beta_2": 0.999}

_CLIPPED = {"clip_norm": None}

OPTIMIZERS = _table(
    OptimizerRow(
        name="sgd",
        builder="bnn_keras.optimizers:sgd",
        description="Stochastic gradient descent, with momentum, plain or Nesterov's",
        options={"momentum": 0.0, "nesterov": False, **_CLIPPED},
    ),
    OptimizerRow(
        name="adam",
        builder="bnn_keras.optimizers:adam",
        description="Adam as Keras has it: epsilon before bias correction",
        options={**_ADAM, "epsilon": 1e-7, **_CLIPPED},
    ),
    OptimizerRow(
        name="adam_torch",
        builder="bnn_keras.optimizers:adam_torch",
        description="Adam as PyTorch has it: epsilon after bias correction",
        options={**_ADAM, "epsilon": 1e-8, **_CLIPPED},
    ),
    OptimizerRow(
        name="adamw",
        builder="bnn_keras.optimizers:adamw",
        description="Adam as PyTorch has it, with decoupled weight decay",
        options={**_ADAM, "epsilon": 1e-8, **_CLIPPED},
    ),
    OptimizerRow(
        name="bop",
        builder="bnn_keras.optimizers:bop",
        description="Bop flips binary weights, without latent ones; Adam trains all others",
        options={"threshold": 1e-8, "gamma": 1e-4, **_ADAM, "epsilon": 1e-7},
        latent_free=True,
    ),
)


def _images(
    name: str,
    description: str,
    shape: tuple[int | None, int | None, int],
    classes: int,
    examples: tuple[int, int],
    test: str = "test",
    module: str | None = None,
) -> DatasetRow:
    return DatasetRow(name, description, shape, classes, "train", test, *examples, module)


DATASETS = _table(
    _images(
        "mnist_5k",
        "5,000 real MNIST digits that ship with the package (4,000 train, 1,000 test)",
        (28, 28, 1),
        10,
        (4_000, 1_000),
        module="bnn_keras.data.mnist_5k",
    ),
    _images("mnist", "MNIST, handwritten digits", (28, 28, 1), 10, (60_000, 10_000)),
    _images("fashion_mnist", "Fashion-MNIST, photographs of clothes", (28, 28, 1), 10, (60_000, 10_000)),
    _images("cifar10", "CIFAR-10, photographs of ten things", (32, 32, 3), 10, (50_000, 10_000)),
    _images("cifar100", "CIFAR-100, photographs of a hundred things", (32, 32, 3), 100, (50_000, 10_000)),
    _images(
        "imagenet2012",
        "ImageNet, ILSVRC 2012: photographs of a thousand things",
        (None, None, 3),
        1000,
        (1_281_167, 50_000),
        test="validation",
    ),
)

FORMATS = _table(
    FormatRow(
        name="packed",
        module="bnn_keras.export.packed",
        description="one bit per binary weight, for Keras and for your own runtime (safetensors)",
        floats=("float32", "float16"),
        packs="all",
        softmax=False,
        self_contained=True,
    ),
    FormatRow(
        name="tflite",
        module="bnn_keras.export.tflite",
        description="Larq Compute Engine, for ARM: Raspberry Pi, Android",
        floats=("float32", "int8"),
        packs="binary inputs",
        suffix=".tflite",
        batch="one",
        extra="tflite",
        packages=("larq-compute-engine",),
    ),
    FormatRow(
        name="openvino",
        module="bnn_keras.export.openvino",
        description="OpenVINO, for x86",
        floats=("float32", "bfloat16", "int8"),
        packs="binary inputs",
        suffix=".xml",
        companions=(".bin",),
        batch="fixed",
        extra="openvino",
        float_extras={"int8": "int8"},
        packages=("openvino", "nncf"),
    ),
    FormatRow(
        name="saved_model",
        module="bnn_keras.export.saved_model",
        description="TensorFlow's SavedModel, for TensorFlow Serving; float kernels",
        floats=("float32",),
        packs="none",
        folder=True,
    ),
    FormatRow(
        name="onnx",
        module="bnn_keras.export.onnx",
        description="ONNX; float kernels",
        floats=("float32",),
        packs="none",
        suffix=".onnx",
        extra="onnx",
        packages=("tf2onnx",),
    ),
)

TABLES: dict[str, Mapping[str, Any]] = {
    "network": NETWORKS,
    "scheme": SCHEMES,
    "optimizer": OPTIMIZERS,
    "dataset": DATASETS,
    "format": FORMATS,
}


def find(kind: str, name: str) -> Any:
    """The row called `name` in the table of `kind` (a key of `TABLES`).

    Raises:
        BnnError: No row has that name; the message has the nearest one and all of them.
    """
    table = TABLES[kind]
    if name not in table:
        raise BnnError(unknown(kind, name, table))
    return table[name]
