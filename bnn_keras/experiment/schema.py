"""What an experiment may say: one pydantic model per TOML table. Needs no TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import tomli_w

from bnn_keras import catalog
from bnn_keras.errors import unknown
from bnn_keras.experiment.schedule_config import ScheduleConfig, Scheduled, ScheduledOrNothing
from bnn_keras.experiment.tables import Count, NotNegative, Percent, Positive, Range, Size, Table

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


def _known(kind: str) -> pydantic.AfterValidator:
    def check(name: str) -> str:
        if name not in catalog.TABLES[kind]:
            raise ValueError(unknown(kind, name, catalog.TABLES[kind]))
        return name

    return pydantic.AfterValidator(check)


def _named(table: Mapping[str, Any], name: Any) -> Any:
    """The entry of a name; None where there is none, or where what a document gives is no name at all."""
    return table.get(name) if isinstance(name, str) else None


FAKE = "fake"


class Paper(Table):
    """The publication that the experiment reproduces."""

    title: str
    authors: str
    year: int
    url: str


class SourceCode(Table):
    """The reference code that the recipe was read from."""

    repository: str
    files: list[str]
    reconstructed: bool = False


class Published(Table):
    """Published accuracy in percent, its deviation over `runs` of them, and that of the float network beside it."""

    top1: Percent
    top1_deviation: NotNegative | None = None
    runs: Count | None = None
    top5: Percent | None = None
    float_top1: Percent | None = None
    float_top5: Percent | None = None


class Chosen(Table):
    """A table whose `name` chooses a row of the catalog; that says which further keys there are, and their defaults."""

    kind: ClassVar[str]
    common: ClassVar[frozenset[str]]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        row = _named(catalog.TABLES[cls.kind], values.get("name")) if isinstance(values, dict) else None
        return {**cls._options(row, values), **values} if row else values

    @pydantic.model_validator(mode="after")
    def _no_strangers(self) -> Self:
        allowed = self._options(catalog.TABLES[self.kind][self.name], self.model_dump())
        strangers = [key for key in self.choices if key not in allowed]
        if strangers:
            known = ", ".join(allowed) or "no further keys"
            raise ValueError(f"{self.kind} {self.name!r} takes {known}; not {', '.join(strangers)}")
        return self

    @classmethod
    def _options(cls, row: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keys that a row of the catalog allows in this table, with their defaults."""
        return row.options

    @property
    def choices(self) -> dict[str, Any]:
        """What is set of the keys that the row adds."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in self.common}
        return {name: value for name, value in own.items() if value is not None}


class NetworkConfig(Chosen):
    """Which network is trained.

    `rotated` turns the images by 180° first: for weights that come from a reference in PyTorch.
    """

    kind = "network"
    common = frozenset({"name", "rotated", "structure"})

    name: Annotated[str, _known("network")]
    structure: Literal["normal", "bireal"] | None = None
    rotated: bool = False
    depth: Count | None = None
    width: Positive | None = None
    dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = None
    variant: Literal["bireal", "rethinking"] | None = None
    weights: Literal["none", "imagenet"] | None = None

    @pydantic.field_validator("structure")
    @classmethod
    def _has_structures(cls, structure: str | None, info: pydantic.ValidationInfo) -> str | None:
        row = catalog.NETWORKS.get(info.data.get("name", ""))
        if row and structure and not row.structures:
            raise ValueError(f"network {row.name!r} has one structure; leave the key out")
        return structure


class SchemeConfig(Chosen):
    """How the network is binarized, at how many bits for weights / activations.

    `activation` stands in the place of the signs where activations have 32 bits. `gradient_scale` is XNOR-Net's.
    `scaled` is Bi-Real Net's: false leaves kernels at ±1. `t` and `k` are IR-Net's, as functions of the epoch over all
    stages; k is max(1/t, 1) where it is left out.
    """

    kind = "scheme"
    common = frozenset({"name", "bits"})

    name: Annotated[str, _known("scheme")]
    bits: str
    activation: Literal["relu", "leaky_clip", "clip"] | None = None
    gradient_scale: Positive | None = None
    scaled: bool | None = None
    t: Scheduled | None = None
    k: Scheduled | None = None

    @pydantic.field_validator("t")
    @classmethod
    def _never_zero(cls, t: Any) -> Any:
        if isinstance(t, ScheduleConfig) and 0 in (
            t.initial,
            getattr(t, "final", None),
            t.warm_up and t.warm_up.initial,
        ):
            raise ValueError("expected values greater than 0, of which k = max(1/t, 1) can be had")
        return t

    @pydantic.field_validator("bits")
    @classmethod
    def _offered(cls, bits: str, info: pydantic.ValidationInfo) -> str:
        row = catalog.SCHEMES.get(info.data.get("name", ""))
        if row and bits not in row.bits:
            raise ValueError(f"scheme {row.name!r} has bits (weights/activations) {', '.join(row.bits)}")
        return bits

    @classmethod
    def _options(cls, row: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Signs leave no place for another activation."""
        signs = str(values.get("bits")).endswith("/1")
        return {key: value for key, value in row.options.items() if not (signs and key == "activation")}


