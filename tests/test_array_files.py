"""Files of named arrays are verified by their digest."""

import hashlib

import numpy as np
import pytest

from bnn_keras import array_files

ARRAYS = {"first": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1], "second": np.ones((), np.float32)}


def test_arrays_are_read_as_written(tmp_path):
    file = tmp_path / "arrays.safetensors"
    read = array_files.read(file, array_files.write(file, ARRAYS))
    assert read.keys() == ARRAYS.keys()
    assert all(np.array_equal(read[name], array) for name, array in ARRAYS.items())


@pytest.mark.parametrize("content", [None, b"", b"arrays"])
def test_other_content_does_not_match_the_digest(tmp_path, content):
    file = tmp_path / "arrays.safetensors"
    digest = array_files.write(file, ARRAYS)
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="its content does not match its digest"):
        array_files.read(file, digest if content is not None else None)


def test_file_of_another_format(tmp_path):
    file = tmp_path / "arrays.safetensors"
    file.write_bytes(b"arrays")
    with pytest.raises(ValueError, match=r"(?i)header"):
        array_files.read(file, hashlib.sha256(b"arrays").hexdigest())
