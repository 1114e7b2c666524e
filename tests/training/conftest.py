"""Trainings that several files of tests read."""

import functools

import pytest
from helpers import once
from trainings import stepping, train_with_copies

from bnn_keras import checkpoints


@pytest.fixture(scope="session")
def lenet5(tmp_path_factory):
    """A finished run of `stepping()` in "whole", and its copies in "killed-0" … "killed-3". Read them only.

    All checkpoints are kept: which epoch is the best depends on the rounding of the machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "KEPT", 4)
        return once(tmp_path_factory, "lenet5", functools.partial(train_with_copies, stepping()))
