"""Verify the documents: README's commands run, generated pages are up to date, links and names exist."""

import ast
import csv
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import parity
import pytest
import tensorflow as tf
from helpers import ROOT, once, run_bnnk
from written_runs import write_run

import bnn_keras
from bnn_keras import catalog, plugins, runs
from bnn_keras.runs import Run

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "experiments/results/*.md")
    for path in ROOT.glob(pattern)
)
ADDING = ROOT / "docs" / "adding.md"
FENCES = r"python( no-test: .+)?|sh( no-test)?|(text|toml|json|yaml|hex|c)"


def blocks(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# Runs `bnnk` commands, some with output to a file, in one process: importing TensorFlow takes seconds.
SHELL = """
import contextlib, shlex, sys
from bnn_keras.cli import main
for line in sys.stdin.read().splitlines():
    command, _, file = line.partition(" > ")
    name, *arguments = shlex.split(command)
    assert name == "bnnk", line
    with open(file, "w") if file else contextlib.nullcontext(sys.stdout) as stdout:
        with contextlib.redirect_stdout(stdout):
            try:
                main(arguments)
            except SystemExit as exit:
                if exit.code:
                    sys.exit(f"{line}: exit code {exit.code}")
"""


def run_python_in(code, folder, data_dir, stdin=""):
    """Run Python code in a folder with prepared datasets; return what it prints."""
    environment = {**os.environ, "TFDS_DATA_DIR": data_dir}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_readme_starts_with_the_main_job_and_the_tests():
    main_job, tests, *_ = blocks((ROOT / "README.md").read_text(), "sh")
    assert main_job.rstrip().endswith("-e . && .venv/bin/bnnk train lenet5")
    assert tests.rstrip().endswith('-e ".[test]" && .venv/bin/pytest -n 2')


@pytest.mark.parametrize("number", [1, 2])
def test_ci_runs_the_first_two_commands_of_the_readme(number):
    (function,) = re.findall(r"^block\(\).*", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    command = ["bash", "-c", f"{function}\nblock {number}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == blocks((ROOT / "README.md").read_text(), "sh")[number - 1]


@pytest.mark.slow
def test_commands_of_readme_and_usage_run(tmp_path, few_digits):
    """The first two blocks of README install the package; CI runs them unchanged."""
    _, _, *commands = blocks((ROOT / "README.md").read_text(), "sh")
    assert commands
    commands += blocks((ROOT / "docs" / "usage.md").read_text(), "sh")
    output = run_python_in(SHELL, tmp_path, few_digits, stdin="".join(commands))
    assert "top-1" in output
    assert "my.toml: ok" in output
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"quick", "mine", "irnet", "bop", "float", "binary"}


@pytest.mark.slow
def test_tutorial_runs(tmp_path, few_digits):
    """With one epoch for each training."""
    text = (ROOT / "docs" / "getting-started.md").read_text()
    (digit,) = blocks(text, "python")
    run_python_in(digit, tmp_path, few_digits)
    commands = "".join(blocks(text, "sh")).replace(" --epochs 10", "")
    commands = re.sub("^bnnk train .*", r"\g<0> --epochs 1", commands, flags=re.MULTILINE)
    assert commands.count("--epochs 1\n") == commands.count("bnnk train") == 3
    output = run_python_in(SHELL, tmp_path, few_digits, stdin=commands)
    assert output.count("digit.png") == 1
    assert output.count("2 of 2 binary layers") == 3


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(notebook, tmp_path, few_digits):
    """With one epoch of few digits. Its cells need no notebook: they are plain Python."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells if "print(" in "".join(cell["source"]))
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert code.count("EPOCHS = 10") == 1
    code = code.replace("EPOCHS = 10", "EPOCHS = 1").replace("plt.show()", "plt.close()")
    assert "100 % agreement" in run_python_in(f"import matplotlib\nmatplotlib.use('agg')\n{code}", tmp_path, few_digits)


# What the tables and blocks of these pages train and import.
PAGES = [ROOT / "docs" / "coming-from.md", *(ROOT / "docs" / "papers").glob("*.md")]
RECIPES = re.compile(r"bnnk (?:train|import) [^`…\n]+")


def test_commands_of_pages_find_their_recipes():
    """Each `bnnk train` and `bnnk import` names a network, options and values that exist."""
    found = {command for page in PAGES for command in RECIPES.findall(page.read_text())}
    assert len(found) >= 30
    for command in found:
        _, _, network, *arguments = shlex.split(command)
        options = list(zip(arguments[::2], arguments[1::2], strict=True)) if "--" in command else []
        chosen = {name.removeprefix("--"): value for name, value in options if name not in ("--set", "--run")}
        if chosen.get("experiment", "").startswith("runs/"):
            continue
        overrides = [value for name, value in options if name == "--set"]
        bnn_keras.resolve(chosen.pop("network", network), overrides=overrides, **chosen)


# Every block of Python of every document, named such as "docs/deploying.md-2".
PYTHON = {
    f"{document.relative_to(ROOT)}-{number}": code
    for document in DOCUMENTS
    for number, code in enumerate(blocks(document.read_text(), "python"), 1)
}


def test_fences_say_what_they_hold_and_why_a_block_is_not_run():
    """A block of Python is run, unless its fence is "python no-test: <reason>"."""
    for document in DOCUMENTS:
        kinds = set(re.findall(r"^ *```(.+)", document.read_text(), re.MULTILINE))
        unknown = {kind for kind in kinds if not re.fullmatch(FENCES, kind)}
        assert not unknown, f"{document.name}: {unknown}"


@pytest.fixture(scope="session")
def example_files(tmp_path_factory, trained):
    """The files that the Python of the documents reads."""

    def make(folder):
        bnn_keras.export_run(trained, "openvino", folder / "mine.xml", verify_images=8)
        bnn_keras.export_run(trained, "onnx", folder / "mine.onnx", verify_images=8)
        bnn_keras.export_run(trained, "packed", folder / "mine.safetensors", verify_images=8)
        shutil.copy(folder / "mine.safetensors", folder / "lenet5.safetensors")
        shutil.copy(ROOT / "bnn_keras" / "packed_reader.py", folder)
        np.save(folder / "images.npy", np.zeros((3, 28, 28, 1), np.uint8))

    return once(tmp_path_factory, "example_files", make)


PRINTED = {
    "docs/usage.md-1": r"(8[5-9]|9\d)\.\d+\n",
    "docs/usage.md-2": r"binarize: scheme irnet 1/1 in 1 of 3 layers; real: conv1, logits; .*: conv1\n100\.0\n",
    "docs/packed-format.md-2": r"\d \d \d\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
def test_python_of_documents_runs(name, example_files, tmp_path, data_dir):
    folder = shutil.copytree(example_files, tmp_path / "work")
    printed = run_python_in(PYTHON[name], folder, data_dir)
    assert re.fullmatch(PRINTED.get(name, ""), printed)


# The walks of docs/adding.md: the files that each section with files writes, and its commands.
FILE = re.compile(r"^```python no-test: (\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WALK = re.compile(r"^## (An? .+?)\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
WALKS = {title: (FILE.findall(text), blocks(text, "sh no-test")) for title, text in WALK.findall(ADDING.read_text())}


def run_tests(file):
    """Call the tests of a file; return their number."""
    tests = [value for name, value in runpy.run_path(file).items() if name.startswith("test_")]
    for test in tests:
        with tempfile.TemporaryDirectory() as folder:
            test(**({"tmp_path": Path(folder)} if inspect.signature(test).parameters else {}))
    return len(tests)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("title", WALKS)
def test_walk_ends_with_a_green_test(title, tmp_path, monkeypatch, few_digits):
    files, commands = WALKS[title]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", few_digits)
    for name, text in files:
        (tmp_path / name).write_text(text)
    for line in "".join(commands).splitlines():
        program, *arguments = shlex.split(line)
        if program == "pytest":
            assert run_tests(*arguments) >= 1
        else:
            result = run_bnnk(*arguments)
            assert result.exit_code == 0, result.output
    for name in list(plugins._loaded):
        plugins.unload_plugin(name)


def calls_in_text(text):
    """Yield the inline code of a document that calls a function by its dotted name, as (name, syntax tree)."""
    for code in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        try:
            call = ast.parse(" ".join(code.split()), mode="eval").body
        except SyntaxError:
            continue  # a command, a formula
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            yield ast.unparse(call.func), call
        elif isinstance(call, ast.Attribute) and ast.unparse(call).startswith("bnn_keras."):
            yield ast.unparse(call), None


def test_names_and_signatures_in_text_exist():
    documents = set(DOCUMENTS) - {ROOT / "CHANGELOG.md"}  # which names what earlier versions had
    found = [item for document in documents for item in calls_in_text(document.read_text())]
    assert len(found) >= 3
    for name, call in found:
        function = pkgutil.resolve_name(re.sub(r"^tf\.", "tensorflow.", name))
        if call:
            keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            inspect.signature(function).bind_partial(*call.args, **keywords)


def assert_main_job_reached_its_accuracy(result):
    assert result["top1"] >= 97.0
    assert result["epochs"] == 60


def test_main_job_of_ci_reached_its_accuracy():
    """`.ci/run` trains it before the tests."""
    experiment = bnn_keras.resolve("lenet5").experiment
    run = Run(ROOT / runs.default_directory(experiment))
    if not run.result:
        pytest.skip("the main job of README.md was not run here")
    assert run.experiment == experiment
    assert_main_job_reached_its_accuracy(run.result)


@pytest.mark.nightly
def test_main_job_reaches_its_accuracy(tmp_path, data_dir):
    """`bnnk train lenet5` with the seed and epochs of its experiment."""
    experiment = bnn_keras.resolve("lenet5").experiment
    assert_main_job_reached_its_accuracy(bnn_keras.train(experiment, tmp_path / "run", data_dir=data_dir))


def test_cli_reference_is_up_to_date():
    from bnn_keras.cli.reference import markdown

    assert (ROOT / "docs" / "cli.md").read_text() == markdown()


def test_tables_of_options_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from keys import DOCUMENT, updated

    assert DOCUMENT.read_text() == updated(DOCUMENT.read_text())


def test_tables_of_papers_are_up_to_date(monkeypatch):
    """Update them with `python docs/papers.py`."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import papers

    for document in papers.DOCUMENTS:
        assert document.read_text() == papers.updated(document.read_text()), document.name


def test_page_of_models_is_up_to_date(monkeypatch):
    """Update it with `python docs/models.py`."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import models

    assert models.DOCUMENT.read_text() == models.document()


def test_tables_of_results_follow_from_their_figures(monkeypatch):
    """Update them with `python docs/results.py`."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import results

    assert results.DOCUMENT.read_text() == results.updated(results.DOCUMENT.read_text(), results.read())


def test_figures_of_runs_become_tables(tmp_path, monkeypatch):
    """Means, deviations and paired tests of accuracies 90, 92 and 93, 96: t = 3.5 / (s / √2) = 7 with s = √0.5."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import results

    options = [{"experiment": "short/lenet5_mnist_5k_xnor", "bits": bits, "epochs": "3"} for bits in ("1/1", "1/32")]
    table = results.Table("lenet5", "mnist_5k", 3, options)
    for group, accuracies in zip(table.groups, ((90.0, 92.0), (93.0, 96.0)), strict=True):
        for seed, top1 in enumerate(accuracies, start=1):
            run = write_run(tmp_path / group.run(seed), top1, seed=seed, **{**group.options, "epochs": 3})
    latency = {"source": str(run), "engine": results.ENGINE, "threads": 1, "bytes": 100}
    latency |= {"latency_median_ms": 0.25, "latency_p95_ms": 0.5}
    (run / results.LATENCY).write_text(json.dumps([latency]))

    rows = results.updated_figures({"of another table": {}}, tmp_path, [table])
    assert list(csv.DictReader(results.to_csv(rows).splitlines())) == list(rows.values())
    first, second = list(results.results_table(rows, table))[2:4]
    assert first.startswith(
        "| xnor 1/1 | 91.00 ± 1.41 | 2 | 91.00 | 3 | 0.1 | – | – | `bnnk train lenet5 --experiment "
    )
    assert second.startswith("| xnor 1/32 | 94.50 ± 2.12 | 2 | 94.50 | 3 | 0.1 | – | 0.250 | ")
    (test,) = [line for line in results.tests_table(rows, table) if line.startswith("| 1/32 minus")]
    p = 2 / np.pi * np.arctan(1 / 7)
    assert f"| xnor 1/32 | xnor 1/1 | +3.50 | -2.85 to +9.85 | {p:.2g} | no |" in test

    write_run(tmp_path / table.groups[0].run(3), seed=3, epochs=2, experiment="short/lenet5_mnist_5k_xnor")
    with pytest.raises(bnn_keras.BnnError, match=r"not the run of the table \(stages\.0\.epochs: 2 / 3\)"):
        results.updated_figures(rows, tmp_path, [table])


def test_pages_of_papers_have_every_published_row():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "papers").glob("*.md"))
    published = [experiment for experiment in bnn_keras.experiment.all_experiments() if experiment.published]
    assert len(published) == text.count("| exact ") + text.count("| reconstructed ")


def test_site_has_every_document():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for document in (ROOT / "docs").rglob("*.md"):
        assert re.search(rf"[ :]{document.relative_to(ROOT / 'docs')}\n", navigation), document.name


def test_usage_lists_the_files_of_a_run():
    text = (ROOT / "docs" / "usage.md").read_text()
    for name in (runs.EXPERIMENT, runs.ENVIRONMENT, runs.METRICS, runs.WEIGHTS, runs.BEST_WEIGHTS, runs.RESULT):
        assert name in text


def test_every_key_of_an_experiment_is_documented():
    text = (ROOT / "docs" / "experiments.md").read_text()
    from bnn_keras.experiment import schema

    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            for inner in re.findall(r"schema\.(\w+)", str(field.annotation)):
                yield from keys(getattr(schema, inner))

    for key in set(keys(schema.Experiment)) - {"float_top1", "float_top5"}:
        assert key in text, key


def test_documents_name_every_network_and_scheme():
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/networks.md"))
    for name in (*catalog.NETWORKS, *catalog.SCHEMES):
        assert f"`{name}`" in text


@pytest.fixture(scope="module")
def networks():
    """The module docs/networks.py and the table rows of docs/networks.md as lists of cells."""
    spec = importlib.util.spec_from_file_location("networks", ROOT / "docs" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "networks.md").read_text()
    assert text.startswith(module.HEAD)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return module, lines


@pytest.mark.nightly
def test_network_table_is_up_to_date_except_for_differences(networks):
    module, lines = networks
    goldens = module.goldens(parity)
    for golden, line in zip(goldens, lines, strict=False):
        assert line[:-2] == module.row(parity, golden)
        tf.keras.backend.clear_session()
    assert len(lines) == len(goldens) + sum(name.startswith("zoo/") for name in catalog.NETWORKS)


def test_network_table_has_differences_within_tolerance(networks):
    module, lines = networks
    for golden, line in zip(module.goldens(parity), lines, strict=False):
        assert float(line[-2]) <= parity.tolerances(golden)["output"]
        assert line[-1] == "–" or float(line[-1]) <= parity.tolerances(golden)["steps"]


@pytest.mark.nightly
def test_larq_zoo_table_is_up_to_date(networks):
    module, lines = networks
    zoo = [line.strip("| \n").split(" | ") for line in module.zoo()]
    assert lines[-len(zoo) :] == zoo


def test_links_exist():
    assert len(DOCUMENTS) > 10
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_container_installs_locked_versions_and_extras():
    text = (ROOT / "Dockerfile").read_text()
    assert '-c requirements.lock ".${EXTRAS:+[${EXTRAS}]}"' in text
    assert 'ENTRYPOINT ["bnnk"]' in text
    copied = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied >= {"bnn_keras", "cli", "experiments", "setup.py", "pyproject.toml", "README.md", "requirements.lock"}


def test_export_table_has_every_network():
    text = (ROOT / "docs" / "exports.md").read_text()
    table = text.split("## Every network")[1].split("\n## ")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert list(dict.fromkeys(rows)) == list(catalog.NETWORKS)
