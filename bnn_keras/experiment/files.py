"""Load experiments from TOML text and files, and report all errors of a file at once. Needs no TensorFlow.

An error's location is its dotted key (`stages.0.epochs`), or line and column if the text is not TOML.
"""

from __future__ import annotations

import functools
import importlib.resources
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from bnn_keras import catalog, plugins
from bnn_keras.errors import BnnError, nearest, unknown
from bnn_keras.experiment.schema import Chosen, Experiment, PluginNote
from bnn_keras.plugins import MissingPluginError
from bnn_keras.schedule_config import SCHEDULES
from bnn_keras.tables import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Document = dict[str, Any]

_BYTE_ORDER_MARK = "\ufeff"  # at the beginning of UTF-8 files of some Windows editors
_PYTHON_VALUES = {"True": True, "False": False}


class ExperimentError(BnnError):
    """An invalid experiment. `problems` holds one line per error, which starts with its location."""

    def __init__(self, name: str, problems: list[str]):
        self.problems = problems
        super().__init__(f"experiment {name}: {'; '.join(problems)}")


def _models_in(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)


def _tables_at(location: tuple[str | int, ...], document: Any) -> tuple[list[type[Table]], Any]:
    """Return the tables that the schema allows at pydantic's `location` of a document, and the document's table."""
    tables: list[type[Table]] = [Experiment]
    for part in location:
        if isinstance(part, str) and part.startswith("<"):
            tables = [table for table in tables if table is SCHEDULES.get(part[1:-1])]
            continue
        document = document[part]
        if isinstance(part, str):
            fields = [table.model_fields[part] for table in tables if part in table.model_fields]
            tables = [_with_options(model, document) for field in fields for model in _models_in(field.annotation)]
    return tables, document


def _with_options(table: type[Table], document: Any) -> type[Table]:
    """Return a table with the options of the catalog row that its document names, if the table has such a row."""
    rows = catalog.TABLES[table.kind] if issubclass(table, Chosen) else {}
    name = document.get("name") if isinstance(document, dict) else None
    return table.table_of(rows[name]) if issubclass(table, Chosen) and name in rows else table


def _without_tags(location: tuple[str | int, ...], document: Any) -> list[str | int]:
    """Return pydantic's location without the tags of union members, which are not keys of the document."""
    kept: list[str | int] = []
    for depth, part in enumerate(location):
        inside = isinstance(document, dict) and part in document
        indexed = isinstance(document, list) and isinstance(part, int) and part < len(document)
        if inside or indexed:
            document = document[part]
            kept.append(part)
        elif depth == len(location) - 1 and isinstance(document, dict):
            kept.append(part)
    return kept


def _problem(error: Any, document: Document) -> str:
    location = _without_tags(error["loc"], document)
    where = ".".join(map(str, location)) or "the file"
    if error["type"] == "extra_forbidden":
        tables, values = _tables_at(error["loc"][:-1], document)
        known = [key for table in tables for key, field in table.model_fields.items() if not field.exclude]
        guess = nearest(str(location[-1]), known)
        hint = f"did you mean {guess!r}? " if guess else ""
        owner = next((f" of {table.kind} {values['name']!r}" for table in tables if issubclass(table, Chosen)), "")
        return f"{where}: unknown key{owner}; {hint}known: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{where}: missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    if message.startswith("unknown "):
        return f"{where}: {message}"
    if error["type"] in ("model_type", "dict_type"):
        message = "expected a table"
    message = message.replace("Input should be ", "expected ")
    if error["loc"] and error["loc"][-1] == "<number>":
        message += " or the table of a schedule"
    if isinstance(error["input"], dict) and not location:
        return message  # an error of the whole document
    return f"{where}: got {_short(error['input'])}; {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}… ({len(shown):,} characters)"


def validate(document: Document, name: str, folder: Path | None = None) -> Experiment:
    """Return the experiment of a document. `name` is its name unless the document has one.

    Relative paths are made absolute if `folder` is given, which they are relative to.
    """
    for note in _notes(document):
        try:
            plugins.require_plugin(note["name"], note["sha256"])
        except MissingPluginError as error:
            raise MissingPluginError(f"experiment {name} {error}") from None
    try:
        experiment = Experiment.model_validate({"name": name, **document}, context={"folder": folder})
    except pydantic.ValidationError as error:
        raise ExperimentError(name, [_problem(details, document) for details in error.errors()]) from None
    return experiment.model_copy(update={"plugins": _needed(experiment) or None})


def _notes(document: Document) -> list[dict[str, str]]:
    """Return the plugins that a document notes, as far as they are well-formed; the schema reports others."""
    notes = document.get("plugins")
    keys = PluginNote.model_fields
    return [
        note
        for note in (notes if isinstance(notes, list) else [])
        if isinstance(note, dict) and all(isinstance(note.get(key), str) for key in keys)
    ]


