"""Fixtures for every test: float64, prepared data, a trained run."""

import gc
import os
import shutil
import sys
import tempfile

import pytest
from helpers import free_memory, once, shared_folder

import bnn_keras

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_addoption(parser):
    parser.addoption(
        "--update", action="store_true", help="rewrite the golden copies of experiments, and skip their test"
    )


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Tests, and the processes they start, write no key into the user's home and leave no files in /tmp.

    AutoGraph writes a file for each function that it converts, and those of killed processes stay.
    """
    os.environ["XDG_DATA_HOME"] = str(shared_folder(tmp_path_factory) / "data_home")
    before, temporary = os.environ.get("TMPDIR"), tmp_path_factory.getbasetemp() / "temporary"
    temporary.mkdir()
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    yield
    tempfile.tempdir = None
    del os.environ["TMPDIR"]
    if before is not None:
        os.environ["TMPDIR"] = before
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_models_of_other_tests():
    """Keras keeps what a test built until told not to, TensorFlow a copy of each kernel that has a custom gradient."""
    modules = len(sys.modules)
    yield
    if "tensorflow" in sys.modules:
        free_memory()
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


@pytest.fixture
def eager():
    """Train without graphs, as `trainings.eagerly`."""
    from trainings import eagerly

    with eagerly():
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where mnist_5k is prepared, once for all tests."""

    def prepare(folder):
        from bnn_keras.data import open_dataset
        from bnn_keras.location import DataLocation

        open_dataset("mnist_5k", DataLocation(str(folder)))

    return str(once(tmp_path_factory, "tensorflow_datasets", prepare))


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """Where mnist_5k is prepared with a tenth of its images."""

    def prepare(folder):
        import numpy as np

        from bnn_keras.data import mnist_5k, open_dataset
        from bnn_keras.location import DataLocation

        with np.load(mnist_5k.FILE) as arrays:
            selected = np.arange(5000) % 50 < 5  # every fifth image is a test image
            np.savez(folder / "digits.npz", **{name: array[selected] for name, array in arrays.items()})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mnist_5k, "FILE", folder / "digits.npz")
            open_dataset("mnist_5k", DataLocation(str(folder)))

    return str(once(tmp_path_factory, "few_digits", prepare))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_dir):
    """A finished run of two epochs of lenet5 on mnist_5k. Read it only."""

    def train(folder):

        bnn_keras.train(bnn_keras.resolve("lenet5", epochs=2).experiment, folder, data_dir=data_dir)

    return once(tmp_path_factory, "trained", train)
