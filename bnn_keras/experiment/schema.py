"""Schema of an experiment: one pydantic model per TOML table. Needs no TensorFlow."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic
import tomli_w

from bnn_keras import catalog
from bnn_keras.errors import BnnError, unknown
from bnn_keras.schedule_config import Scheduled
from bnn_keras.tables import BatchSize, Count, NotNegative, Percent, Positive, Range, Size, Table

if TYPE_CHECKING:
    import numpy as np

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


def _known(kind: str) -> pydantic.AfterValidator:
    def check(name: str) -> str:
        if name not in catalog.TABLES[kind]:
            raise ValueError(catalog.unknown_row(kind, name))
        return name

    return pydantic.AfterValidator(check)


def _lookup(table: Mapping[str, Any], name: Any) -> Any:
    """Return the entry called `name`; None if there is no such entry, or if `name` is not a string."""
    return table.get(name) if isinstance(name, str) else None


FAKE = "fake"
IMAGE_FOLDER = "image_folder"
ARRAYS = "arrays"
MAX_FAKE_EXAMPLES = 10_000_000
MAX_WHITENED = 4_096  # values of an image; the matrix has half the square of this number
MEAN_IMAGE, WHITENING_MEAN, WHITENING_MATRIX = "mean_image", "whitening_mean", "whitening_matrix"  # names of arrays


class Paper(Table):
    """The publication that an experiment reproduces."""

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
    """Published accuracy in percent, its standard deviation over `runs` trainings, and that of the float network.

    `of` says of which weights it is: those after the last epoch, or those of the epoch with the best test accuracy.
    """

    of: Literal["best", "last"] = "last"
    top1: Percent
    top1_deviation: NotNegative | None = None
    runs: Count | None = None
    top5: Percent | None = None
    float_top1: Percent | None = None
    float_top5: Percent | None = None


class SweepConfig(Table):
    """The grid that an experiment's source trains: values to try by dotted key, and trainings of each combination.

    `bnnk sweep` trains it. `bnnk train` trains the experiment itself.
    """

    vary: Annotated[dict[str, Annotated[list[Any], pydantic.Field(min_length=1)]], pydantic.Field(min_length=1)]
    seeds: Count = 1


class PluginNote(Table):
    """A plugin that an experiment needs, and the digest of its files when the experiment was made."""

    name: str
    sha256: str


class Chosen(Table):
    """A table whose `name` selects a catalog row, whose options are further keys of the table."""

    kind: ClassVar[str]

    name: str

    def __new__(cls, *_: Any, **values: Any) -> Self:
        """Create an instance of `table_of`, also if the class is called directly."""
        row = None if issubclass(cls, catalog.Options) else _lookup(catalog.TABLES[cls.kind], values.get("name"))
        return super().__new__(cls.table_of(row) if row else cls)

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _with_options(
        cls, values: Any, handler: pydantic.ModelWrapValidatorHandler[Self], info: pydantic.ValidationInfo
    ) -> Self:
        """Validate a table with the options of its row, as an instance of `table_of`."""
        if not isinstance(values, dict) or issubclass(cls, catalog.Options):
            return handler(values)
        row = _lookup(catalog.TABLES[cls.kind], values.get("name"))
        if row is None:  # the name is the only error
            return handler({key: value for key, value in values.items() if key in cls.model_fields})
        return cls.table_of(row).model_validate(values, context=info.context)

    @classmethod
    def table_of(cls, row: Any) -> type[Self]:
        """Return the model of the table for a catalog row: its own keys and the options of the row."""
        return _with_fields(cls, row.options)

    @property
    def choices(self) -> dict[str, Any]:
        """The options of the row that are set."""
        options = {name: getattr(self, name) for name in catalog.TABLES[self.kind][self.name].options.model_fields}
        return {name: value for name, value in options.items() if value is not None}


@functools.cache
def _with_fields(table: type[Table], options: type[catalog.Options]) -> Any:
    return pydantic.create_model(
        table.__name__,
        __base__=(options, table),
        __doc__=table.__doc__,
        __cls_kwargs__={"use_attribute_docstrings": False},  # the fields keep theirs
    )


class NetworkConfig(Chosen):
    """The network.

    `rotated` rotates images by 180° first, for weights that come from a PyTorch reference.
    """

    kind = "network"

    name: Annotated[str, _known("network")]
    rotated: bool = False


class SchemeConfig(Chosen):
    """The binarization scheme, and the bits of weights / activations."""

    kind = "scheme"

    name: Annotated[str, _known("scheme")]
    bits: str

    @pydantic.field_validator("bits")
    @classmethod
    def _supported(cls, bits: str, info: pydantic.ValidationInfo) -> str:
        row = catalog.SCHEMES.get(info.data.get("name", ""))
        if row and bits not in row.bits:
            raise ValueError(f"scheme {row.name!r} has bits (weights/activations) {', '.join(row.bits)}")
        return bits


_OF_TRANSFORMATIONS = ("area", "aspect", "padding")  # keys that say how, and change no image themselves


class AugmentationConfig(Table):
    """Transformations of training images before normalization, applied in this order.

    `crop = "random"` cuts the network's size at a random position out of the image resized to `data.resize`.
    `crop = "random_area"` cuts a random part with a share `area` of the pixels and width / height in `aspect`, and
    resizes it to the network's size. `crop = "distorted_box"` does the same with the boxes of TensorFlow's
    `sample_distorted_bounding_box`, which are smaller on average. Without `crop`, the center is cut out if image sizes
    differ.

    `pad` adds pixels on every side and cuts the image's own size out at a random position: a shift by up to `pad`
    pixels. `flip` mirrors images with probability 1/2. `brightness`, `contrast`, `saturation` and `hue` jitter colors,
    in random order. `lighting` is the standard deviation of color noise along the principal components of ImageNet's
    colors.
    """

    crop: Literal["random", "random_area", "distorted_box"] | None = None
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

    @property
    def used(self) -> list[str]:
        """Names of the transformations that change images."""
        return [key for key in type(self).model_fields if key not in _OF_TRANSFORMATIONS and getattr(self, key)]

    @pydantic.field_validator("area", "aspect")
    @classmethod
    def _ordered(cls, values: list[float]) -> list[float]:
        if values[0] > values[1]:
            raise ValueError("expected the smaller value first")
        return values


def _absolute(path: str, info: pydantic.ValidationInfo) -> str:
    """Return the absolute path, if the context of the validation has the folder that it is relative to."""
    folder = (info.context or {}).get("folder")
    return path if folder is None else str((folder / Path(path).expanduser()).absolute())


def _held_out(value: Any) -> Any:
    """Return a fraction, a number of images or the name of a split; None for 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or (number and value == 0):
        return None
    if isinstance(value, str) and value:
        return value
    if number and (0 < value < 1 or (value >= 1 and float(value).is_integer())):
        return value if value < 1 else int(value)
    raise ValueError("expected a fraction between 0 and 1, a number of images, the name of a split, or 0 for none")


