"""Plugins: rows of users in the catalog, notes in runs and files, and errors in one line."""

import hashlib
import importlib.metadata
import re
import subprocess
import sys
import types

import pytest
from helpers import ROOT, error_line, run_bnnk

import bnn_keras
from bnn_keras import BnnError, catalog, plugins
from bnn_keras.build import build_scheme
from bnn_keras.catalog import Options, SchemeRow
from bnn_keras.experiment import parse
from bnn_keras.export import open_export

PLUGIN = '''
from bnn_keras import schemes
from bnn_keras.catalog import Options, SchemeRow

class MineOptions(Options):
    strength: float = 0.5
    """How strong"""

def mine(strength):
    return schemes.binarynet()

rows = [SchemeRow("mine", mine, "A scheme of a user", ("1/1", "1/32"), options=MineOptions)]
'''
SMALL = ["data.examples=16", "stages.0.batch_size=8", "stages.0.epochs=1"]


@pytest.fixture(autouse=True)
def _no_plugins_of_other_tests():
    yield
    for name in list(plugins._loaded):
        plugins.unload_plugin(name)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def plugin(file):
    return bnn_keras.load_plugin(file)


def rows(text):
    """Return the text of a plugin with one row."""
    return f"from bnn_keras.catalog import *\nrows = [{text}]\n"


# --- rows ---


def test_row_of_a_plugin_is_in_the_catalog(plugin):
    assert plugin.rows == (("scheme", "mine"),)
    assert plugin.sha256 == hashlib.sha256(PLUGIN.encode()).hexdigest()
    assert catalog.find("scheme", "mine").options.defaults() == {"strength": 0.5}
    assert bnn_keras.resolve("lenet5", scheme="mine").experiment.scheme.choices == {"strength": 0.5}


def test_options_of_a_plugin_are_checked_as_others_are(plugin):
    def message(override):
        with pytest.raises(BnnError) as error:
            bnn_keras.resolve("lenet5", scheme="mine", overrides=[override])
        return str(error.value)

    assert "scheme.strength: got 'much'; expected a valid number" in message("scheme.strength=much")
    assert "scheme.strenght: unknown key of scheme 'mine'; did you mean 'strength'?" in message("scheme.strenght=1.0")
    assert "unknown scheme 'mne'; did you mean 'mine'?" in message("scheme.name=mne")


def test_plugin_that_is_loaded_already_is_not_loaded_again(plugin, file):
    assert bnn_keras.load_plugin(file) is plugin


def test_another_plugin_of_the_same_name(plugin, file):
    file.write_text(PLUGIN + "\n")
    with pytest.raises(BnnError, match="another plugin 'mine' is loaded; rename one of the two"):
        bnn_keras.load_plugin(file)


def test_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("from my_package.method import rows\n")
    (package / "method.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    plugin = bnn_keras.load_plugin("my_package")
    assert plugin.rows == (("scheme", "mine"),)
    assert set(plugin.sources) == {"my_package/__init__.py", "my_package/method.py"}
    before = plugin.sha256
    plugin.sources["my_package/method.py"] += b"#"
    assert plugin.sha256 != before


def test_installed_plugins_and_those_of_the_environment_are_loaded(tmp_path, file, monkeypatch):
    module = types.ModuleType("installed")
    module.rows, module.__file__ = [SchemeRow("other", "m:f", "", ("1/1",))], str(file)
    monkeypatch.setitem(sys.modules, "installed", module)
    point = importlib.metadata.EntryPoint("anything", "installed", plugins.ENTRY_POINTS)
    broken = importlib.metadata.EntryPoint("broken", "nowhere.plugin", plugins.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point, broken])
    monkeypatch.setenv(plugins.VARIABLE, f"{file}:")
    with pytest.warns(UserWarning, match="no plugin 'nowhere.plugin'.*, or uninstall it"):
        plugins.load_plugins()
    assert {"other", "mine"} <= set(catalog.SCHEMES)


# --- bad plugins ---

