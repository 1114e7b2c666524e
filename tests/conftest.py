"""Fixtures for every test: golden values, float64, prepared data, the command line."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import bnn_keras  # noqa: F401  (before TensorFlow: it chooses Keras 2)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--update", action="store_true", help="rewrite the golden copies of experiments, and skip their test"
    )


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


def _golden_module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "golden" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def procedural():
    """The generator of golden weights and inputs."""
    return _golden_module("procedural")


@pytest.fixture(scope="session")
def parity():
    """The comparison of a network with its golden file."""
    return _golden_module("parity")


@pytest.fixture(autouse=True)
def _no_models_of_other_tests():
    """Keras keeps what a test built until told not to, TensorFlow a copy of each kernel that has a custom gradient."""
    modules = len(sys.modules)
    yield
    if "tensorflow" in sys.modules:
        import tensorflow as tf
        from tensorflow.python.framework.ops import gradient_registry

        tf.keras.backend.clear_session()
        for name in [name for name in gradient_registry.list() if name.startswith("CustomGradient")]:
            del gradient_registry._registry[name]
        gc.collect()
        if len(sys.modules) > modules:
            gc.freeze()  # what is imported stays; later collections need not look through it


@pytest.fixture(autouse=True)
def _no_quantized_scope_of_other_tests():
    """Else later tests read quantized kernels where they mean latent ones."""
    yield
    if "larq" in sys.modules:
        assert not sys.modules["larq"].context.should_quantize()


@pytest.fixture
def float64():
    """Layers made in the test compute in float64."""
    import tensorflow as tf

    tf.keras.backend.set_floatx("float64")
    yield
    tf.keras.backend.set_floatx("float32")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where mnist_5k is prepared, once for all tests."""
    from bnn_keras.data import open_dataset

    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    open_dataset("mnist_5k", folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_dir):
    """A finished run of two epochs of lenet5 on mnist_5k. Read it only."""
    from bnn_keras import resolve, train

    directory = tmp_path_factory.mktemp("runs") / "trained"
    train(resolve("lenet5", epochs=2).experiment, directory, data_dir=data_dir)
    return directory


@pytest.fixture(scope="session")
def weights_of():
    """Reads a run's file of weights: {name: array}."""
    import h5py

    def read(file):
        values = {}
        with h5py.File(file) as stream:
            stream.visititems(
                lambda name, item: values.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        assert values
        return values

    return read


@pytest.fixture(scope="session")
def same_weights(weights_of):
    """Whether two files of weights are the same, bit for bit."""

    def same(one, other):
        one, other = weights_of(one), weights_of(other)
        return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)

    return same


@pytest.fixture
def invoke():
    """Runs `bnnk` in this process; the result has exit_code, stdout, stderr."""
    from bnn_keras.cli import main

    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def fails(invoke):
    """Runs `bnnk`, which shall fail with one line and no traceback; returns that line."""

    def run(*args, code=1):
        result = invoke(*args)
        assert result.exit_code == code, result.output
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("Error: "), result.stderr
        assert "Traceback" not in result.output
        assert result.stdout == ""
        return last.removeprefix("Error: ")

    return run


@pytest.fixture
def python():
    """Runs Python code in a fresh interpreter and returns what it prints."""

    def run(code, **options):
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.strip()

    return run
