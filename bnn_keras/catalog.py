"""Catalog of networks, schemes, optimizers, datasets and export formats, as plain data. Needs no TensorFlow.

`builder` names a function as "module:function"; `bnn_keras.build` resolves it. To add a network, scheme, optimizer or
dataset, add one row here and one function there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from bnn_keras.errors import BnnError, unknown


@dataclasses.dataclass(frozen=True)
class ReferenceLayout:
    """How a reference's PyTorch code stores the weights of a network.

    Attributes:
        kernel: Pattern of a kernel's tensor name; `{}` stands for the layer's name.
        binary_kernel: The same for the kernels of binary layers.
        flat: Whether kernels of binary layers are stored as columns of shape (weights, 1).
        rotated: Whether our network equals the reference's rotated by 180°.
        parts: Ends of our names of the weights of learnt parts ("layer.weight") → ends of the reference's names, and
            whether the reference stores the tensor as a map, (1, channels, 1, 1).
        unused: Tensors and modules that the reference stores but never uses.
    """

    kernel: str = "{}.weight"
    binary_kernel: str = "{}.weight"
    flat: bool = False
    rotated: bool = False
    parts: Mapping[str, tuple[str, bool]] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Normalization of images, (x / 255 − mean) / std, with one value or one per channel."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclasses.dataclass(frozen=True)
class NetworkRow:
    """A network. `builder` is `f(scheme, images, classes, **options) -> logits`.

    Attributes:
        input_shape: Height, width, channels of the images it was published for.
        classes: Number of classes it was published for.
        scheme: Scheme of its paper.
        bits: Bits of weights / activations of its paper.
        dataset: Dataset of its paper.
        source: Reference code and file.
        options: Keys that the network adds to the experiment's table `network`, with their defaults.
        structures: Default structure for each choice of bits; empty if the network has only one structure.
        reference: How the reference's PyTorch code stores it; None if it does not come from PyTorch.
        references: The same where it differs: by the name of a scheme of another paper that took over the network, or
            by scheme and bits ("reactnet 32/1").
        normalization: The normalization that its pre-trained weights need, on every dataset; None for networks without
            pre-trained weights, which take the dataset's.
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
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    structures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: ReferenceLayout | None = None
    references: Mapping[str, ReferenceLayout] = dataclasses.field(default_factory=dict)
    normalization: Normalization | None = None

    def layout(self, scheme: str, bits: str) -> ReferenceLayout | None:
        """Return how the reference of the network with a scheme stores it; None if there is no reference in PyTorch."""
        return self.references.get(f"{scheme} {bits}") or self.references.get(scheme) or self.reference


@dataclasses.dataclass(frozen=True)
class SchemeRow:
    """A binarization scheme. `builder` is `f(**options) -> Scheme`.

    Attributes:
        bits: Bits of weights / activations that it supports; the first are those of its paper.
        source: Paper and reference code.
        options: Keys that the scheme adds to the experiment's table `scheme`, with their defaults.
        anneals: The options that may change during training.
        flips: Whether Bop can flip its kernels.
        derived: Rules for annealed options that are not set: option → (the option that it follows, the function from
            the schedule of that option to its own).
    """

    name: str
    builder: str
    description: str
    bits: tuple[str, ...]
    source: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    anneals: tuple[str, ...] = ()
    flips: bool = True
    derived: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OptimizerRow:
    """An optimizer.

    Attributes:
        options: All hyper-parameters that an experiment may set, besides learning rate and weight decay, with their
            defaults.
        latent_free: Whether it keeps binary kernels at ±1 instead of latent weights behind a quantizer.
    """

    name: str
    builder: str
    description: str
    options: Mapping[str, Any]
    latent_free: bool = False


VALIDATION = 0.1  # of the training images, held out where no paper says otherwise


