"""Run the examples in docstrings, and verify that every public name has one."""

import ast
import doctest
import importlib
import inspect

import pytest
from helpers import ROOT

import bnn_keras

FOLDERS = {"bnn_keras": "bnn_keras", "cli": "bnn_keras.cli"}  # folder of the checkout: its package
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if ">>> " in path.read_text()]


def module_name(path):
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def examples_of(path):
    """Yield the examples in a file's docstrings, found in its source: decorators can hide functions from doctest."""
    module = importlib.import_module(module_name(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            docstring = node.body[0]
            name = f"{module.__name__}.{getattr(node, 'name', '')}".rstrip(".")
            yield doctest.DocTestParser().get_doctest(
                ast.get_docstring(node, clean=False), dict(vars(module)), name, str(path), docstring.lineno - 1
            )


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_examples(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    examples = list(examples_of(path))
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
    assert any(example.examples for example in examples)


def public_objects():
    """Yield the public functions and classes with their names: those of `__all__`, else all without an underscore."""
    for module in (bnn_keras, *(getattr(bnn_keras, name) for name in bnn_keras._SUBPACKAGES)):
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            listed = hasattr(module, "__all__") or getattr(value, "__module__", None) == module.__name__
            if not name.startswith("_") and listed and (inspect.isroutine(value) or inspect.isclass(value)):
                yield f"{module.__name__}.{name}", value


def test_public_names_have_docstrings():
    assert [name for name, value in public_objects() if len(value.__doc__ or "") < 20] == []


def test_public_names_have_examples():
    names = dict(public_objects())
    assert len(names) > 40
    assert [name for name, value in names.items() if ">>> " not in (value.__doc__ or "")] == []
