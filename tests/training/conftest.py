"""Trainings that several files of tests read."""

import functools

import pytest
from helpers import once
from trainings import stepping, train_with_copies


@pytest.fixture(scope="session")
def lenet5(tmp_path_factory):
    """A finished run of `stepping()` in "whole", and its copies in "killed-0" … "killed-3". Read them only."""
    return once(tmp_path_factory, "lenet5", functools.partial(train_with_copies, stepping()))
