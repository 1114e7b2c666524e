"""Tests of the checks of `bnnk doctor`."""

import re
import shutil
from importlib import metadata

import pytest
import tensorflow as tf
from helpers import ROOT, error_line, run_bnnk

from bnn_keras import doctor


def findings_by_name(data_dir):
    return {finding.name: finding for finding in doctor.examine(data_dir)}


@pytest.fixture
def fake_gpu(monkeypatch):
    """Make TensorFlow report one GPU; the returned dictionary holds its details."""
    devices = [
        tf.config.PhysicalDevice("/physical_device:CPU:0", "CPU"),
        tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU"),
    ]
    details = {"device_name": "Fake GPU"}
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: [d for d in devices if kind in (None, d.device_type)]
    )
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    return details


@pytest.mark.parametrize("capability", [(12, 0), (12, 1), (13, 0)])
def test_gpu_without_kernels_is_an_error(data_dir, fake_gpu, capability):
    fake_gpu["compute_capability"] = capability
    findings = findings_by_name(data_dir)
    version = ".".join(map(str, capability))
    gpu = findings["GPU 0"]
    assert (gpu.found, gpu.ok, gpu.optional, gpu.mark) == (f"Fake GPU, compute capability {version}", False, False, "✗")
    assert f"has no kernels for compute capability {version}; use a GPU with compute capability below 12.0" in gpu.cure
    assert findings["devices"].found == "CPU 0, GPU 0"
    result = run_bnnk("doctor", "--no-self-test", "--data-dir", data_dir)
    assert result.exit_code == 1
    assert "compute capability" in result.stdout


@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0), None])
def test_gpu_with_kernels_is_ok(data_dir, fake_gpu, capability):
    if capability:
        fake_gpu["compute_capability"] = capability
    gpu = findings_by_name(data_dir)["GPU 0"]
    assert gpu.ok
    assert gpu.found.startswith("Fake GPU")
    assert not gpu.cure


@pytest.mark.parametrize(
    ("package", "optional", "mark", "cure"),
    [("larq-zoo", True, "–", "pip install larq-zoo"), ("larq", False, "✗", "pip install larq")],
)
def test_missing_package(data_dir, monkeypatch, package, optional, mark, cure):
    without_package(monkeypatch, package)
    finding = findings_by_name(data_dir)[package]
    assert (finding.found, finding.ok, finding.optional) == ("absent", False, optional)
    assert (finding.mark, finding.cure) == (mark, cure)


def without_package(monkeypatch, package):
    version = metadata.version

    def version_without_package(name):
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", version_without_package)


def test_missing_need_is_an_error(data_dir, monkeypatch):
    without_package(monkeypatch, "nncf")
    arguments = ("doctor", "--no-self-test", "--data-dir", data_dir)
    assert run_bnnk(*arguments).exit_code == 0
    for need, package in (("int8", "nncf"), ("mnist", "dataset mnist")):
        result = run_bnnk(*arguments, "--need", need)
        assert result.exit_code == 1
        assert any(line.startswith("✗") and package in line for line in result.stdout.splitlines())
    assert run_bnnk(*arguments, "--need", "mnist_5k").exit_code == 0
    line = error_line(*arguments, "--need", "openvin")
    assert line.startswith("unknown need 'openvin'; did you mean 'openvino'? known: ")


def test_extras_are_those_of_the_package():
    (extras,) = re.findall(r"^EXTRAS = \{\n(.*?)^\}", (ROOT / "setup.py").read_text(), re.MULTILINE | re.DOTALL)
    declared = {
        name: set(re.findall(r'"([a-z0-9-]+)[<>=]', needs)) for name, needs in re.findall(r'"(\w+)": \[(.*)\]', extras)
    }
    assert declared.pop("cuda") == set()
    del declared["docs"]  # for developers, as is `test`
    assert {name: set(packages) for name, packages in doctor._EXTRAS.items()} == declared


@pytest.mark.parametrize(
    ("visible", "driver", "cuda", "found", "cure"),
    [
        ("-1", True, True, "hidden by CUDA_VISIBLE_DEVICES=-1", "unset CUDA_VISIBLE_DEVICES"),
        (None, False, True, "none: this system has no NVIDIA driver", "training runs on the CPU"),
        (None, True, False, "is built without CUDA", "pip install 'bnn-keras[cuda]'"),
        (None, True, True, "the driver is there, NVIDIA's libraries are missing", "pip install 'bnn-keras[cuda]'; "),
    ],
)
def test_reason_for_no_gpu(monkeypatch, tmp_path, visible, driver, cuda, found, cure):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(doctor, "_NVIDIA_DRIVER", tmp_path if driver else tmp_path / "none")
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)
    finding = doctor._no_gpu(optional=True)
    assert found in finding.found
    assert finding.cure.startswith(cure)


def test_little_free_disk(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    finding = doctor._free_disk("runs", tmp_path / "not" / "there")
    assert (finding.name, finding.mark) == ("free disk for runs", "–")
    assert finding.cure == "free at least 1 GB, or use another folder"


def test_failing_self_test_is_an_error(data_dir, monkeypatch):
    def failing(*args, **kwargs):
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr(doctor, "train", failing)
    result = run_bnnk("doctor", "--data-dir", data_dir)
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("✗")]
    assert "RuntimeError: no kernel" in line
