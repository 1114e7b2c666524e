"""Verify the wheel: its files, and that the command works without the checkout."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a clean copy, so that it has no files of an earlier build."""
    copy = tmp_path_factory.mktemp("source") / "bnn-keras"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_has_every_file_of_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"bnn_keras"}
    for suffix in ("py", "npz", "safetensors", "toml"):
        for path in (ROOT / "bnn_keras").rglob(f"*.{suffix}"):
            assert str(path.relative_to(ROOT)) in names
    for folder in ("cli", "experiments"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.toml")]:
            assert f"bnn_keras/{path.relative_to(ROOT)}" in names
    assert {"bnn_keras/py.typed", "bnn_keras/export/c/kernels.c", "bnn_keras/export/c/program.c"} <= set(names)
    assert {"bnn_keras/report/page.html", "bnn_keras/report/page.css"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def test_command_works_without_the_checkout(wheel, tmp_path):
    """The package comes from the wheel, its dependencies from this environment."""
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True)

    def run(code, *arguments):
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {code}", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    bnnk = "from bnn_keras.cli import main; main()"
    experiments = {row["name"] for row in json.loads(run(bnnk, "list", "experiments", "--json"))}
    assert {"xnor_net/lenet5_mnist_5k", "ir_net/resnet20_cifar10"} <= experiments
    assert "lenet5" in run(bnnk, "list", "networks")
    assert run("import bnn_keras.cli; print(bnn_keras.cli.__file__)").startswith(str(target))
