"""What an experiment may say: one pydantic model per TOML table. Needs no TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import pydantic
import tomli_w

from bnn_keras import catalog
from bnn_keras.errors import unknown


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


class Network(Table):
    """Which network is trained."""

    name: Annotated[str, _known("network")]


class Scheme(Table):
    """How the network is binarized, at how many bits for weights / activations."""

    name: Annotated[str, _known("scheme")]
    bits: str

    @pydantic.field_validator("bits")
    @classmethod
    def _offered(cls, bits: str, info: pydantic.ValidationInfo) -> str:
        row = catalog.SCHEMES.get(info.data.get("name", ""))
        if row and bits not in row.bits:
            raise ValueError(f"scheme {row.name!r} has bits (weights/activations) {', '.join(row.bits)}")
        return bits


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


# The tags stand in the locations of pydantic's errors; no key can be spelt so, which is how they are told apart.
Scheduled = Annotated[
    Annotated[Positive, pydantic.Tag("<number>")] | Annotated[MultiStep, pydantic.Tag("<schedule>")],
    pydantic.Discriminator(lambda value: "<schedule>" if isinstance(value, dict | MultiStep) else "<number>"),
]


class Optimizer(Table):
    """An optimizer by name; hyper-parameters that are left out take the defaults of its row in the catalog.

    `weight_decay` is coupled L2 as in PyTorch: the gradient becomes g + weight_decay · w before anything else.
    """

    name: Annotated[str, _known("optimizer")]
    learning_rate: Scheduled
    weight_decay: NotNegative = 0.0
    beta_1: NotNegative | None = None
    beta_2: NotNegative | None = None
    epsilon: Positive | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        row = catalog.OPTIMIZERS.get(values.get("name")) if isinstance(values, dict) else None
        return {**row.defaults, **values} if row else values

    def hyperparameters(self) -> dict[str, float]:
        """The values of the optimizer's own hyper-parameters, without learning rate and weight decay."""
        return {name: getattr(self, name) for name in catalog.OPTIMIZERS[self.name].defaults}


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