# Text of a plugin: its error, behind "plugin 'bad'" and before what to do.
BAD = {
    "x = 1": " has no attribute 'rows'; add a list of catalog rows, such as rows = [SchemeRow(…)]",
    "rows = 3": ": rows has '3' (int); expected NetworkRow, SchemeRow, OptimizerRow, DatasetRow, FormatRow",
    "def f(:": ", line 1: invalid syntax; correct the plugin",
    "rows = []\n1 / 0": ", line 2: ZeroDivisionError: division by zero; correct the plugin",
    "raise SystemExit(3)": ", line 1: SystemExit: 3; correct the plugin",
    "import no_such_module": " needs the module 'no_such_module'; install it, or correct the plugin",
    "print('hello')\nrows = []": " writes to standard output when it is loaded ('hello'), where results of commands "
    "go; remove the print from it",
    rows("SchemeRow('a', 3, '', ('1/1',))"): ", line 2: wrong SchemeRow: builder: got '3'; expected a valid string; "
    "correct the plugin",
    rows("SchemeRow('a', 'm:f', '', ('2/2',), options={})"): ", line 2: wrong SchemeRow: bits: got '2/2'; expected "
    "'1/1', '1/32', '32/1' or '32/32'; options: got '{}'; expected a subclass of Options; correct the plugin",
    rows(
        "SchemeRow('a', 'm:f', descripton='', bits=('1/1',))"
    ): ", line 2: wrong SchemeRow: description: field required; "
    "unknown field 'descripton'; did you mean 'description'? known: anneals, bits, builder, derived, description, "
    "layers, name, options, source; correct the plugin",
    rows("SchemeRow('xnor', 'm:f', '', ('1/1',))"): ": there is a scheme 'xnor' already; choose another name",
    rows(
        "SchemeRow('a', 'm:f', '', ('1/1',)), SchemeRow('a', 'm:f', '', ('1/1',))"
    ): ": there is a scheme 'a' already; choose another name",
    rows(
        "SchemeRow('a', 'm:f', '', ('1/1',), anneals=('t',))"
    ): ": scheme 'a' anneals 't', which is not a field of its options; correct the plugin",
    rows(
        "NetworkRow('a', 'm:f', '', (8, 8, 3), 10, 'nothing', '1/1', 'mnist')"
    ): ": network 'a' has the unknown scheme 'nothing'; correct the plugin",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_plugin_is_one_clear_line(text, tmp_path):
    before = {kind: dict(table) for kind, table in catalog.TABLES.items()}
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(BnnError) as error:
        bnn_keras.load_plugin(tmp_path / "bad.py")
    assert str(error.value) == f"plugin 'bad'{BAD[text]}"
    assert before == catalog.TABLES


@pytest.mark.parametrize("name", ["nothing.py", "nothing", "nothing.inside"])
def test_plugin_that_does_not_exist(name):
    with pytest.raises(BnnError, match="give a Python file, or the name of an installed module"):
        bnn_keras.load_plugin(name)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("lambda: 1 / 0", r"failed \(ZeroDivisionError: division by zero\)"),
        ("lambda: 1", r"returned '1' \(int\); expected Scheme"),
        ("lambda strength: 1", r"failed \(TypeError: .*missing 1 required.*\); it is called with no options"),
        ("'nowhere:f'", r"failed \(ModuleNotFoundError: No module named 'nowhere'\)"),
    ],
)
def test_builder_that_fails(builder, message, tmp_path):
    (tmp_path / "bad.py").write_text(rows(f"SchemeRow('a', {builder}, '', ('1/1',))"))
    bnn_keras.load_plugin(tmp_path / "bad.py")
    experiment = bnn_keras.resolve("lenet5", scheme="a").experiment
    with pytest.raises(BnnError, match=f"the builder of scheme 'a' {message}.*; correct the plugin 'bad'"):
        bnn_keras.build_model(experiment)


def test_kernel_with_several_magnitudes_in_a_filter(tmp_path):
    """Otherwise, only the export would find that a kernel does not have one bit per weight."""
    (tmp_path / "rounded.py").write_text(
        "import larq\nfrom bnn_keras.catalog import SchemeRow\nfrom bnn_keras.schemes import Scheme\n\n"
        "class Rounded(larq.quantizers.Quantizer):\n    precision = 1\n"
        "    def call(self, inputs):\n        return inputs - inputs % 0.01\n\n"
        "def rounded():\n    return Scheme('rounded', '1/1', kernel_quantizer=Rounded)\n\n"
        "rows = [SchemeRow('rounded', rounded, 'Many values', ('1/1',))]\n"
    )
    bnn_keras.load_plugin(tmp_path / "rounded.py")
    experiment = bnn_keras.resolve("lenet5", scheme="rounded", dataset="mnist_5k").experiment
    with pytest.raises(BnnError, match=r"kernel of layer '.*' is not binary: .* has magnitudes from 0 to 0\.\d+; "):
        bnn_keras.build_model(experiment)


ANNEALED = """
from bnn_keras.catalog import *
from bnn_keras.quantizers import Annealed
from bnn_keras.schemes import Scheme
class Own(Options):
    beta: Scheduled = Geometric(initial=1.0, final=2.0)
rows = [SchemeRow("a", lambda: Scheme("a", "1/1"{}), "", ("1/1",), options=Own, anneals=("beta",))]
"""


