"""The kinds of catalog rows. A row checks the types of its fields when it is created.

A `builder` is a function, or its name as "module:function", which is imported when it is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import pydantic
from pydantic.dataclasses import dataclass

from bnn_keras.catalog.options import Options

Bits = Literal["1/1", "1/32", "32/1", "32/32"]
Builder = str | Callable[..., Any]

_CHECKED = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CHECKED)
class ReferenceFile:
    """What a reference's trainer stores in its checkpoint file, by the keys of the outermost dictionary.

    Attributes:
        kind: "torch" for a file of `torch.save`, "keras" for the weights of a Keras model (`Model.save_weights`), in
            its own layout. A file of Keras has no other entries; `stats.json` beside it may have the epoch.
        state: Key of the state dict; None if the file is the state dict.
        wrapped: Name of the module within `torch.nn.DataParallel`, whose tensors have `module.` in their names: "" for
            the whole network, None for no module.
        epoch: Key of the epoch; None if the file has none.
        epoch_of: Number of finished epochs when 0 is stored: 1 if the file has the index of the last finished epoch.
        best: Key of the best test accuracy in percent; None if the file has none.
        optimizer: Key of the optimizer's state; None if the file has none.
        scheduler: Key of the state of the learning rate's schedule; None if the file has none.
        second_group: The tensors that the optimizer has in a second group of parameters, behind all others: those of
            this rank, and those whose names match this pattern. None for a single group.
        constants: Further entries with a fixed value.
    """

    kind: Literal["torch", "keras"] = "torch"
    state: str | None = "state_dict"
    wrapped: str | None = None
    epoch: str | None = None
    epoch_of: int = 0
    best: str | None = None
    optimizer: str | None = None
    scheduler: str | None = None
    second_group: tuple[int, str] | None = None
    constants: Mapping[str, str] = dataclasses.field(default_factory=dict)


Shape = tuple[int, ...]


@dataclass(frozen=True, config=_CHECKED)
class ReferenceLayout:
    """How a reference's code stores the weights of a network.

    Attributes:
        kernel: Pattern of a kernel's tensor name; `{}` stands for the layer's name.
        binary_kernel: The same for the kernels of binary layers.
        flat: Whether kernels of binary layers are stored as columns of shape (weights, 1).
        rotated: Whether our network equals the reference's rotated by 180°.
        parts: Ends of our names of the weights of learnt parts ("layer.weight") → ends of the reference's names, and
            the shape in which the reference stores the tensor, with -1 for the channels.
        unused: Tensors that have no counterpart here, because the reference never uses them or because they are no
            weights: name → shape, with -1 for the number of classes, and initial value. `*` stands for any part of a
            name. None: files for the reference cannot be written, because it uses the tensor.
        packs: Whether the reference also reads binary kernels as signs packed along the input channels, in a state dict
            alone.
        file: What the reference's trainer stores.
    """

    kernel: str = "{}.weight"
    binary_kernel: str = "{}.weight"
    flat: bool = False
    rotated: bool = False
    parts: Mapping[str, tuple[str, Shape]] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, tuple[Shape, float] | None] = dataclasses.field(default_factory=dict)
    packs: bool = False
    file: ReferenceFile = dataclasses.field(default_factory=ReferenceFile)


@dataclass(frozen=True, config=_CHECKED)
class Normalization:
    """Normalization of images, (x / 255 − mean) / std, with one value or one per channel."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True, config=_CHECKED)
class NetworkRow:
    """A network. `builder` is `f(scheme, images, classes, **options) -> logits`.

    Attributes:
        input_shape: Height, width, channels of the images it was published for.
        classes: Number of classes it was published for.
        scheme: Scheme of its paper.
        bits: Bits of weights / activations of its paper.
        dataset: Dataset of its paper.
        source: Reference code and file.
        options: Keys that the network adds to the experiment's table `network`.
        structures: Default of the option `structure` for each choice of bits; empty if the network has only one.
        reference: How the reference's code stores it; None if there is no such code.
        references: The same where it differs: by the name of a scheme of another paper that took over the network, by
            scheme and bits ("reactnet 32/1"), or by the network's option `variant`.
        normalization: The normalization that its pre-trained weights need, on every dataset; None for networks without
            pre-trained weights, which take the dataset's.
        own_layers: Whether it brings its own binary layers. Its scheme has `layers=False` then.
        note: A line for users who choose the network by its name, which another network may have in another reference.
    """

    name: str
    builder: Builder
    description: str
    input_shape: tuple[int, int, int]
    classes: int
    scheme: str
    bits: Bits
    dataset: str
    source: str = ""
    options: type[Options] = Options
    structures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: ReferenceLayout | None = None
    references: Mapping[str, ReferenceLayout] = dataclasses.field(default_factory=dict)
    normalization: Normalization | None = None
    own_layers: bool = False
    note: str | None = None

    def layout(self, scheme: str, bits: str, variant: str = "") -> ReferenceLayout | None:
        """Return how the reference of the network with a scheme stores it; None if there is no reference."""
        keys = (key for key in (variant, f"{scheme} {bits}", scheme) if key in self.references)
        return next((self.references[key] for key in keys), self.reference)


