"""What a sweep trains: an experiment, and the values to try. Needs neither TensorFlow nor Optuna."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnn_keras import files
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, with_absolute_paths, with_values
from bnn_keras.experiment.files import toml_value, validate

FILE = "sweep.json"
SEED = "seed"
_FOLDER = Path("sweeps")


@dataclasses.dataclass(frozen=True)
class Interval:
    """Values from `low` to `high`, both included; integers if both are integers.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether to draw the logarithm of the value uniformly, and not the value.
    """

    low: float
    high: float
    log: bool = False

    @property
    def integers(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep. `define` makes and verifies it.

    Attributes:
        experiment: The experiment whose values are varied.
        vary: Lists of values, by dotted key.
        search: Ranges of values, by dotted key.
        points: Number of points to try; that of all combinations if there is nothing to search.
        seeds: Trainings of each point, with consecutive seeds.
        prune: Whether to stop trainings that are below the median of the others.
    """

    experiment: Experiment
    vary: Mapping[str, Sequence[Any]]
    search: Mapping[str, Interval]
    points: int
    seeds: int = 1
    prune: bool = False

    @property
    def keys(self) -> list[str]:
        """The keys that vary, without the seed."""
        return [*self.vary, *self.search]

    @property
    def trials(self) -> int:
        """Number of trainings."""
        return self.points * self.seeds

    def combinations(self) -> list[dict[str, Any]]:
        """Return all combinations of the listed values; the last key changes fastest.

        >>> from bnn_keras import resolve
        >>> define(resolve("lenet5").experiment, {"seed": [1, 2], "stages.0.epochs": [3]}).combinations()
        [{'seed': 1, 'stages.0.epochs': 3}, {'seed': 2, 'stages.0.epochs': 3}]
        """
        return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]

    def at(self, values: Mapping[str, Any], offset: int = 0) -> Experiment:
        """Return the experiment with the values of a point, and its seed increased by `offset`.

        Raises:
            BnnError: A key is unknown, or a value is invalid.
        """
        experiment = with_values(self.experiment, values)
        return experiment.model_copy(update={"seed": experiment.seed + offset})

    def to_document(self) -> dict[str, Any]:
        """Return the sweep as plain values."""
        return {
            "vary": {key: list(values) for key, values in self.vary.items()},
            "search": {key: dataclasses.asdict(interval) for key, interval in self.search.items()},
            "points": self.points,
            "seeds": self.seeds,
            "prune": self.prune,
            "experiment": self.experiment.to_document(),
        }

    def differences(self, other: Sweep) -> list[str]:
        """Return what makes two sweeps train differently, as "key: this value / that value"."""
        mine, theirs = self.to_document(), other.to_document()
        own = [
            f"{key}: {mine[key]} / {theirs[key]}"
            for key in mine
            if key != "experiment" and json.dumps(mine[key]) != json.dumps(theirs[key])  # the order of keys counts
        ]
        return [*own, *self.experiment.differences(other.experiment)]


def define(
    experiment: Experiment,
    vary: Mapping[str, Sequence[Any]] | None = None,
    search: Mapping[str, Interval] | None = None,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    prune: bool = False,
) -> Sweep:
    """Return a sweep whose trainings are all valid experiments.

    Args:
        experiment: The experiment whose values are varied.
        vary: Lists of values by dotted key. If neither `vary` nor `search` is given, the grid of the experiment's own
            table `sweep`.
        search: Ranges of values by dotted key.
        trials: Number of points to try, if there is something to search.
        seeds: Trainings of each point, with consecutive seeds; those of the table `sweep`, or one, if None.
        prune: Stop trainings that are below the median of the others.

    Raises:
        BnnError: Nothing varies, a key is unknown or stands in both, a value is repeated or invalid in the experiment,
            or `trials` is missing or has nothing to search.

    >>> from bnn_keras import resolve
    >>> define(resolve("lenet5").experiment, {"stages.0.batch_size": [64, 128]}, seeds=3).trials
    6
    """
    vary, search = dict(vary or {}), dict(search or {})
    if not vary and not search:
        if experiment.sweep is None:
            raise BnnError(
                f"nothing to vary: experiment {experiment.name} has no table [sweep]; give --vary KEY=a,b or "
                "--search KEY=LOW..HIGH"
            )
        vary, seeds = dict(experiment.sweep.vary), seeds or experiment.sweep.seeds
    _verify(vary, search, trials, seeds or 1)
    base = with_absolute_paths(experiment.model_copy(update={"sweep": None}))
    sweep = Sweep(base, vary, search, 0, seeds or 1, prune)
    for values in sweep.combinations():
        for end in ("low", "high") if search else ("low",):
            sweep.at({**values, **{key: getattr(interval, end) for key, interval in search.items()}})
    return dataclasses.replace(sweep, points=trials or len(sweep.combinations()))


