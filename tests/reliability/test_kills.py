"""A very short run of `kills.py`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_killed_trainings_end_equally(signal):
    """In a process that has not used TensorFlow: it is forked."""
    command = [sys.executable, Path(__file__).with_name("kills.py"), "--runs", "1", "--kills", "2", "--signal", signal]
    assert subprocess.run(command, check=False).returncode == 0
