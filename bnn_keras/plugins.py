"""Plugins: networks, schemes, optimizers, datasets and export formats of your own. Needs no TensorFlow.

A plugin is a Python file or an installed module with an attribute `rows`: catalog rows (`bnn_keras.catalog`) whose
builders are functions. `load_plugin` adds them to the catalog, and they work wherever a row of the package does. An
experiment notes the plugins it needs, by name and SHA-256. Code of a plugin runs only if the user gives the plugin;
copies in run directories are never run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic

from bnn_keras import catalog
from bnn_keras.errors import BnnError, unknown

ENTRY_POINTS = "bnn_keras.plugins"
VARIABLE = "BNNK_PLUGINS"

_KINDS: Mapping[type, str] = {
    catalog.NetworkRow: "network",
    catalog.SchemeRow: "scheme",
    catalog.OptimizerRow: "optimizer",
    catalog.DatasetRow: "dataset",
    catalog.FormatRow: "format",
}
_FIX = "correct the plugin"


class MissingPluginError(BnnError):
    """An experiment needs a plugin that is not loaded."""


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        name: The name of the module, or of the file without `.py`.
        sources: Contents of its Python files, by file name.
        rows: The names of its rows, with the keys of `catalog.TABLES` that they are in.
        module: The module, with its functions and classes.
    """

    name: str
    sources: Mapping[str, bytes]
    rows: tuple[tuple[str, str], ...]
    module: ModuleType

    @property
    def sha256(self) -> str:
        """The digest of its files: that of the file if there is one only."""
        if len(self.sources) == 1:
            (content,) = self.sources.values()
            return hashlib.sha256(content).hexdigest()
        lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(self.sources.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


_loaded: dict[str, Plugin] = {}


def load_plugin(file_or_module: str | Path) -> Plugin:
    """Add the rows of a plugin to the catalog.

    Args:
        file_or_module: A Python file, or the name of an installed module. Its code runs. A plugin that is loaded
            already is not loaded again.

    Returns:
        The plugin.

    Raises:
        BnnError: There is no such file or module, its code fails or prints, it has no `rows`, a row is wrong, or a name
            is taken. No row is added then.

    Example:
        >>> import tempfile
        >>> from bnn_keras import load_plugin, resolve
        >>> text = '''
        ... from bnn_keras.catalog import SchemeRow
        ... from bnn_keras.schemes import binarynet
        ... rows = [SchemeRow("signs", binarynet, "BinaryNet, with another name", ("1/1",))]
        ... '''
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open(f"{folder}/signs.py", "w") as stream:
        ...         _ = stream.write(text)
        ...     plugin = load_plugin(f"{folder}/signs.py")
        >>> plugin.name, plugin.rows
        ('signs', (('scheme', 'signs'),))
        >>> resolve("lenet5", scheme="signs").experiment.scheme.name
        'signs'
        >>> unload_plugin("signs")
    """
    name, path = _name_and_path(file_or_module)
    sources = {path.name: _read(path)} if path else {}
    loaded = _loaded.get(name)
    if loaded and (not sources or loaded.sources == sources):
        return loaded
    if loaded:
        raise BnnError(
            f"cannot load plugin {str(file_or_module)!r}: another plugin {name!r} is loaded; rename one of the two"
        )
    with _explaining(name, path):
        module = _run(name, path)
    rows = _rows(name, module)
    plugin = Plugin(name, sources or _sources(module), tuple((_KINDS[type(row)], row.name) for row in rows), module)
    for row in rows:
        catalog.TABLES[_KINDS[type(row)]][row.name] = row
    _loaded[name] = plugin
    return plugin


def unload_plugin(name: str) -> None:
    """Remove the rows of a plugin from the catalog."""
    for kind, row in _loaded.pop(name).rows:
        del catalog.TABLES[kind][row]


def load_plugins(files_or_modules: Iterable[str] = ()) -> None:
    """Load the plugins that a command uses: installed ones, those that `BNNK_PLUGINS` names, and those given.

    Installed plugins are the modules that other packages name as entry points of the group `bnn_keras.plugins`. If one
    of them cannot be loaded, that is a warning.

    Args:
        files_or_modules: Further plugins, as for `load_plugin`.

    Raises:
        BnnError: A plugin that `BNNK_PLUGINS` names or that is given cannot be loaded.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            load_plugin(point.module)
        except BnnError as error:
            warnings.warn(f"{error}, or uninstall it", stacklevel=1)
    for plugin in (*os.environ.get(VARIABLE, "").split(os.pathsep), *files_or_modules):
        if plugin:
            load_plugin(plugin)


def template(name: str) -> dict[str, str]:
    """Return the files of an example with a scheme of this name: plugin, experiment and test, by file name."""
    folder = Path(__file__).with_name("plugin_template")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".py", ".toml"))
    return {path.name.replace("mymethod", name): path.read_text().replace("mymethod", name) for path in files}


def loaded_plugin(name: str) -> Plugin:
    """Return the plugin of a name, which must be loaded."""
    return _loaded[name]


def plugin_of(kind: str, name: str) -> Plugin | None:
    """Return the plugin that a row of the catalog comes from; None for rows of this package."""
    return next((plugin for plugin in _loaded.values() if (kind, name) in plugin.rows), None)


def require_plugin(name: str, sha256: str) -> None:
    """Verify that a plugin is loaded; warn if its files have changed.

    Args:
        name: The name of the plugin.
        sha256: The digest that was noted with the name.

    Raises:
        MissingPluginError: The plugin is not loaded.
    """
    plugin = _loaded.get(name)
    if plugin is None:
        raise MissingPluginError(
            f"needs the plugin {name!r} (SHA-256 {sha256[:12]}…), which is not loaded; give its file or module with "
            f"--plugin, in {VARIABLE} or to bnn_keras.load_plugin"
        )
    if plugin.sha256 != sha256:
        warnings.warn(
            f"the plugin {name!r} has changed since it was noted (SHA-256 {sha256[:12]}… then, {plugin.sha256[:12]}… "
            "now); results may differ",
            stacklevel=1,
        )


def _name_and_path(file_or_module: str | Path) -> tuple[str, Path | None]:
    """Return the name of a plugin, and the path of its file; None for an installed module."""
    path = Path(file_or_module)
    if path.suffix == ".py" or path.is_file():
        return path.stem, path
    return str(file_or_module), None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BnnError(
            f"cannot read plugin {str(path)!r} ({error.strerror}); give a Python file, or the name of an installed "
            "module"
        ) from error


def _run(name: str, path: Path | None) -> ModuleType:
    """Run the code of a plugin and return its module."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        module = _import_file(name, path) if path else importlib.import_module(name)
    if printed.getvalue():
        line = printed.getvalue().splitlines()[0]
        raise BnnError(
            f"plugin {name!r} writes to standard output when it is loaded ({line[:60]!r}), where results of commands "
            "go; remove the print from it"
        )
    return module


def _import_file(name: str, path: Path) -> ModuleType:
    qualified = f"bnn_keras_plugin_{name}"
    spec = importlib.util.spec_from_file_location(qualified, path)
    if spec is None or spec.loader is None:
        raise BnnError(f"plugin {str(path)!r} is not a Python file; expected a name that ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module  # libraries look modules up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[qualified]
        raise
    return module


@contextlib.contextmanager
def _explaining(name: str, path: Path | None) -> Iterator[None]:
    """Convert errors in the code of a plugin into a `BnnError` that names the line."""
    try:
        yield
    except BnnError:
        raise
    except ModuleNotFoundError as error:
        if path is None and error.name and name.split(".")[: len(error.name.split("."))] == error.name.split("."):
            raise BnnError(
                f"no plugin {name!r}: there is no such file and no such module; give a Python file, or the name of an "
                "installed module"
            ) from error
        raise BnnError(f"plugin {name!r} needs the module {error.name!r}; install it, or {_FIX}") from error
    except pydantic.ValidationError as error:
        where = f"plugin {name!r}{_line(path, error)}"
        raise BnnError(f"{where}: wrong {error.title}: {'; '.join(_problems(error))}; {_FIX}") from error
    except SyntaxError as error:
        raise BnnError(f"plugin {name!r}, line {error.lineno}: {error.msg}; {_FIX}") from error
    except (Exception, SystemExit) as error:
        raise BnnError(f"plugin {name!r}{_line(path, error)}: {type(error).__name__}: {error}; {_FIX}") from error


def _problems(error: pydantic.ValidationError) -> list[str]:
    """Return what is wrong with the fields of a row, with the first error of each field."""
    row = next((kind for kind in _KINDS if kind.__name__ == error.title), None)
    names = [field.name for field in dataclasses.fields(row)] if row else []
    found: dict[str, str] = {}
    for part in error.errors():
        field = part["loc"][0] if part["loc"] else ""
        field = names[field] if isinstance(field, int) and field < len(names) else str(field)
        if part["type"] == "unexpected_keyword_argument":
            found[field] = unknown("field", field, names)
            continue
        message = part["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
        received = "" if part["type"] == "missing" else f"got {str(part['input'])[:60]!r}; "
        found.setdefault(field, f"{field}: {received}{message[0].lower()}{message[1:]}")
    return list(found.values())


def _line(path: Path | None, error: BaseException) -> str:
    """Return the line of the plugin's file that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path and Path(frame.filename).resolve() == path.resolve()]
    return f", line {lines[-1]}" if lines else ""


def _rows(name: str, module: ModuleType) -> list[Any]:
    """Return the rows of a plugin, after checking them and their names."""
    if not hasattr(module, "rows"):
        raise BnnError(
            f"plugin {name!r} has no attribute 'rows'; add a list of catalog rows, such as rows = [SchemeRow(…)]"
        )
    rows = list(module.rows) if isinstance(module.rows, Iterable) else [module.rows]
    known = ", ".join(kind.__name__ for kind in _KINDS)
    names: set[tuple[str, str]] = set()
    for row in rows:
        kind = _KINDS.get(type(row))
        if kind is None:
            raise BnnError(f"plugin {name!r}: rows has {str(row)[:60]!r} ({type(row).__name__}); expected {known}")
        if row.name in catalog.TABLES[kind] or (kind, row.name) in names:
            raise BnnError(f"plugin {name!r}: there is a {kind} {row.name!r} already; choose another name")
        names.add((kind, row.name))
    for row in rows:
        problem = _CHECKS[type(row)](row, names) if type(row) in _CHECKS else None
        if problem:
            raise BnnError(f"plugin {name!r}: {_KINDS[type(row)]} {row.name!r} {problem}; {_FIX}")
    return rows


def _check_network(row: catalog.NetworkRow, names: set[tuple[str, str]]) -> str | None:
    for kind, name in (("scheme", row.scheme), ("dataset", row.dataset)):
        if name not in catalog.TABLES[kind] and (kind, name) not in names:
            return f"has the unknown {kind} {name!r}"
    return None


def _check_scheme(row: catalog.SchemeRow, names: set[tuple[str, str]]) -> str | None:
    other = [key for key in (*row.anneals, *row.derived) if key not in row.options.model_fields]
    return f"anneals {other[0]!r}, which is not a field of its options" if other else None


_CHECKS: Mapping[type, Any] = {catalog.NetworkRow: _check_network, catalog.SchemeRow: _check_scheme}


def _sources(module: ModuleType) -> dict[str, bytes]:
    """Return the Python files of an installed module or package, by name."""
    file = Path(module.__file__ or "")
    if file.name != "__init__.py":
        return {file.name: _read(file)}
    return {str(path.relative_to(file.parent.parent)): _read(path) for path in sorted(file.parent.rglob("*.py"))}
