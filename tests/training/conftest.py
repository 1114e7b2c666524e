"""Trainings that several files of tests read."""

import functools

import pytest
from helpers import once
from trainings import stepping, tiny_networks, train_with_copies


@pytest.fixture
def tiny():
    """Every experiment builds the tiny network."""
    with tiny_networks():
        yield


@pytest.fixture(scope="session")
def stepped(tmp_path_factory):
    """A finished run of `stepping()` in "whole", and its copies in "killed-0" … "killed-3". Read them only.

    Its network is tiny. All checkpoints are kept: which epoch is the best depends on the rounding of the machine.
    """
    with tiny_networks():
        return once(tmp_path_factory, "stepped", functools.partial(train_with_copies, stepping(), keep=4))