class AugmentationConfig(Table):
    """What happens to each training image before normalisation, in this order.

    `crop` cuts a place of the image at random: "random", of the network's size, out of the image as `data.resize` makes
    it; "random_area", of a share `area` of its pixels with width / height in `aspect`, resized to the network's size;
    without it the middle is cut out, of images whose sizes differ. `pad` pixels are added on every side and the image's
    own size is cut out at a random place: it moves by up to `pad` pixels. `flip` mirrors every other image.
    `brightness`, `contrast`, `saturation` and `hue` jitter colours in random order, `lighting` adds colour noise along
    the principal components of ImageNet's colours, with this deviation.
    """

    crop: Literal["random", "random_area"] | None = None
    area: Range = pydantic.Field([0.08, 1.0])
    aspect: Range = pydantic.Field([3 / 4, 4 / 3])
    pad: Annotated[int, pydantic.Field(ge=0)] = 0
    padding: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    saturation: NotNegative = 0.0
    hue: Annotated[float, pydantic.Field(ge=0, le=0.5)] = 0.0
    lighting: NotNegative = 0.0

    @pydantic.field_validator("area", "aspect")
    @classmethod
    def _ordered(cls, values: list[float]) -> list[float]:
        if values[0] > values[1]:
            raise ValueError("expected the smaller of the two first")
        return values


class DataConfig(Table):
    """Which images, and their normalisation (x / 255 − mean) / std, with one value or one per channel.

    `shape` (0 where sizes differ) and `classes` describe a dataset that the catalog does not have; --dataset fills
    them in. The name "fake" makes images up, `examples` of them, two batches where that is left out, with the shape and
    classes of the dataset `like`.

    Images whose sizes differ have their shorter side resized to `resize` pixels (256 / 224 of the network's where it is
    left out), or both with `keep_aspect = false`, and their middle cut out.
    """

    like: str | None = None
    shape: Annotated[list[Size], pydantic.Field(min_length=3, max_length=3)] | None = None
    classes: Count | None = None
    name: str
    examples: Count | None = None
    mean: list[float]
    std: list[Positive]
    resize: Count | None = None
    keep_aspect: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    augmentation: AugmentationConfig | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _described(cls, name: str, info: pydantic.ValidationInfo) -> str:
        like = info.data.get("like")
        if (like is None) == (name == FAKE):
            raise ValueError("like belongs to the name 'fake', which takes the shape and classes of the dataset `like`")
        source = like or name
        if source not in catalog.DATASETS and not (info.data.get("shape") and info.data.get("classes")):
            raise ValueError(
                f"{unknown('dataset', source, catalog.DATASETS)}; another one of TFDS needs shape and classes, "
                "which --dataset fills in"
            )
        return name

    @pydantic.field_validator("mean", "std")
    @classmethod
    def _per_channel(cls, values: list[float], info: pydantic.ValidationInfo) -> list[float]:
        shape = info.data.get("shape")
        row = catalog.DATASETS.get(info.data.get("like") or info.data.get("name", ""))
        channels = shape[-1] if shape else row.input_shape[-1] if row else len(values)
        if len(values) not in (1, channels):
            allowed = " or ".join(map(str, sorted({1, channels})))
            raise ValueError(f"expected {allowed} value(s), one for each channel")
        return values

    @property
    def source(self) -> str:
        """The dataset whose shape and classes these are."""
        return self.like or self.name

    @property
    def row(self) -> catalog.DatasetRow:
        """What is known of the dataset."""
        if self.shape is None or self.classes is None:
            return catalog.DATASETS[self.source]
        height, width, channels = self.shape
        return catalog.DatasetRow.other(self.source, (height or None, width or None, channels), self.classes)


class OptimizerConfig(Chosen):
    """An optimizer by name; hyper-parameters that are left out take the defaults of its row in the catalog.

    `weight_decay` is coupled L2 as in PyTorch: the gradient becomes g + weight_decay · w before anything else; for
    "adamw" it is decoupled: w ← w − learning_rate · weight_decay · w. It falls on `weight_decay_of`: everything, or
    kernels alone (weights with two axes or more). Binary weights that Bop flips have none. `clip_norm` is the largest
    norm of all gradients together; larger ones are scaled down to it before anything else.
    """

    kind = "optimizer"
    common = frozenset({"name", "learning_rate", "weight_decay", "weight_decay_of"})

    name: Annotated[str, _known("optimizer")]
    learning_rate: Scheduled
    weight_decay: NotNegative = 0.0
    weight_decay_of: Literal["everything", "kernels"] = "everything"
    clip_norm: Positive | None = None
    momentum: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = None
    nesterov: bool | None = None
    beta_1: NotNegative | None = None
    beta_2: NotNegative | None = None
    epsilon: Positive | None = None
    threshold: ScheduledOrNothing | None = None
    gamma: Scheduled | None = None