def _needed(experiment: Experiment) -> list[PluginNote]:
    """Return the plugins whose rows an experiment uses, with the digests that it notes already."""
    noted = {note.name: note for note in experiment.plugins or ()}
    rows = [
        ("network", experiment.network.name),
        ("dataset", experiment.data.source),
        ("scheme", experiment.scheme.name),
    ]
    for stage in experiment.stages:
        rows += [("scheme", experiment.scheme_of(stage).name), ("optimizer", stage.optimizer.name)]
    found = {plugin.name: plugin for kind, name in rows if (plugin := plugins.plugin_of(kind, name))}
    return [noted.get(name) or PluginNote(name=name, sha256=plugin.sha256) for name, plugin in found.items()]


def _parse_toml(text: str, name: str) -> Document:
    try:
        return tomllib.loads(text.removeprefix(_BYTE_ORDER_MARK))
    except (ValueError, RecursionError) as error:  # a number has too many digits, or brackets are nested too deep
        message = str(error)
        raise ExperimentError(
            name, [f"not TOML: {message[0].lower()}{message[1:]}; correct the file at this position"]
        ) from None


def toml_value(text: str) -> Any:
    """Parse a TOML value (3, 0.1, true, [1, 2]), True or False; return the text itself if it is not one."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return _PYTHON_VALUES.get(text.strip(), text.strip())


def parse(text: str, name: str, folder: Path | None = None) -> Experiment:
    """Return the experiment in a TOML text. `name` is its name unless the text has one.

    Relative paths are made absolute if `folder` is given, which they are relative to.

    Raises:
        ExperimentError: The text is not TOML (the message has line and column), or it is not a valid experiment (the
            message has all errors with their dotted keys).

    Examples:
        >>> from bnn_keras.experiment import load_experiment, parse
        >>> experiment = load_experiment("xnor_net/lenet5_mnist")
        >>> parse(experiment.to_toml(), "copy") == experiment
        True
    """
    return validate(_parse_toml(text, name), name, folder)


@functools.cache
def _shipped() -> dict[str, Path]:
    folder = Path(str(importlib.resources.files("bnn_keras.experiments")))
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.toml"))}


def experiment_names() -> list[str]:
    """Return the names of the experiments that ship with the package."""
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


@functools.cache
def _load_shipped(name: str) -> Experiment:
    return parse(_read(_shipped()[name]), name)


def check_experiment(value: object) -> None:
    """Verify that a value is an `Experiment`.

    Raises:
        BnnError: The value is something else, such as the name of an experiment or the result of `resolve`.

    Examples:
        >>> import bnn_keras
        >>> from bnn_keras.experiment import check_experiment
        >>> try:
        ...     check_experiment("lenet5")
        ... except bnn_keras.BnnError as error:
        ...     print(error)
        got 'lenet5' (str); expected an Experiment, such as bnn_keras.resolve('lenet5').experiment
    """
    if isinstance(value, Experiment):
        return
    example = repr(value) if isinstance(value, str) else "'lenet5'"
    raise BnnError(
        f"got {_short(value)} ({type(value).__name__}); expected an Experiment, such as "
        f"bnn_keras.resolve({example}).experiment"
    )


def load_experiment(name_or_file: str | Path) -> Experiment:
    """Load an experiment that ships with the package, or from a TOML file.

    A relative path of a teacher is relative to the folder of the file, or to the current folder in an experiment that
    ships with the package.

    Args:
        name_or_file: "<paper>/<file>", "<file>" if only one paper has it, or the path of a TOML file.

    Raises:
        BnnError: There is no experiment of this name, or the file cannot be read.
        ExperimentError: The file has errors; the message contains all of them.

    Examples:
        >>> from bnn_keras import load_experiment
        >>> load_experiment("lenet5_mnist").published.top1
        99.23
    """
    name, path = _locate(name_or_file)
    if path == _shipped().get(name):
        return _load_shipped(name)
    return validate(_parse_toml(_read(path), name), name, path.parent)


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Return an experiment whose relative paths, which are relative to the current folder, are absolute.

    A run keeps its experiment in this form, because paths in a file are relative to the file.

    Examples:
        >>> from bnn_keras.experiment import load_experiment
        >>> with_absolute_paths(load_experiment("lenet5_mnist")) == load_experiment("lenet5_mnist")
        True
    """
    return validate(experiment.to_document(), experiment.name, Path.cwd())


def all_experiments() -> list[Experiment]:
    """Load all experiments that ship with the package."""
    return [_load_shipped(name) for name in _shipped()]
