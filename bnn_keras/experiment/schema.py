"""What an experiment may say: one pydantic model per TOML table. Needs no TensorFlow."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import tomli_w

from bnn_keras import catalog
from bnn_keras.errors import unknown

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


class Table(pydantic.BaseModel):
    """A TOML table: no unknown keys, no coercion between types, no change after loading."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _known(kind: str) -> pydantic.AfterValidator:
    def check(name: str) -> str:
        if name not in catalog.TABLES[kind]:
            raise ValueError(unknown(kind, name, catalog.TABLES[kind]))
        return name

    return pydantic.AfterValidator(check)


Positive = Annotated[float, pydantic.Field(gt=0)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
Count = Annotated[int, pydantic.Field(ge=1)]
Percent = Annotated[float, pydantic.Field(ge=0, le=100)]


class Paper(Table):
    """The publication that the experiment reproduces."""

    title: str
    authors: str
    year: int
    url: str


class Source(Table):
    """The reference code that the recipe was read from."""

    repository: str
    files: list[str]
    reconstructed: bool = False


class Published(Table):
    """Published accuracy in percent, and that of the float network beside it."""

    top1: Percent
    top5: Percent | None = None
    float_top1: Percent | None = None
    float_top5: Percent | None = None


class MultiStep(Table):
    """A value multiplied by `factor` at each of the `boundaries` (in epochs since the stage began)."""

    schedule: Literal["multi_step"]
    initial: Positive
    factor: Positive
    boundaries: list[NotNegative]

    @pydantic.field_validator("boundaries")
    @classmethod
    def _rising(cls, boundaries: list[float]) -> list[float]:
        if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
            raise ValueError("expected epochs in rising order")
        return boundaries


class Geometric(Table):
    """A value that goes from `initial` to `final` by the same factor in each epoch; it is there after the last one."""

    schedule: Literal["geometric"]
    initial: Positive
    final: Positive


Schedule = MultiStep | Geometric
_SCHEDULES = ("multi_step", "geometric")


def _kind_of_schedule(value: Any) -> str:
    if not isinstance(value, dict | Table):
        return "<number>"
    name = value.get("schedule") if isinstance(value, dict) else value.schedule
    return f"<{name}>" if name in _SCHEDULES else "<schedule>"


class UnknownSchedule(Table):
    """A table that names no known schedule, for the sake of its error."""

    model_config = pydantic.ConfigDict(extra="ignore")

    schedule: str

    @pydantic.field_validator("schedule")
    @classmethod
    def _unknown(cls, name: str) -> str:
        raise ValueError(unknown("schedule", name, _SCHEDULES))


# The tags stand in the locations of pydantic's errors; no key can be spelt so, which is how they are told apart.
Scheduled = Annotated[
    Annotated[Positive, pydantic.Tag("<number>")]
    | Annotated[MultiStep, pydantic.Tag("<multi_step>")]
    | Annotated[Geometric, pydantic.Tag("<geometric>")]
    | Annotated[UnknownSchedule, pydantic.Tag("<schedule>")],
    pydantic.Discriminator(_kind_of_schedule),
]


class Chosen(Table):
    """A table whose `name` chooses a row of the catalog; that says which further keys there are, and their defaults."""

    kind: ClassVar[str]
    common: ClassVar[frozenset[str]]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        row = catalog.TABLES[cls.kind].get(values.get("name")) if isinstance(values, dict) else None
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


class Network(Chosen):
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


class Scheme(Chosen):
    """How the network is binarized, at how many bits for weights / activations.

    `activation` stands in the place of the signs where activations have 32 bits. `t` and `k` are IR-Net's, as functions
    of the epoch over all stages; k is max(1/t, 1) where it is left out.
    """

    kind = "scheme"
    common = frozenset({"name", "bits"})

    name: Annotated[str, _known("scheme")]
    bits: str
    activation: Literal["relu", "leaky_clip", "clip"] | None = None
    gradient_scale: Positive | None = None
    t: Scheduled | None = None
    k: Scheduled | None = None

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


class Augmentation(Table):
    """What happens to each training image before normalisation.

    `pad` black pixels are added on every side and the image's own size is cut out at a random place: it moves by up to
    `pad` pixels.
    """

    pad: Count


class Data(Table):
    """Which images, and their normalisation (x / 255 − mean) / std, with one value or one per channel."""

    name: Annotated[str, _known("data set")]
    mean: list[float]
    std: list[Positive]
    augmentation: Augmentation | None = None

    @pydantic.field_validator("mean", "std")
    @classmethod
    def _per_channel(cls, values: list[float], info: pydantic.ValidationInfo) -> list[float]:
        row = catalog.DATASETS.get(info.data.get("name", ""))
        allowed = sorted({1, row.input_shape[-1]}) if row else [len(values)]
        if len(values) not in allowed:
            raise ValueError(f"expected {' or '.join(map(str, allowed))} value(s), one for each channel")
        return values


class Optimizer(Chosen):
    """An optimizer by name; hyper-parameters that are left out take the defaults of its row in the catalog.

    `weight_decay` is coupled L2 as in PyTorch: the gradient becomes g + weight_decay · w before anything else. Binary
    weights that Bop flips have none.
    """

    kind = "optimizer"
    common = frozenset({"name", "learning_rate", "weight_decay"})

    name: Annotated[str, _known("optimizer")]
    learning_rate: Scheduled
    weight_decay: NotNegative = 0.0
    beta_1: NotNegative | None = None
    beta_2: NotNegative | None = None
    epsilon: Positive | None = None
    threshold: NotNegative | None = None
    gamma: Scheduled | None = None


class Stage(Table):
    """One training stage. Durations are in epochs; the number of steps follows from data and batch size."""

    epochs: Count
    batch_size: Count
    loss: Literal["cross_entropy"] = "cross_entropy"
    optimizer: Optimizer


class Experiment(Table):
    """A whole training: a scheme × a network × a recipe, with what it reproduces.

    `name` is the file's place below the experiments, "<paper>/<network>_<dataset>". `default = true` marks the one
    experiment of a network that is taken where several match.
    """

    name: str
    default: bool = False
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 1
    paper: Paper | None = None
    source: Source | None = None
    published: Published | None = None
    network: Network
    scheme: Scheme
    data: Data
    stages: Annotated[list[Stage], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_structure(cls, values: Any) -> Any:
        """The structure that the network's paper has at these bits, where none is given."""
        network, scheme = (values.get(key) if isinstance(values, dict) else None for key in ("network", "scheme"))
        if not isinstance(network, dict) or not isinstance(scheme, dict) or "structure" in network:
            return values
        row = catalog.NETWORKS.get(network.get("name", ""))
        structure = row.structures.get(scheme.get("bits", "")) if row else None
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
        if True in kinds and self.scheme.name in ("float", "zoo"):
            raise ValueError(f"Bop has nothing to flip with scheme {self.scheme.name!r}; choose another of the two")
        return self

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of what the network takes: the data set's, or its own where images differ."""
        own = catalog.NETWORKS[self.network.name].input_shape
        height, width, channels = catalog.DATASETS[self.data.name].input_shape
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
