"""TOML text and files to experiments, with every error of a file at once. Needs no TensorFlow.

An error's location is its dotted key (`stages.0.epochs`), or line and column where the TOML itself is wrong.
"""

from __future__ import annotations

import importlib.resources
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from bnn_keras.errors import BnnError, nearest, unknown
from bnn_keras.experiment.schedule_config import SCHEDULES
from bnn_keras.experiment.schema import Experiment
from bnn_keras.experiment.tables import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Document = dict[str, Any]


class ExperimentError(BnnError):
    """An experiment with errors. `problems` holds one line for each, location first."""

    def __init__(self, name: str, problems: list[str]):
        self.problems = problems
        super().__init__(f"experiment {name}: {'; '.join(problems)}")


def _models_in(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the schema knows in the table at pydantic's `location`."""
    tables: list[type[Table]] = [Experiment]
    for part in location:
        if isinstance(part, str) and part.startswith("<"):
            tables = [table for table in tables if table is SCHEDULES.get(part[1:-1])]
        elif isinstance(part, str):
            fields = [table.model_fields[part] for table in tables if part in table.model_fields]
            tables = [model for field in fields for model in _models_in(field.annotation)]
    return [key for table in tables for key in table.model_fields]


def _without_tags(location: tuple[str | int, ...], document: Any) -> list[str | int]:
    """Pydantic's location less the names it gives to the members of a union, which are no keys of the document."""
    kept: list[str | int] = []
    for place, part in enumerate(location):
        inside = isinstance(document, dict) and part in document
        indexed = isinstance(document, list) and isinstance(part, int) and part < len(document)
        if inside or indexed:
            document = document[part]
            kept.append(part)
        elif place == len(location) - 1 and isinstance(document, dict):
            kept.append(part)
    return kept


def _problem(error: Any, document: Document) -> str:
    location = _without_tags(error["loc"], document)
    where = ".".join(map(str, location)) or "the file"
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1])
        guess = nearest(str(location[-1]), known)
        hint = f"did you mean {guess!r}? " if guess else ""
        return f"{where}: unknown key; {hint}known: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{where}: missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    if message.startswith("unknown "):
        return f"{where}: {message}"
    if error["type"] in ("model_type", "dict_type"):
        message = "expected a table"
    message = message.replace("Input should be ", "expected ")
    if isinstance(error["input"], dict) and not location:
        return message  # of the document as a whole
    return f"{where}: got {_short(error['input'])}; {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}… ({len(shown):,} characters)"


def validate(document: Document, name: str) -> Experiment:
    """The experiment that a document describes; `name` is its name where the document has none."""
    try:
        return Experiment.model_validate({"name": name, **document})
    except pydantic.ValidationError as error:
        raise ExperimentError(name, [_problem(each, document) for each in error.errors()]) from None


def _parse_toml(text: str, name: str) -> Document:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets too deep
        message = str(error)
        raise ExperimentError(name, [f"not TOML: {message[0].lower()}{message[1:]}; correct the file there"]) from None


def toml_value(text: str) -> Any:
    """One value as TOML writes it (3, 0.1, true, [1, 2]), or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def parse(text: str, name: str) -> Experiment:
    """An experiment from TOML text. `name` is its name where the text has none.

    Raises:
        ExperimentError: Not TOML (with line and column), or not an experiment (every error with its dotted key).
    """
    return validate(_parse_toml(text, name), name)


def _shipped() -> dict[str, Path]:
    folder = Path(str(importlib.resources.files("bnn_keras.experiments")))
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.toml"))}


def experiment_names() -> list[str]:
    """Names of the experiments that ship with the package."""
    return list(_shipped())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BnnError(
            f"no experiment file {str(path)!r}; give a TOML file or a name from `bnnk list experiments`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BnnError(f"cannot read {str(path)!r} as text ({error}); expected an experiment in TOML") from None


def _locate(name_or_file: str | Path) -> tuple[str, Path]:
    shipped = _shipped()
    text = str(name_or_file)
    if text in shipped:
        return text, shipped[text]
    if text.endswith(".toml") or Path(text).is_file():
        return Path(text).stem, Path(text)
    same_stem = [name for name in shipped if name.split("/")[1] == text]
    if len(same_stem) == 1:
        return same_stem[0], shipped[same_stem[0]]
    if same_stem:
        raise BnnError(f"several experiments are called {text!r}; give one of: {', '.join(same_stem)}")
    raise BnnError(unknown("experiment", text, shipped))


def load_experiment(name_or_file: str | Path) -> Experiment:
    """The experiment with this name ("<paper>/<file>", or the file alone where it is unique), or in this TOML file.

    Raises:
        BnnError: There is no such experiment, or the file cannot be read.
        ExperimentError: The file has errors; all of them are named.
    """
    name, path = _locate(name_or_file)
    return parse(_read(path), name)


def all_experiments() -> list[Experiment]:
    """Every experiment that ships with the package."""
    return [load_experiment(name) for name in _shipped()]
