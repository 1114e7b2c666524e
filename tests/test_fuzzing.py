"""Damaged files give an error in one line or a correct result, and an error changes no file.

Rerun a part with `pytest -m nightly tests/test_fuzzing.py -k runs`, and one case of it as `support/fuzzing.py` says.
"""

import fuzzing
import pytest
from helpers import once

MAX_MEMORY = 2 << 30  # bytes above those of the first case

# Cases, and seconds after which no case is begun.
LIMITS = {
    "sidecars": (600, 90),
    "runs": (1134, 420),
    "images": (1500, 90),
    "arrays": (1000, 60),
    "old_weights": (100, 45),
    "resealed_checkpoints": (20, 30),
}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return once(tmp_path_factory, "fuzzing", fuzzing.make_files)


@pytest.mark.nightly
@pytest.mark.parametrize("part", fuzzing.PARTS)
def test_damaged_files(files, part, record_property, capsys):
    report = fuzzing.fuzz(files, part, *LIMITS[part])
    for name, value in {**report.outcomes, "memory": report.memory, "seconds": report.seconds}.items():
        record_property(name, value)
    with capsys.disabled():
        print(f"\n{part}: {report}")
    assert not report.failures, "\n".join(report.failures)
    assert report.memory < MAX_MEMORY
