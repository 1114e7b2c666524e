"""What may import what, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_python

# From the top down, as in docs/architecture.md. A module imports only from lines below its own, or from its own name.
LAYERS = [
    {"cli"},
    {"reproduce"},
    {"benchmark", "evaluation", "training", "doctor"},
    {"export"},
    {"interop", "models", "plots"},
    {"build"},
    {"networks"},
    {"schemes"},
    {"layers"},
    {"quantizers", "constraints", "optimizers", "losses", "schedules", "counts", "data"},
    {"runs"},
    {"experiment", "experiments"},
    {"catalog"},
    {"files", "location"},
    {"__init__"},
    {"errors"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
WITHOUT_TENSORFLOW = RANK["runs"]

ROOT = Path(__file__).parents[1]
FILES = [*(ROOT / "bnn_keras").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]


def module_of(path):
    """The part of the package that a file belongs to: `training` for bnn_keras/training/trainer.py."""
    inside = path.relative_to(ROOT)
    return "cli" if inside.parts[0] == "cli" else Path(inside.parts[1]).stem


def imports_of(path):
    """The parts of the package that a file imports, and the other packages, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "bnn_keras" else [node.module]
            )
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            part = rest[0] if first == "bnn_keras" and rest and rest[0] in RANK else "__init__"
            yield ("bnn_keras", part) if first == "bnn_keras" else (first, None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = module_of(path)
    for package, part in imports_of(path):
        if package == "bnn_keras" and part != own:
            assert RANK[part] > RANK[own], f"{own} imports {part}"
        if own != "cli":
            assert package != "click"
        if RANK[own] >= WITHOUT_TENSORFLOW:
            assert package not in ("tensorflow", "larq", "tensorflow_datasets")


def test_the_rule_is_the_documented_one():
    text = (ROOT / "docs" / "architecture.md").read_text().split("```text\n")[1].split("```")[0]
    documented = [set(line.split()) for line in text.splitlines()]
    named = [names - {"__init__", "experiments"} for names in LAYERS]
    assert documented == [names for names in named if names]


COMMANDS = [
    "import bnn_keras",
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
def test_no_tensorflow_where_none_is_needed(code):
    ending = "print([name for name in ('tensorflow', 'numpy', 'larq') if name in sys.modules])"
    assert run_python(f"import sys, atexit\natexit.register(lambda: {ending})\n{code}").splitlines()[-1] == "[]"


def test_public_names_exist():
    import bnn_keras

    for name in bnn_keras.__all__:
        assert getattr(bnn_keras, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bnn_keras.nothing
    assert set(bnn_keras.__all__) <= set(dir(bnn_keras))


UNSET = "import os; os.environ.pop('TF_USE_LEGACY_KERAS', None)"


def test_keras_3_already_loaded_is_one_clear_error():
    code = f"{UNSET}; import tensorflow as tf; tf.keras.layers; import bnn_keras"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "TensorFlow has already loaded Keras 3 (tf.keras.layers.Layer is from 'keras" in last
    assert "import bnn_keras before the first use of tf.keras, or set TF_USE_LEGACY_KERAS=1" in last


def test_tensorflow_imported_before_is_fine():
    code = f"{UNSET}; import tensorflow as tf; import bnn_keras; print(tf.keras.layers.Layer.__module__)"
    assert run_python(code).startswith("tf_keras")
    code = f"{UNSET}; import tensorflow; import bnn_keras, larq; print(larq.optimizers.Bop.__mro__[1].__module__)"
    assert run_python(code).startswith("tf_keras")
