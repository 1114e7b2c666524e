import importlib

import pytest

from bnn_keras import catalog
from bnn_keras.errors import BnnError

BUILDERS = [row for table in (catalog.NETWORKS, catalog.SCHEMES, catalog.OPTIMIZERS) for row in table.values()]


@pytest.mark.parametrize("row", BUILDERS, ids=lambda row: row.name)
def test_builder_exists(row):
    module, function = row.builder.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("row", catalog.NETWORKS.values(), ids=lambda row: row.name)
def test_a_networks_own_scheme_offers_its_bits(row):
    assert row.bits in catalog.SCHEMES[row.scheme].bits


@pytest.mark.parametrize("kind", list(catalog.TABLES))
def test_unknown_name(kind):
    with pytest.raises(BnnError, match=f"unknown {kind} 'nothing'.*known: "):
        catalog.find(kind, "nothing")
