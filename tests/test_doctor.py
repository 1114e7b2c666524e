"""Tests of the checks of `bnnk doctor`."""

from importlib import metadata

import pytest
import tensorflow as tf
from helpers import run_bnnk

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
    result = run_bnnk("doctor", "--data-dir", data_dir)
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
    version = metadata.version

    def version_without_package(name):
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", version_without_package)
    finding = findings_by_name(data_dir)[package]
    assert (finding.found, finding.ok, finding.optional) == ("absent", False, optional)
    assert (finding.mark, finding.cure) == (mark, cure)