def _verify(vary: Mapping[str, Sequence[Any]], search: Mapping[str, Interval], trials: int | None, seeds: int) -> None:
    both = sorted(vary.keys() & search.keys())
    if both:
        raise BnnError(f"{both[0]!r} has a list and a range; give it in one of --vary and --search")
    if seeds > 1 and (SEED in vary or SEED in search):
        raise BnnError(f"the seed varies by key and by {seeds} seeds; give one of --vary seed=… and --seeds {seeds}")
    if search and trials is None:
        raise BnnError(f"ranges have no number of points ({', '.join(search)}); give --trials N")
    if trials is not None and not search:
        raise BnnError(f"{trials} trials, but no range to search: lists are tried completely; leave out --trials")
    for key, values in vary.items():
        texts = [json.dumps(value, default=str) for value in values]
        repeated = [text for text in texts if texts.count(text) > 1]
        if repeated:
            raise BnnError(f"{key!r} has the value {repeated[0]} {texts.count(repeated[0])} times; give it once")


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return the lists of "KEY=a,b,c" texts. Values are those of TOML, or text.

    Raises:
        BnnError: A text has no "=", no value, or a key is given twice.

    >>> parse_vary(["stages.0.optimizer.gamma=1e-3,1e-4", "scheme.bits=1/1,1/32", "data.mean=[0.5],[0.3]"])
    {'stages.0.optimizer.gamma': [0.001, 0.0001], 'scheme.bits': ['1/1', '1/32'], 'data.mean': [[0.5], [0.3]]}
    """
    lists: dict[str, list[Any]] = {}
    for key, text in _pairs(texts, "a,b,c"):
        array = toml_value(f"[{text}]")  # also if values have commas of their own
        values = array if isinstance(array, list) else [toml_value(part) for part in text.split(",")]
        if not values or "" in values:
            raise BnnError(f"cannot read the values of {key!r}: got {text!r}; expected KEY=a,b,c")
        lists[key] = values
    return lists


def parse_search(texts: Iterable[str]) -> dict[str, Interval]:
    """Return the ranges of "KEY=LOW..HIGH" and "KEY=log:LOW..HIGH" texts.

    Raises:
        BnnError: A text is no range, its ends are not in order, the lower end of a logarithm is not positive, or a key
            is given twice.

    >>> parse_search(["stages.0.optimizer.learning_rate=log:1e-4..1e-1", "stages.0.epochs=5..10"])["stages.0.epochs"]
    Interval(low=5, high=10, log=False)
    """
    return {key: _interval(key, text) for key, text in _pairs(texts, "log:1e-5..1e-1")}


def _interval(key: str, text: str) -> Interval:
    log = text.startswith("log:")
    ends = [toml_value(end) for end in text.removeprefix("log:").split("..")]
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not numbers or not ends[0] < ends[1] or (log and ends[0] <= 0):
        order = "0 < LOW < HIGH" if log else "LOW < HIGH"
        raise BnnError(f"cannot read the range of {key!r}: got {text!r}; expected [log:]LOW..HIGH with {order}")
    low, high = ends
    return Interval(low, high, log)


def _pairs(texts: Iterable[str], example: str) -> Iterable[tuple[str, str]]:
    keys = set()
    for pair in texts:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not key or not text:
            raise BnnError(f"cannot read {pair!r}; expected KEY={example}")
        if key in keys:
            raise BnnError(f"{key!r} is given twice; give all of its values at once")
        keys.add(key)
        yield key, text


def directory_of(name: str) -> Path:
    """Return the folder of a sweep: sweeps/NAME.

    Raises:
        BnnError: The name is empty or is a path.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise BnnError(f"got the name {name!r}; expected a name without slashes, such as 'thresholds'")
    return _FOLDER / name


def read(directory: str | Path) -> Sweep:
    """Return the sweep in a folder.

    Raises:
        BnnError: The folder holds no sweep, or its file cannot be read.
    """
    path = Path(directory) / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Sweep(
            experiment=validate(document.pop("experiment"), str(path)),
            search={key: Interval(**interval) for key, interval in document.pop("search").items()},
            **document,
        )
    except FileNotFoundError:
        known = sorted(str(folder.parent.name) for folder in _FOLDER.glob(f"*/{FILE}"))
        listed = f"known: {', '.join(known)}" if known else "`bnnk sweep NETWORK --name NAME` starts one"
        raise BnnError(f"no sweep in {str(directory)!r}; {listed}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BnnError(f"cannot read {str(path)!r} ({error}); restore it from a backup") from error


def write(sweep: Sweep, directory: Path) -> None:
    """Write a sweep to its folder, or verify that the folder holds the same one.

    Raises:
        BnnError: The folder holds another sweep, or cannot be written.
    """
    if not (directory / FILE).exists():
        files.write_json(directory / FILE, sweep.to_document())
        return
    differences = sweep.differences(read(directory))
    if differences:
        raise BnnError(
            f"{str(directory)!r} holds another sweep (requested / existing): {'; '.join(differences)}; give the same "
            "options to continue it, or another --name"
        )