class DataConfig(Table):
    """The dataset, and the normalization (x / 255 − mean) / std, with one value or one per channel.

    `mean_image` is a `.npy` file of (height, width, channels) or a `.binaryproto` of Caffe. It is subtracted from
    pixels 0…255 before the rest of the normalization: as a whole if it has the network's size, or else, where the crop
    of the resized image is. A run keeps a copy. In a file, a relative path is relative to the folder of the file.

    `whiten = "gcn_zca"` normalizes the contrast of each image and multiplies it by a ZCA matrix, which is fitted to the
    training images at the start of a training and kept in the run. Images have one size and at most 4,096 values. They
    are whitened whole, without `augmentation`, and not normalized again: `mean = [0.0]`, `std = [0.00392156862745098]`.

    With `channels = "bgr"`, the network receives blue, green and red, and `mean` and `std` have this order.

    `shape` (height, width, channels; 0 if sizes differ) and `classes` describe a dataset outside of the catalog;
    --dataset sets them. The name "fake" generates images with the shape and classes of the dataset `like`: `examples`
    images, by default two batches.

    `validation` holds out images to choose the best epoch on: a fraction of the training images, or their number, or
    the name of a split. The test images are then measured once, after the training. Without it (or with 0), the best
    epoch is chosen on the test images, as in most papers, so that its accuracy is higher than on new images.

    If image sizes differ, the shorter side is resized to `resize` pixels (by default 256/224 of the network's size), or
    both sides with `keep_aspect = false`, and the center is cut out. With `crop_first`, the same share of the original
    image is cut out in tests, and then resized. `interpolation = "tf1_bicubic"` is the bicubic resize of TensorFlow 1:
    without antialiasing and half-pixel centers; its values are neither clipped nor rounded.

    `test_examples` is the number of test images that are scored, the first ones; by default all. It is for references
    that drop a smaller last batch in tests.

    With `shuffle = false`, every epoch reads the training images in the same order, that of the dataset.

    `max_damaged`, of "image_folder", is the largest number of damaged images to leave out of each split.
    """

    like: str | None = None
    shape: Annotated[list[Size], pydantic.Field(min_length=3, max_length=3)] | None = None
    classes: Count | None = None
    name: str
    examples: Annotated[int, pydantic.Field(ge=1, le=MAX_FAKE_EXAMPLES)] | None = None
    validation: Annotated[float | int | str | None, pydantic.BeforeValidator(_held_out)] = None
    max_damaged: Count | None = None
    test_examples: Count | None = None
    mean: list[float]
    std: list[Positive]
    mean_image: str | None = None
    resize: Count | None = None
    keep_aspect: bool = True
    crop_first: bool = False
    interpolation: Literal["bilinear", "bicubic", "tf1_bicubic"] = "bilinear"
    channels: Literal["rgb", "bgr"] = "rgb"
    shuffle: bool = True
    augmentation: AugmentationConfig | None = None
    whiten: Literal["gcn_zca"] | None = None  # last, because its rule is about the others

    @pydantic.field_validator("name")
    @classmethod
    def _has_description(cls, name: str, info: pydantic.ValidationInfo) -> str:
        like = info.data.get("like")
        if (like is None) == (name == FAKE):
            raise ValueError(
                "the name 'fake' needs the key like, the dataset whose shape and classes it takes; other names have no "
                "such key"
            )
        source = like or name
        if source not in catalog.DATASETS and not (info.data.get("shape") and info.data.get("classes")):
            raise ValueError(
                f"{unknown('dataset', source, catalog.DATASETS)}; other TFDS datasets need shape and classes, "
                "which --dataset sets"
            )
        return name

    @pydantic.field_validator("max_damaged")
    @classmethod
    def _of_image_folder(cls, max_damaged: int | None, info: pydantic.ValidationInfo) -> int | None:
        if max_damaged and info.data.get("name") != IMAGE_FOLDER:
            raise ValueError(f"only dataset {IMAGE_FOLDER!r} has this key; leave it out")
        return max_damaged

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

    @pydantic.field_validator("mean_image")
    @classmethod
    def _relative_to_file(cls, path: str | None, info: pydantic.ValidationInfo) -> str | None:
        return path and _absolute(path, info)

    @pydantic.field_validator("whiten")
    @classmethod
    def _goes_together(cls, whiten: str | None, info: pydantic.ValidationInfo) -> str | None:
        """Refuse what does not go together with whitening."""
        mean, std, augmentation = (info.data.get(key) for key in ("mean", "std", "augmentation"))
        if whiten is None or mean is None or std is None:
            return whiten
        if info.data.get("mean_image"):
            raise ValueError("whitened images have no mean image: leave mean_image or whiten out")
        if augmentation and augmentation.used:
            raise ValueError(
                f"images are whitened whole and not augmented, got {', '.join(augmentation.used)} in augmentation: "
                "leave them or whiten out, or augment the prepared arrays of `bnnk datasets whiten`"
            )
        if set(mean) != {0.0} or any(abs(255 * value - 1) > 1e-6 for value in std):
            raise ValueError(
                f"whitened images are not normalized again, got mean {mean} and std {std}: set mean = [0.0] and "
                "std = [0.00392156862745098]"
            )
        return whiten

    @pydantic.model_validator(mode="after")
    def _of_one_size(self) -> Self:
        if self.whiten and not 0 < math.prod(length or 0 for length in self.row.input_shape) <= MAX_WHITENED:
            raise ValueError(
                f"images of dataset {self.source!r} are too large to be whitened, or differ in size; expected images "
                f"of one size with at most {MAX_WHITENED:,} values, such as cifar10: leave whiten out"
            )
        return self

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays that the preprocessing needs (`Experiment.arrays`)."""
        if self.whiten:
            return (WHITENING_MEAN, WHITENING_MATRIX)
        return (MEAN_IMAGE,) if self.mean_image else ()

    @property
    def source(self) -> str:
        """The dataset that defines shape and classes."""
        return self.like or self.name

    @property
    def row(self) -> catalog.DatasetRow:
        """The catalog row of the dataset, or a row with its shape and classes if it is not in the catalog."""
        if self.shape is None or self.classes is None:
            return catalog.DATASETS[self.source]
        height, width, channels = self.shape
        return catalog.DatasetRow.other(self.source, (height or None, width or None, channels), self.classes)


def _decayed(value: Any) -> Any:
    """Return a choice of weights, "everything" or "kernels", or a list of patterns of names."""
    if value in ("everything", "kernels") or (
        isinstance(value, list) and value and all(isinstance(pattern, str) for pattern in value)
    ):
        return value
    raise ValueError("expected 'everything', 'kernels', or a list of patterns of names such as '*/kernel:0'")


def _train_everything(value: Any) -> Any:
    """Accept the only value of the obsolete key `trains` that older runs have."""
    if value != "everything":
        raise ValueError(
            "this key is obsolete; to freeze weights, give them the learning rate 0, such as "
            'learning_rate_factors = { "*/kernel:0" = 0.0 } in the stage\'s table optimizer'
        )
    return value


class OptimizerConfig(Chosen):
    """An optimizer.

    `weight_decay` is coupled L2 as in PyTorch: the gradient becomes g + weight_decay · w before any other step; for
    "adamw" it is decoupled: w ← w − learning_rate · weight_decay · w. It applies to `weight_decay_of`: "everything",
    "kernels" (weights with two or more axes), or a list of patterns of names, such as ["*/kernel:0"]; but never to the
    binary weights that Bop flips.

    `learning_rate_factors` multiplies the learning rate of weights: patterns of names and their factors, such as
    { "fc/bias:0" = 2.0 }. The first pattern that matches a name counts. The factor 0 freezes weights. Bop's flips have
    no learning rate.
    """

    kind = "optimizer"

    name: Annotated[str, _known("optimizer")]
    learning_rate: Scheduled
    weight_decay: NotNegative = 0.0
    weight_decay_of: Annotated[str | list[str], pydantic.BeforeValidator(_decayed)] = "everything"
    learning_rate_factors: Annotated[
        dict[str, NotNegative] | None, pydantic.AfterValidator(lambda factors: factors or None)
    ] = None


class DistillationConfig(Table):
    """A teacher whose logits a stage learns from.

    Loss: (1 − weight) · loss + weight · temperature² · KL(softmax(teacher / temperature) ‖ softmax(logits /
    temperature)). `teacher` is a run directory, or a Larq Zoo network with its ImageNet weights. In a file, a relative
    path is relative to the folder of the file.
    """

    teacher: str
    temperature: Positive = 1.0
    weight: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0

    @pydantic.field_validator("teacher")
    @classmethod
    def _relative_to_file(cls, teacher: str, info: pydantic.ValidationInfo) -> str:
        return teacher if teacher.startswith("zoo/") else _absolute(teacher, info)


class Stage(Table):
    """One training stage. Durations are in epochs; the number of steps follows from dataset and batch size.

    A stage starts from the weights of the previous stage. Its `scheme` may differ from the experiment's. `drop_last`
    drops an epoch's last batch if it is smaller than the others. The loss is cross-entropy. Older files have the keys
    `loss = "cross_entropy"` and `trains = "everything"`, which are ignored.
    """

    epochs: Count
    batch_size: BatchSize
    drop_last: bool = False
    trains: Annotated[str, pydantic.BeforeValidator(_train_everything), pydantic.Field(exclude=True, repr=False)] = (
        "everything"
    )
    loss: Annotated[Literal["cross_entropy"], pydantic.Field(exclude=True, repr=False)] = "cross_entropy"
    label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    scheme: pydantic.SerializeAsAny[SchemeConfig] | None = None
    distillation: DistillationConfig | None = None
    optimizer: pydantic.SerializeAsAny[OptimizerConfig]


_TRAIN_ANEW = "train again, with data.whiten"
# How to get an array of the expected shape, by its name.
_WITH_SHAPE = {
    MEAN_IMAGE: "make one with `bnnk datasets mean`, or set data.resize and data.keep_aspect=false",
    WHITENING_MEAN: _TRAIN_ANEW,
    WHITENING_MATRIX: _TRAIN_ANEW,
}


class Experiment(Table):
    """A complete training: a scheme × a network × a recipe, and what it reproduces.

    `name` is the file's path below the experiments, "<paper>/<network>_<dataset>". `default = true` marks the
    experiment of a network that is taken if several match. An experiment with `by_name = true` is only found by its
    name. `cost` describes the training time. `plugins` notes the plugins whose rows the experiment uses.

    Examples:
        >>> from bnn_keras import load_experiment
        >>> experiment = load_experiment("xnor_net/lenet5_mnist")
        >>> experiment.scheme.name, experiment.scheme.bits, experiment.epochs
        ('xnor', '1/1', 60)
    """

    name: str
    default: bool = False
    by_name: bool = False
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 1
    paper: Paper | None = None
    source: SourceCode | None = None
    published: Published | None = None
    cost: str | None = None
    sweep: SweepConfig | None = None
    plugins: list[PluginNote] | None = None
    network: pydantic.SerializeAsAny[NetworkConfig]
    scheme: pydantic.SerializeAsAny[SchemeConfig]
    data: DataConfig
    stages: Annotated[list[Stage], pydantic.Field(min_length=1)]

    _load_arrays: Callable[[], Mapping[str, np.ndarray]] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_structure(cls, values: Any) -> Any:
        """Fill in the structure that the network's row has for these bits."""
        network, scheme = (values.get(key) if isinstance(values, dict) else None for key in ("network", "scheme"))
        if not isinstance(network, dict) or not isinstance(scheme, dict) or "structure" in network:
            return values
        row = _lookup(catalog.NETWORKS, network.get("name"))
        structure = _lookup(row.structures, scheme.get("bits")) if row else None
        return {**values, "network": {**network, "structure": structure}} if structure else values

    @pydantic.model_validator(mode="after")
    def _compatible(self) -> Self:
        network = catalog.NETWORKS[self.network.name]
        for scheme in (self.scheme, *map(self.scheme_of, self.stages)):
            if catalog.SCHEMES[scheme.name].layers == network.own_layers:
                reason = (
                    f"the network brings its own binary layers; choose scheme {network.scheme!r}"
                    if network.own_layers
                    else "the scheme is for networks with binary layers of their own; choose another scheme"
                )
                raise ValueError(f"network {network.name!r} and scheme {scheme.name!r} do not go together: {reason}")
        kinds = {catalog.OPTIMIZERS[stage.optimizer.name].latent_free for stage in self.stages}
        if len(kinds) > 1:
            raise ValueError("stages with Bop and stages with latent weights do not go together; use one of the two")
        unflippable = [
            f"scheme {scheme.name!r} at {scheme.bits} bits"
            for scheme in map(self.scheme_of, self.stages)
            if scheme.bits.startswith("32/") or not catalog.SCHEMES[scheme.name].layers
        ]
        if True in kinds and unflippable:
            raise ValueError(f"Bop has nothing to flip with {unflippable[0]}; choose another optimizer or scheme")
        return self

    def with_arrays(self, load: Callable[[], Mapping[str, np.ndarray]]) -> Experiment:
        """Return the experiment with a function that returns the arrays of its preprocessing.

        It is called when they are needed first.
        """
        experiment = self.model_copy()
        experiment._load_arrays = functools.cache(load)
        return experiment

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays of the preprocessing, float32, by name.

        `mean_image` (height, width, channels) is that of `data.mean_image`. `whitening_mean` (values,) and
        `whitening_matrix` (values · (values + 1) / 2,), the upper triangle of a symmetric matrix, are those of
        `data.whiten`.

        Raises:
            BnnError: They are not loaded, cannot be read, or have other shapes.
        """
        if not self.data.arrays:
            return {}
        if self._load_arrays is None:
            raise BnnError(
                f"{', '.join(self.data.arrays)} of the preprocessing are not loaded; get the experiment from a run, or "
                "make them with bnn_keras.data.make_arrays"
            )
        arrays = self._load_arrays()
        for name in self.data.arrays:
            shape, expected = getattr(arrays.get(name), "shape", None), self.shapes_of(name)
            if shape not in expected:
                raise BnnError(
                    f"{name} of the preprocessing has shape {shape}; expected {' or '.join(map(str, expected))}: "
                    f"{_WITH_SHAPE[name]}"
                )
        return arrays

    def shapes_of(self, name: str) -> list[tuple[int, ...]]:
        """Return the shapes that an array of the preprocessing may have."""
        values = math.prod(self.input_shape)
        if name == WHITENING_MEAN:
            return [(values,)]
        if name == WHITENING_MATRIX:
            return [(values * (values + 1) // 2,)]
        resized = self.data.resize
        if resized and not self.data.keep_aspect and self.data.row.input_shape[0] is None:
            return [self.input_shape, (resized, resized, self.input_shape[-1])]
        return [self.input_shape]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and self.to_document() == other.to_document()

    def scheme_of(self, stage: Stage) -> SchemeConfig:
        """Return the scheme that a stage trains with."""
        return stage.scheme or self.scheme

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of the network's input: the dataset's, or the network's own if image sizes differ."""
        network = catalog.NETWORKS[self.network.name].input_shape
        height, width, channels = self.data.row.input_shape
        return (height or network[0], width or network[1], channels)

    @property
    def latent_free(self) -> bool:
        """Whether the optimizer keeps binary kernels at ±1, without latent weights."""
        return catalog.OPTIMIZERS[self.optimizer].latent_free

    @property
    def optimizer(self) -> str:
        """The name of the first stage's optimizer."""
        return self.stages[0].optimizer.name

    @property
    def chosen(self) -> dict[str, str]:
        """The options that `resolve` chooses between, and their values."""
        names = {"network": self.network.name, "dataset": self.data.name, "scheme": self.scheme.name}
        return {**names, "bits": self.scheme.bits, "optimizer": self.optimizer}

    @property
    def best_chosen_on(self) -> str:
        """The images that the best epoch is chosen on: "test", or "validation" if some are held out."""
        return "test" if self.data.validation is None else "validation"

    @property
    def reconstructed(self) -> bool:
        """Whether the source does not give the whole recipe, or not for this dataset."""
        return bool(self.source and self.source.reconstructed)

    @property
    def epochs(self) -> int:
        """Total number of epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def to_document(self) -> dict[str, Any]:
        """Return the experiment as plain values, with all defaults filled in."""
        return self.model_dump(exclude_none=True)

    def to_toml(self, named: bool = True) -> str:
        """Return the experiment as TOML, with or without its name. `parse` reads it back as an equal experiment."""
        return tomli_w.dumps({key: value for key, value in self.to_document().items() if named or key != "name"})

    def flat(self, include: set[str] | None = None) -> dict[str, Any]:
        """Return all values by dotted key, of the tables in `include` or of all tables."""
        return _flat(self.model_dump(include=include, exclude_none=True))

    def differences(self, other: Experiment) -> list[str]:
        """Return the values that make two experiments train differently, as "key: this value / that value"."""
        mine, theirs = self.flat(_TRAINED), other.flat(_TRAINED)
        return [
            f"{key}: {mine.get(key, 'absent')} / {theirs.get(key, 'absent')}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key)
        ]


_TRAINED = {"seed", "network", "scheme", "data", "stages"}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested tables and arrays of tables as {dotted key: value}."""
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
