"""Verify that only the networks of Larq Zoo need Larq Zoo."""

import sys
from importlib import metadata

import pytest
import tensorflow as tf
from helpers import error_line

import bnn_keras
from bnn_keras.doctor import examine
from bnn_keras.models import load_teacher

MESSAGE = "network 'zoo/quicknet' needs Larq Zoo, which is not installed; run pip install larq-zoo"


@pytest.fixture(autouse=True)
def _without_larq_zoo(monkeypatch):
    monkeypatch.setitem(sys.modules, "larq_zoo", None)  # `import larq_zoo` raises ImportError


def test_its_networks_and_teachers_are_one_clear_error():
    with pytest.raises(bnn_keras.BnnError, match=MESSAGE):
        bnn_keras.build_model(bnn_keras.resolve("zoo/quicknet").experiment)
    with pytest.raises(bnn_keras.BnnError, match=MESSAGE):
        load_teacher("zoo/quicknet", bnn_keras.resolve("resnet18").experiment)
    assert MESSAGE in error_line("summary", "zoo/quicknet")


def test_other_networks_build():
    assert isinstance(bnn_keras.build_model(bnn_keras.resolve("lenet5").experiment), tf.keras.Model)


def test_doctor_calls_it_optional(monkeypatch):
    version = metadata.version

    def version_of(name):
        if name == "larq-zoo":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", version_of)
    (finding,) = (finding for finding in examine() if finding.name == "larq-zoo")
    assert (finding.mark, finding.cure) == ("–", "pip install larq-zoo")
