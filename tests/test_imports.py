"""Verify which module may import which, and that importing is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_python

import bnn_keras

# From the top down, as in docs/architecture.md. A module imports only from lines below its own, or from its own name.
LAYERS = [
    {"cli"},
    {"doctor", "reproduce", "sweeps", "report"},
    {"benchmark", "evaluation", "training"},
    {"export"},
    {"binarizing", "diagrams", "interop", "models", "plots"},
    {"build"},
    {"networks"},
    {"schemes"},
    {"layers"},
    {
        "quantizers",
        "constraints",
        "optimizers",
        "losses",
        "schedules",
        "counts",
        "graphs",
        "kernels",
        "transfer",
        "data",
        "checkpoints",
    },
    {"elementwise"},
    {"sources", "symptoms"},
    {"runs"},
    {"experiment", "experiments"},
    {"plugins"},
    {"catalog"},
    {"schedule_config", "pretrained"},
    {"tables"},
    {"array_files"},
    {"files", "launching", "location", "packed_reader", "text"},
    {"__init__"},
    {"errors"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
WITHOUT_TENSORFLOW = RANK["sources"]

FILES = [
    path
    for folder in ("bnn_keras", "cli")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent.name != "plugin_template"  # files of a user
]


def part_of(path):
    """Return the part of the package that a file belongs to: `training` for bnn_keras/training/trainer.py."""
    inside = path.relative_to(ROOT)
    return "cli" if inside.parts[0] == "cli" else Path(inside.parts[1]).stem


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_of(tree):
    """Yield the parts of the package and the other packages that are imported anywhere in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "bnn_keras":
            names = [f"bnn_keras.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            part = rest[0] if first == "bnn_keras" and rest and rest[0] in RANK else "__init__"
            yield ("bnn_keras", part) if first == "bnn_keras" else (first, None)


def violations(path):
    """Yield what a file imports against the rules."""
    importer = part_of(path)
    tree = ast.parse(path.read_text())
    if importer == "__init__":  # names for editors; they are not imported at run time
        tree.body = [node for node in tree.body if not is_type_checking(node)]
    forbidden = set() if importer == "cli" else {"click"}
    if RANK[importer] >= WITHOUT_TENSORFLOW:
        forbidden |= {"tensorflow", "larq", "tensorflow_datasets"}
    for package, part in imports_of(tree):
        upwards = package == "bnn_keras" and part != importer and RANK[part] <= RANK[importer]
        if upwards or package in forbidden:
            yield f"{path.relative_to(ROOT)} imports {part or package}"


def test_imports_point_down():
    assert len(FILES) > 80
    assert [violation for path in FILES for violation in violations(path)] == []


def test_layers_are_the_documented_ones():
    text = (ROOT / "docs" / "architecture.md").read_text().split("```text\n")[1].split("```")[0]
    documented = [set(line.split()) for line in text.splitlines()]
    checked = [names - {"__init__", "experiments"} for names in LAYERS]
    assert documented == [names for names in checked if names]


def test_larq_zoo_is_imported_by_its_networks_only():
    importers = [path for path in FILES if ("larq_zoo", None) in imports_of(ast.parse(path.read_text()))]
    assert importers == [ROOT / "bnn_keras" / "networks" / "zoo.py"]
    at_import = [node for node in ast.parse(importers[0].read_text()).body if isinstance(node, ast.Import)]
    assert "larq_zoo" not in {alias.name for node in at_import for alias in node.names}


COMMANDS = [
    "import bnn_keras; dir(bnn_keras)",
    *(
        f"sys.argv = ['bnnk', *{words.split()!r}]; from bnn_keras.cli import main; main(standalone_mode=False)"
        for words in (
            "--help",
            "list networks",
            "list experiments --json",
            "show xnor_net/lenet5_mnist_5k",
            f"check {ROOT / 'experiments' / 'xnor_net' / 'lenet5_mnist.toml'}",
        )
    ),
]


@pytest.mark.parametrize("code", COMMANDS)
def test_imports_no_tensorflow(code):
    loaded = "print([name for name in ('tensorflow', 'numpy', 'larq') if name in sys.modules])"
    assert run_python(f"import sys, atexit\natexit.register(lambda: {loaded})\n{code}").splitlines()[-1] == "[]"


def test_public_names_exist():
    for name in bnn_keras.__all__:
        assert getattr(bnn_keras, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bnn_keras.nothing
    assert set(bnn_keras.__all__) <= set(dir(bnn_keras))


def test_editors_see_every_public_name():
    """The imports under TYPE_CHECKING are the lazy ones, from the same modules."""
    tree = ast.parse(Path(bnn_keras.__file__).read_text())
    (block,) = filter(is_type_checking, tree.body)
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    lazy = {**bnn_keras._PUBLIC, **dict.fromkeys(bnn_keras._SUBPACKAGES, "bnn_keras")}
    assert seen == lazy
    assert set(bnn_keras.__all__) == {"BnnError", "__version__", *lazy}


@pytest.mark.parametrize("name", bnn_keras._SUBPACKAGES)
def test_subpackages_are_imported_on_first_use(name, monkeypatch):
    monkeypatch.delattr(bnn_keras, name, raising=False)
    assert getattr(bnn_keras, name).__name__ == f"bnn_keras.{name}"


UNSET = "import os; os.environ.pop('TF_USE_LEGACY_KERAS', None)"


@pytest.mark.slow
def test_keras_3_already_loaded_is_one_clear_error():
    code = f"{UNSET}; import tensorflow as tf; tf.keras.layers; import bnn_keras"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "TensorFlow has already loaded Keras 3 (tf.keras.layers.Layer is from 'keras" in last
    assert "import bnn_keras before the first use of tf.keras, or set TF_USE_LEGACY_KERAS=1" in last


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import tensorflow as tf; import bnn_keras; print(tf.keras.layers.Layer.__module__)",
        "import tensorflow; import bnn_keras, larq; print(larq.optimizers.Bop.__mro__[1].__module__)",
    ],
)
def test_tensorflow_imported_before_uses_keras_2(code):
    assert run_python(f"{UNSET}; {code}").startswith("tf_keras")
