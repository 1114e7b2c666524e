"""Trained models that ship with the package: a packed file NAME.safetensors and a card NAME.toml for each.

A card says what the model is, how it was trained, and what it was measured to do. `python docs/models.py RUN NAME` adds
a model; no card is written by hand. Needs no TensorFlow.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import pydantic
import tomli_w

from bnn_keras.errors import BnnError, unknown
from bnn_keras.tables import Count, Positive, Size, Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
FILE, CARD = ".safetensors", ".toml"  # suffixes
_Text = Annotated[str, pydantic.Field(min_length=1)]


class Accuracy(Table):
    """What the packed file was measured to do.

    Attributes:
        split: The split of the dataset, of which all images are classified.
        images: Their number.
        correct: The number of those whose most probable class is right.
    """

    split: _Text
    images: Count
    correct: Size

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100 * self.correct / self.images

    @pydantic.model_validator(mode="after")
    def _at_most_all(self) -> Accuracy:
        if self.correct > self.images:
            raise ValueError(f"{self.correct} correct of {self.images} images; expected at most {self.images}")
        return self


class Images(Table):
    """Where the images of the training are from.

    Attributes:
        origin: Authors and address.
        licence: Licence of the images. A model holds none of them.
    """

    origin: _Text
    licence: _Text


class Card(Table):
    """The card of a model.

    Attributes:
        name: Name of the model, and of its files.
        network: Name of its network.
        scheme: Name of its scheme.
        bits: Bits of weights / activations.
        dataset: Name of the dataset that it was trained and measured on.
        experiment: Name of the experiment that trained it. The packed file holds the whole experiment.
        command: The command that trained it.
        seed: Seed of initial weights, shuffle order and augmentation.
        epochs: Number of epochs.
        minutes: Time of the training.
        hardware: The processors that it took.
        weights: Whether the weights are those of the last epoch, or of the best one on the images of
            `Experiment.best_chosen_on`.
        versions: Versions of the packages that trained it.
        bytes: Size of the packed file.
        sha256: Digest of the packed file.
        accuracy: Its accuracy.
        images: The images of its training.
    """

    name: _Text
    network: _Text
    scheme: _Text
    bits: _Text
    dataset: _Text
    experiment: _Text
    command: _Text
    seed: Size
    epochs: Count
    minutes: Positive
    hardware: _Text
    weights: Literal["last", "best"]
    bytes: Count
    sha256: Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
    versions: dict[str, str]
    accuracy: Accuracy
    images: Images

    def to_comments(self) -> str:
        """Return the card as comments of a TOML file."""
        lines = tomli_w.dumps(self.model_dump()).splitlines()
        return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"

    @property
    def file(self) -> Path:
        """Path of the packed file."""
        return FOLDER / f"{self.name}{FILE}"


def read_card(path: Path) -> Card:
    """Read the card of a model.

    Raises:
        BnnError: The file cannot be read, or is not a valid card of its name.
    """
    try:
        card = Card.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc'])) or 'the whole file'}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if card.name != path.stem:
        raise _damaged(path, f"it is the card of {card.name!r}")
    return card


def _damaged(path: Path, reason: str) -> BnnError:
    return BnnError(f"cannot read {str(path)!r} as the card of a model ({reason}); install the package again")


@functools.cache
def cards() -> Mapping[str, Card]:
    """Return the cards of all models, by name.

    >>> all(card.file.stat().st_size == card.bytes for card in cards().values())
    True
    """
    found = (read_card(path) for path in sorted(FOLDER.glob(f"*{CARD}")))
    return MappingProxyType({card.name: card for card in found})


def locate(source: str | Path) -> Path:
    """Return the path of a source of weights: that of a model's packed file if a model has this name, else itself.

    A file or folder of the user is preferred to a model of the same name.

    >>> locate("runs/mine").as_posix()
    'runs/mine'
    """
    path = Path(source)
    return path if path.exists() or str(source) not in cards() else cards()[str(source)].file


def find(source: str | Path) -> Path:
    """Return the path of a source of weights that exists (`locate`).

    Raises:
        BnnError: There is no such path, and no model of this name.
    """
    path = locate(source)
    if not path.exists():
        raise BnnError(not_found(source))
    return path


def not_found(source: str | Path) -> str:
    """Return the error message for a source that does not exist.

    >>> print(not_found("lenet5_mnst"))  # doctest: +ELLIPSIS
    no run in 'lenet5_mnst', and no exported file; give the folder that `bnnk train` wrote, ... did you mean 'lenet5_...
    """
    known = unknown("model", str(source), cards()).partition("; ")[2]
    return (
        f"no run in {str(source)!r}, and no exported file; give the folder that `bnnk train` wrote, a file that `bnnk "
        f"export` wrote, or the name of a model of `bnnk list models`: {known}"
    )
