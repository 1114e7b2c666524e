"""What a wheel holds, away from the checkout."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a clean copy, so that nothing of an earlier build slips in."""
    copy = tmp_path_factory.mktemp("source") / "bnn-keras"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"bnn_keras"}
    for path in [*(ROOT / "bnn_keras").rglob("*.py"), *(ROOT / "bnn_keras").rglob("*.npz")]:
        assert str(path.relative_to(ROOT)) in names
    for folder in ("cli", "experiments"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.toml")]:
            assert f"bnn_keras/{path.relative_to(ROOT)}" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_command_works_outside_the_checkout(wheel, tmp_path):
    """Installed elsewhere; the dependencies are those of this environment."""
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True)
    code = f"import sys; sys.path.insert(0, {str(target)!r}); from bnn_keras.cli import main; main()"

    def bnnk(*arguments):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    names = [row["name"] for row in json.loads(bnnk("list", "experiments", "--json"))]
    assert {"xnor_net/lenet5_mnist_5k", "ir_net/resnet20_cifar10"} <= set(names)
    assert "lenet5" in bnnk("list", "networks")
    where = f"import sys; sys.path.insert(0, {str(target)!r}); import bnn_keras.cli; print(bnn_keras.cli.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert found.startswith(str(target))