@dataclasses.dataclass(frozen=True)
class DatasetRow:
    """An image classification dataset of TFDS.

    The defaults of `mean` and `std`, which scale pixels to [−1, 1], are for datasets outside of the catalog.

    Attributes:
        input_shape: Height, width, channels; height and width are None if the sizes of images differ. The network's
            size is used then.
        train: Name of the training split.
        test: Name of the test split.
        train_examples: Number of training images; 0 if unknown.
        test_examples: Number of test images; 0 if unknown.
        module: Module that registers the dataset with TFDS; None if TFDS has it.
        mean: Mean of the pixels / 255 of training images, per channel.
        std: Their standard deviation, per channel.
        validation: The `data.validation` that the dataset brings to an experiment; None to keep that of the experiment.
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
    mean: tuple[float, ...] = Normalization.mean
    std: tuple[float, ...] = Normalization.std
    validation: float | str | None = None

    @classmethod
    def other(cls, name: str, input_shape: tuple[int | None, int | None, int], classes: int) -> DatasetRow:
        """Return a row for a dataset outside of the catalog, with splits "train" and "test".

        No paper chose an epoch on its test images: by default, a part of the training images is held out for that.
        """
        return cls(name, "", input_shape, classes, "train", "test", 0, 0, validation=VALIDATION)


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
        code: Whether opening a file runs a program in it, which may read and write other files. Such a file is opened
            if this machine exported it, or if the user trusts it.
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
    code: bool = False
    extra: str | None = None
    float_extras: Mapping[str, str] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()


AnyRow = TypeVar("AnyRow", NetworkRow, SchemeRow, OptimizerRow, DatasetRow, FormatRow)


def _table(*rows: AnyRow) -> dict[str, AnyRow]:
    return {row.name: row for row in rows}


_CIFAR = (32, 32, 3)
# Binary activations need a shortcut around each convolution.
_BY_ACTIVATIONS = {"1/1": "bireal", "32/1": "bireal", "1/32": "normal", "32/32": "normal"}
_IMAGENET = (224, 224, 3)
_IMAGENET_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_ROTATED = ReferenceLayout(rotated=True)
_REACTNET = ReferenceLayout(
    rotated=True,
    parts={
        "binary_conv.shift": ("move0.bias", True),
        "add.activation.before": ("move1.bias", True),
        "add.activation.slope": ("prelu.weight", False),
        "add.activation.after": ("move2.bias", True),
    },
)


# Learnt parts of ReActNet-A: those behind its 3×3 convolutions, and those behind its pointwise ones.
_REACTNET_A = {
    "binary_3x3.shift": ("move11.bias", True),
    "binary_pw.shift": ("move21.bias", True),
    "binary_pw_down1.shift": ("move21.bias", True),
    "binary_pw_down2.shift": ("move21.bias", True),
    **{
        f"activation{place}.{weight}": (name.format(place), is_map)
        for place in (1, 2)
        for weight, name, is_map in (
            ("before", "move{}2.bias", True),
            ("slope", "prelu{}.weight", False),
            ("after", "move{}3.bias", True),
        )
    },
}


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
        options={"depth": 20, "width": float(width)},
        reference=ReferenceLayout(kernel="{}", binary_kernel="{}", rotated=True),
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
            "reference": _ROTATED,
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
        structures=_BY_ACTIVATIONS,
        reference=ReferenceLayout(rotated=True, unused=("bn3",)),
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
        structures=_BY_ACTIVATIONS,
        reference=_ROTATED,
        normalization=_IMAGENET_NORMALIZATION,
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
        options={"weights": "none"},
        normalization=_IMAGENET_NORMALIZATION,  # larq_zoo, training/data.py
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
    ),
    _rethinking(
        "binary_alexnet", "Binary AlexNet: five convolutions, three dense layers, all binary", "binary_alexnet.py"
    ),
    _rethinking("xnornet", "XNOR-Net's AlexNet for Bop: all layers but the first and the last binary", "xnor.py"),
    _bireal(
        18,
        ReferenceLayout(binary_kernel="{}.weights", flat=True, rotated=True),
        source="Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py",
        options={"variant": "bireal"},
        references={"reactnet": _REACTNET},
    ),
    _bireal(
        34,
        ReferenceLayout(binary_kernel="{}.weights", flat=True, rotated=True),
        source="Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py",
        references={"reactnet": _REACTNET},
    ),
    _bireal(
        50,
        ReferenceLayout(rotated=True, unused=("layers.0.down_conv1x1",)),
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
        reference=ReferenceLayout(binary_kernel="{}.weights", flat=True, rotated=True, parts=_REACTNET_A),
        references={"reactnet 32/1": ReferenceLayout(rotated=True, parts=_REACTNET_A)},
    ),
    _irnet(
        "resnet20",
        "resnet:resnet20",
        "IR-Net's ResNet-20 for CIFAR-10",
        structures=_BY_ACTIVATIONS,
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
        structures=dict.fromkeys(_BY_ACTIVATIONS, "normal"),
        source="IR-Net, CIFAR-10/ResNet18/resnet.py",
    ),
    _irnet_for_imagenet(18),
    _irnet_for_imagenet(34),
    _torchvision(18),
    _torchvision(34),
    *map(_zoo, _ZOO),
)

_BINARY_BITS = ("1/1", "1/32", "32/1", "32/32")
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
        bits=("1/32", "1/1", "32/1", "32/32"),
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
        name="zoo",
        builder="bnn_keras.schemes:zoo",
        description="The quantizers of a Larq Zoo network; for these networks only",
        bits=("1/1",),
        source="larq_zoo",
        flips=False,
    ),
)

_ADAM = {"beta_1": 0.9, "beta_2": 0.999}

_CLIPPED = {"clip_norm": None}

OPTIMIZERS = _table(
    OptimizerRow(
        name="sgd",
        builder="bnn_keras.optimizers:sgd",
        description="Stochastic gradient descent, with momentum or Nesterov momentum",
        options={"momentum": 0.0, "nesterov": False, **_CLIPPED},
    ),
    OptimizerRow(
        name="adam",
        builder="bnn_keras.optimizers:adam",
        description="Adam as in Keras: epsilon is added before bias correction",
        options={**_ADAM, "epsilon": 1e-7, **_CLIPPED},
    ),
    OptimizerRow(
        name="adam_torch",
        builder="bnn_keras.optimizers:adam_torch",
        description="Adam as in PyTorch: epsilon is added after bias correction",
        options={**_ADAM, "epsilon": 1e-8, **_CLIPPED},
    ),
    OptimizerRow(
        name="adamw",
        builder="bnn_keras.optimizers:adamw",
        description="AdamW as in PyTorch: Adam with decoupled weight decay",
        options={**_ADAM, "epsilon": 1e-8, **_CLIPPED},
    ),
    OptimizerRow(
        name="bop",
        builder="bnn_keras.optimizers:bop",
        description="Bop flips binary weights without latent weights; Adam trains all others",
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
    mean: tuple[float, ...],
    std: tuple[float, ...],
    test: str = "test",
    module: str | None = None,
) -> DatasetRow:
    return DatasetRow(name, description, shape, classes, "train", test, *examples, module, mean, std)


# Mean and standard deviation of pixels / 255 over the training images, as commonly rounded. MNIST: as in PyTorch's
# example and XNOR-Net-PyTorch, MNIST/main.py. Fashion-MNIST, CIFAR-10 and CIFAR-100: computed from the training images.
# ImageNet: as in torchvision, IR-Net and Bi-Real-net.
DATASETS = _table(
    _images(
        "mnist_5k",
        "5,000 real MNIST digits that ship with the package (4,000 train, 1,000 test)",
        (28, 28, 1),
        10,
        (4_000, 1_000),
        # MNIST's values, so that networks trained on one can be evaluated on the other. The 4,000 training images have
        # 0.1311 and 0.3083.
        (0.1307,),
        (0.3081,),
        module="bnn_keras.data.mnist_5k",
    ),
    _images("mnist", "MNIST, handwritten digits", (28, 28, 1), 10, (60_000, 10_000), (0.1307,), (0.3081,)),
    _images(
        "fashion_mnist",
        "Fashion-MNIST, photographs of clothes",
        (28, 28, 1),
        10,
        (60_000, 10_000),
        (0.2860,),
        (0.3530,),
    ),
    _images(
        "cifar10",
        "CIFAR-10, photographs of ten things",
        (32, 32, 3),
        10,
        (50_000, 10_000),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    _images(
        "cifar100",
        "CIFAR-100, photographs of a hundred things",
        (32, 32, 3),
        100,
        (50_000, 10_000),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
    _images(
        "imagenet2012",
        "ImageNet, ILSVRC 2012: photographs of a thousand things",
        (None, None, 3),
        1000,
        (1_281_167, 50_000),
        _IMAGENET_NORMALIZATION.mean,
        _IMAGENET_NORMALIZATION.std,
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
        code=True,
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
    """Return the row called `name` of the table `kind`, a key of `TABLES`.

    Raises:
        BnnError: No row has that name. The message contains the nearest name and all names.

    Examples:
        >>> find("dataset", "cifar10").classes
        10
    """
    table = TABLES[kind]
    if name not in table:
        raise BnnError(unknown(kind, name, table))
    return table[name]