class DistillationConfig(Table):
    """A teacher whose logits a stage learns from.

    Loss: (1 − weight) · loss + weight · temperature² · KL(softmax(teacher / temperature) ‖ softmax(logits /
    temperature)). The teacher is a run directory, or a network of Larq Zoo with its weights for ImageNet.
    """

    teacher: str
    temperature: Positive = 1.0
    weight: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0


class Stage(Table):
    """One training stage. Durations are in epochs; the number of steps follows from data and batch size.

    A stage starts from the weights of the one before. It may have another `scheme` than the experiment's, and train
    batch norms alone while all other weights stand still. `drop_last` leaves out an epoch's last batch where it is
    smaller than the others.
    """

    epochs: Count
    batch_size: Count
    drop_last: bool = False
    trains: Literal["everything", "batch_norm"] = "everything"
    loss: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    scheme: SchemeConfig | None = None
    distillation: DistillationConfig | None = None
    optimizer: OptimizerConfig


class Experiment(Table):
    """A whole training: a scheme × a network × a recipe, with what it reproduces.

    `name` is the file's place below the experiments, "<paper>/<network>_<dataset>". `default = true` marks the one
    experiment of a network that is taken where several match; one with `by_name = true` is found by its name alone.
    `cost` says what it takes, for those who choose.
    """

    name: str
    default: bool = False
    by_name: bool = False
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 1
    paper: Paper | None = None
    source: SourceCode | None = None
    published: Published | None = None
    cost: str | None = None
    network: NetworkConfig
    scheme: SchemeConfig
    data: DataConfig
    stages: Annotated[list[Stage], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_structure(cls, values: Any) -> Any:
        """The structure that the network's paper has at these bits, where none is given."""
        network, scheme = (values.get(key) if isinstance(values, dict) else None for key in ("network", "scheme"))
        if not isinstance(network, dict) or not isinstance(scheme, dict) or "structure" in network:
            return values
        row = _named(catalog.NETWORKS, network.get("name"))
        structure = _named(row.structures, scheme.get("bits")) if row else None
        return {**values, "network": {**network, "structure": structure}} if structure else values

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.network.name.startswith("zoo/")) != (self.scheme.name == "zoo"):
            raise ValueError(
                f"network {self.network.name!r} and scheme {self.scheme.name!r} do not go together: "
                "networks of Larq Zoo have the scheme 'zoo', and they alone"
            )
        kinds = {catalog.OPTIMIZERS[stage.optimizer.name].latent_free for stage in self.stages}
        if len(kinds) > 1:
            raise ValueError("stages with Bop and stages with latent weights do not go together; use one of the two")
        real = [scheme.name for scheme in map(self.scheme_of, self.stages) if scheme.name in ("float", "zoo")]
        if True in kinds and real:
            raise ValueError(f"Bop has nothing to flip with scheme {real[0]!r}; choose another of the two")
        return self

    def scheme_of(self, stage: Stage) -> SchemeConfig:
        """The scheme that a stage trains with."""
        return stage.scheme or self.scheme

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of what the network takes: the dataset's, or its own where images differ."""
        own = catalog.NETWORKS[self.network.name].input_shape
        height, width, channels = self.data.row.input_shape
        return (height or own[0], width or own[1], channels)

    @property
    def latent_free(self) -> bool:
        """Whether binary kernels are ±1 themselves."""
        return catalog.OPTIMIZERS[self.optimizer].latent_free

    @property
    def optimizer(self) -> str:
        """The name of the optimizer, that of the first stage where they differ."""
        return self.stages[0].optimizer.name

    @property
    def chosen(self) -> dict[str, str]:
        """What `resolve` chooses between, by its names."""
        names = {"network": self.network.name, "dataset": self.data.name, "scheme": self.scheme.name}
        return {**names, "bits": self.scheme.bits, "optimizer": self.optimizer}

    @property
    def reconstructed(self) -> bool:
        """Whether its source does not give the recipe, or not for these data."""
        return bool(self.source and self.source.reconstructed)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def to_document(self) -> dict[str, Any]:
        """The experiment as plain values, every default filled in."""
        return self.model_dump(exclude_none=True)

    def to_toml(self, named: bool = True) -> str:
        """The experiment as TOML, with its name or without; `parse` gives the same experiment back."""
        return tomli_w.dumps({key: value for key, value in self.to_document().items() if named or key != "name"})

    def flat(self, include: set[str] | None = None) -> dict[str, Any]:
        """Every value by its dotted key, of the tables named in `include` or of all."""
        return _flat(self.model_dump(include=include, exclude_none=True))

    def differences(self, other: Experiment) -> list[str]:
        """What makes two experiments train differently, as "key: this value / that value"; empty where nothing does."""
        mine, theirs = self.flat(_TRAINED), other.flat(_TRAINED)
        return [
            f"{key}: {mine.get(key, 'absent')} / {theirs.get(key, 'absent')}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key)
        ]


_TRAINED = {"seed", "network", "scheme", "data", "stages"}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables and arrays of tables as {dotted key: value}."""
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
