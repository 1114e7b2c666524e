"""A very short run of `kills.py`."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.nightly
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_killed_trainings_end_equally(tmp_path, signal):
    specification = importlib.util.spec_from_file_location("kills", Path(__file__).with_name("kills.py"))
    kills = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(kills)
    assert kills.compare(tmp_path, runs=1, kills=2, epochs=2, signal=signal, processes=1, seed=1) == 0