@pytest.mark.parametrize(
    ("argument", "names"),
    [("", "nothing"), (", annealed=Annealed(bta=1.0)", "bta"), (", annealed=Annealed(beta=1.0)", None)],
)
def test_annealed_values_of_row_and_scheme_have_the_same_names(argument, names, tmp_path):
    (tmp_path / "own.py").write_text(ANNEALED.format(argument))
    bnn_keras.load_plugin(tmp_path / "own.py")
    experiment = bnn_keras.resolve("lenet5", scheme="a").experiment
    if names is None:
        assert build_scheme(experiment).annealed.values() == {"beta": 1.0}
        return
    with pytest.raises(BnnError, match=f"scheme 'a' anneals beta in its row, but {names} in its Scheme"):
        build_scheme(experiment)


def test_name_like_no_other_may_be_of_a_plugin():
    with pytest.raises(BnnError, match=r"unknown scheme 'qqqqqq'; known: .*; rows of a plugin need --plugin"):
        bnn_keras.resolve("lenet5", scheme="qqqqqq")


# --- notes in runs and files ---


@pytest.fixture
def run(plugin, tmp_path, eager):
    experiment = bnn_keras.resolve("lenet5", scheme="mine", dataset="fake", overrides=SMALL).experiment
    bnn_keras.train(experiment, tmp_path / "run", plain=True)
    return tmp_path / "run"


def test_run_notes_its_plugin_and_keeps_a_copy(run, plugin):
    assert (run / "plugins" / "mine.py").read_text() == PLUGIN
    (note,) = bnn_keras.load_run(run)[0].plugins
    assert (note.name, note.sha256) == ("mine", plugin.sha256)


def test_run_and_file_without_their_plugin(run, tmp_path):
    for to, file in (("packed", "mine.safetensors"), ("saved_model", "mine")):
        assert bnn_keras.export_run(run, to, tmp_path / file, allow_float=True)["agreement"] == 100
    plugins.unload_plugin("mine")
    expected = (
        r"needs the plugin 'mine' \(SHA-256 \w{12}…\), which is not loaded; give its file or module with --plugin"
    )
    for action in (
        lambda: bnn_keras.load_run(run),
        lambda: bnn_keras.repair(run),
        lambda: open_export(tmp_path / "mine.safetensors"),
        lambda: open_export(tmp_path / "mine"),
    ):
        with pytest.raises(BnnError, match=expected):
            action()
    with pytest.raises(BnnError, match=r"the run keeps a copy for reference in '.*plugins'$"):
        bnn_keras.load_run(run)


def test_plugin_that_has_changed_is_a_warning(run, file):
    plugins.unload_plugin("mine")
    file.write_text(PLUGIN + "# changed\n")
    bnn_keras.load_plugin(file)
    with pytest.warns(UserWarning, match="the plugin 'mine' has changed since it was noted"):
        experiment, _ = bnn_keras.load_run(run)
    assert experiment.plugins[0].sha256 == hashlib.sha256(PLUGIN.encode()).hexdigest()


def test_note_is_dropped_with_the_row(plugin):
    experiment = bnn_keras.resolve("lenet5", scheme="mine").experiment
    text = experiment.to_toml().replace('name = "mine"\nbits', 'name = "binarynet"\nbits')
    assert parse(text.replace("strength = 0.5\n", ""), "other").plugins is None
    assert bnn_keras.resolve("lenet5").experiment.plugins is None


def test_note_that_is_not_well_formed():
    with pytest.raises(BnnError, match=r"plugins\.0\.sha256: missing; add it"):
        bnn_keras.resolve("lenet5", overrides=["plugins=[{name='mine'}]"])


def test_options_of_a_row_have_one_place():
    class Empty(Options):
        pass

    assert (Options.defaults(), Empty.by_bits()) == ({}, [])


# --- commands ---


def test_plugin_before_and_behind_a_command(file, tmp_path):
    for arguments in (["--plugin", file, "list", "schemes"], ["list", "schemes", f"--plugin={file}"]):
        assert "A scheme of a user" in run_bnnk(*arguments).stdout
        plugins.unload_plugin("mine")


def test_plugin_new_writes_an_example_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = run_bnnk("plugin", "new", "ours.py").stdout
    assert "bnnk --plugin ours.py train lenet5 --experiment ours.toml" in output
    assert {path.name for path in tmp_path.iterdir()} == {"ours.py", "ours.toml", "test_ours.py"}
    assert error_line("plugin", "new", "ours.py") == "'ours.py' exists; remove it, or give another name"
    assert run_bnnk("--plugin", "ours.py", "check", "ours.toml").stdout == "ours.toml: ok\n"


@pytest.mark.parametrize("name", ["ours", "our-method.py", "class.py", "xnor.py"])
def test_plugin_new_with_a_wrong_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search("another name|such as mymethod.py", error_line("plugin", "new", name))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_example_passes_its_test(tmp_path, monkeypatch):
    """In another process, as a user runs it."""
    monkeypatch.chdir(tmp_path)
    run_bnnk("plugin", "new", "ours.py")
    command = [sys.executable, "-m", "pytest", "-q", "test_ours.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "7 passed" in result.stdout
    assert ROOT not in tmp_path.parents
