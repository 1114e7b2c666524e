"""Rows of the catalog."""

import importlib

import numpy as np
import pytest
from helpers import ROOT

from bnn_keras import catalog
from bnn_keras.errors import BnnError

BUILDERS = [row for table in (catalog.NETWORKS, catalog.SCHEMES, catalog.OPTIMIZERS) for row in table.values()]


@pytest.mark.parametrize("row", BUILDERS, ids=lambda row: row.name)
def test_builder_exists(row):
    module, function = row.builder.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("row", catalog.NETWORKS.values(), ids=lambda row: row.name)
def test_scheme_of_a_network_has_its_bits(row):
    assert row.bits in catalog.SCHEMES[row.scheme].bits


@pytest.mark.parametrize("row", catalog.DATASETS.values(), ids=lambda row: row.name)
def test_mean_and_deviation_of_a_dataset_have_one_value_per_channel(row):
    assert len(row.mean) == len(row.std) == row.input_shape[-1]
    assert all(0 < value < 1 for value in (*row.mean, *row.std))


def test_mnist_5k_has_the_mean_and_deviation_of_its_images():
    """Up to the difference between its 4,000 training images and MNIST's 60,000."""
    row = catalog.DATASETS["mnist_5k"]
    pixels = np.load(ROOT / "bnn_keras" / "data" / "mnist_5k" / "mnist_5k.npz")["images"] / 255
    training = pixels[np.arange(len(pixels)) % 5 != 4]
    assert (training.mean(), training.std()) == pytest.approx((row.mean[0], row.std[0]), abs=1e-3)


@pytest.mark.parametrize("kind", list(catalog.TABLES))
def test_unknown_name(kind):
    with pytest.raises(BnnError, match=f"unknown {kind} 'nothing'.*known: "):
        catalog.find(kind, "nothing")
