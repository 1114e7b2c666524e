"""Verify that the files for contributors agree with the package: citation, CI, hooks, tasks and locked versions."""

import re
import runpy

import pytest
from helpers import ROOT
from packaging.requirements import Requirement

import bnn_keras
from bnn_keras.experiment import all_experiments

HOOKS = ("ruff format", "ruff check", "mypy")
TASKS = ("test", "slow", "coverage", "lint", "types", "docs", "site", "build")


def read(name):
    return (ROOT / name).read_text()


@pytest.fixture(scope="module")
def package():
    """The arguments of `setup` in setup.py."""
    arguments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **kwargs: arguments.update(kwargs))
        runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def test_citation_is_the_version_of_the_package():
    text = read("CITATION.cff")
    assert f"\nversion: {bnn_keras.__version__}\n" in text
    assert '\n  - name: "bnn-keras contributors"\n' in text


def test_citation_has_the_papers_of_the_published_rows():
    cited = set()
    for reference in read("CITATION.cff").split("  - type: article\n")[1:]:
        title, url = (re.search(rf'{key}: "(.*)"', reference).group(1) for key in ("title", "url"))
        year = int(re.search(r"year: (\d+)", reference).group(1))
        cited.add((title, ", ".join(re.findall(r"family-names: (.*)", reference)), year, url))
    papers = [experiment.paper for experiment in all_experiments() if experiment.published]
    assert cited == {(paper.title, paper.authors, paper.year, paper.url) for paper in papers}
    assert len(cited) == 7


def test_ci_runs_on_every_supported_python(package):
    text = read(".github/workflows/ci.yml")
    versions = re.findall(r'"(\d\.\d+)"', re.search(r"python-version: \[(.*)\]", text).group(1))
    assert [f"Programming Language :: Python :: {version}" for version in versions] == package["classifiers"][:-1]
    assert "- run: bash .ci/run\n" in text


def test_hooks_run_what_ci_checks():
    assert tuple(re.findall(r"entry: (.*)", read(".pre-commit-config.yaml"))) == HOOKS
    for command in HOOKS:
        assert f".venv/bin/{command}" in read(".ci/run")


def test_contributing_names_every_task():
    assert tuple(re.findall(r"^(\w+):$", read("justfile"), re.MULTILINE)) == TASKS
    for task in TASKS:
        assert f"`just {task}`" in read("CONTRIBUTING.md")


@pytest.mark.parametrize("extra", [None, "test", "docs"])
def test_lock_pins_what_the_package_asks_for(package, extra):
    pins = dict(re.findall(r"^(\S+)==(\S+)$", read("requirements.lock"), re.MULTILINE))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for text in package["extras_require"][extra] if extra else package["install_requires"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name]), text


def test_extra_cuda_is_the_same_tensorflow(package):
    (cuda,) = map(Requirement, package["extras_require"]["cuda"])
    (tensorflow,) = (need for need in map(Requirement, package["install_requires"]) if need.name == "tensorflow")
    assert (cuda.name, cuda.extras, cuda.specifier) == ("tensorflow", {"and-cuda"}, tensorflow.specifier)


def test_recipe_without_larq_zoo_installs_every_other_dependency(package):
    block = read("docs/architecture.md").split("### Installing without Larq Zoo\n")[1].split("```")[1]
    installed = {str(Requirement(text)) for text in re.findall(r'"([^"]+)"', block)}
    versions = {"tensorflow": ">=2.21,<2.22", "tf-keras": ">=2.21,<2.22"}
    needed = {
        f"{need.name}{versions.get(need.name, need.specifier)}" + (f"; {need.marker}" if need.marker else "")
        for need in map(Requirement, package["install_requires"])
        if need.name != "larq-zoo"
    }
    assert installed == {str(Requirement(text)) for text in needed}