@dataclass(frozen=True, config=_CHECKED)
class SchemeRow:
    """A binarization scheme. `builder` is `f(**options) -> Scheme`.

    Attributes:
        bits: Bits of weights / activations that it supports; the first are those of its paper.
        source: Paper and reference code.
        options: Keys that the scheme adds to the experiment's table `scheme`.
        anneals: The options that may change during training.
        layers: Whether it makes layers. False is for networks with `own_layers`; Bop has no kernels to flip there.
        derived: Rules for annealed options that are not set: option → (the option that it follows, the function from
            the schedule of that option to its own).
    """

    name: str
    builder: Builder
    description: str
    bits: tuple[Bits, ...]
    source: str = ""
    options: type[Options] = Options
    anneals: tuple[str, ...] = ()
    layers: bool = True
    derived: Mapping[str, tuple[str, Builder]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=_CHECKED)
class OptimizerRow:
    """An optimizer.

    Attributes:
        options: Its hyper-parameters besides learning rate and weight decay: keys that the optimizer adds to the
            experiment's table `optimizer`.
        latent_free: Whether it keeps binary kernels at ±1 instead of latent weights behind a quantizer.
    """

    name: str
    builder: Builder
    description: str
    options: type[Options] = Options
    latent_free: bool = False


VALIDATION = 0.1  # of the training images, held out where no paper says otherwise


@dataclass(frozen=True, config=_CHECKED)
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
        origin: Authors and address of the images; empty if not noted.
        licence: Licence of the images; empty if not noted. Models of the package need both.
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
    origin: str = ""
    licence: str = ""

    @classmethod
    def other(cls, name: str, input_shape: tuple[int | None, int | None, int], classes: int) -> DatasetRow:
        """Return a row for a dataset outside of the catalog, with splits "train" and "test".

        No paper chose an epoch on its test images: by default, a part of the training images is held out for that.
        """
        return cls(name, "", input_shape, classes, "train", "test", 0, 0, validation=VALIDATION)


@dataclass(frozen=True, config=_CHECKED)
class FormatRow:
    """A file format of exported models. The module implements `bnn_keras.export.formats.Format`.

    Attributes:
        name: Name on the command line.
        module: Module that writes and reads the format.
        description: One line for help texts.
        floats: Types of all numbers that are not binary weights; the first is the default.
        packs: Which binary layers are stored in one bit per weight: "all", "binary inputs" (those whose inputs are
            binary too), or "none".
        computes: Which binary layers are computed in one bit: "binary inputs" (with XNOR and popcount), "all" (layers
            with real inputs add or subtract each input), or "none".
        suffix: Suffix of the file name; None for a folder, or for any name.
        folder: Whether an exported model is a folder.
        companions: Suffixes of further files beside the file, with the same stem. They hold the weights.
        batch: Batch size that an exported model accepts: "any", "one" (single images), or "fixed" (chosen on export).
        softmax: Whether an exported model can return probabilities.
        opens: Whether the file can be opened for inference. A file that cannot holds latent weights for the reference's
            code; its module implements `bnn_keras.export.formats.WeightsFormat`.
        self_contained: Whether the file holds experiment and labels, so that it opens without its sidecar. Its module
            implements `bnn_keras.export.formats.SelfContainedFormat`.
        code: Whether opening a file runs a program in it, which may read and write other files. Such a file is opened
            if this machine exported it, or if the user trusts it.
        measured: Fields of the sidecar that the function `measure` of its module returns.
        extra: Extra of bnn-keras that the format needs.
        float_extras: Extras that single types of `floats` need, by type.
        packages: Packages whose versions are recorded in the sidecar.
    """

    name: str
    module: str
    description: str
    floats: tuple[str, ...]
    packs: Literal["all", "binary inputs", "none"]
    computes: Literal["all", "binary inputs", "none"] = "none"
    suffix: str | None = None
    folder: bool = False
    companions: tuple[str, ...] = ()
    batch: Literal["any", "one", "fixed"] = "any"
    softmax: bool = True
    opens: bool = True
    self_contained: bool = False
    code: bool = False
    measured: tuple[str, ...] = ()
    extra: str | None = None
    float_extras: Mapping[str, str] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()


AnyRow = TypeVar("AnyRow", NetworkRow, SchemeRow, OptimizerRow, DatasetRow, FormatRow)


def table(*rows: AnyRow) -> dict[str, AnyRow]:
    """Return rows by name."""
    return {row.name: row for row in rows}
