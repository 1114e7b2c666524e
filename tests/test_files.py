"""Files are written atomically, and an error of the operating system becomes one line."""

import json
import resource

import pytest

from bnn_keras import files
from bnn_keras.errors import BnnError


def test_failed_write_keeps_the_old_file(tmp_path):
    file = tmp_path / "value.json"
    files.write_json(file, {"a": 1})
    with pytest.raises(ZeroDivisionError), files.replacing(file) as temporary:
        temporary.write_text("half" * (1 // temporary.write_text("")))
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_folder_replaces_a_folder(tmp_path):
    folder = tmp_path / "model"
    for name in ("old", "new"):
        with files.replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/new"]


def test_full_disk_keeps_the_old_file(tmp_path):
    """A limit on the size of files has the effect of a full disk: a write fails after its first bytes."""
    file = tmp_path / "value.txt"
    files.write_text(file, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BnnError) as caught:
            files.write_text(file, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"cannot write '{file}' (File too large); free disk space, fix the permissions, or choose another location"
    )
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["value.txt"]


def test_reason_inside_of_a_message_of_h5py(tmp_path):
    message = "Can't write data (file write failed: time = 1, errno = 27, error message = 'File too large', buf = 0x1)"
    assert files.cannot_write(tmp_path, message).startswith(f"cannot write '{tmp_path}' (File too large); ")


def test_remove(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder", target_is_directory=True)
    for name in ("missing", "link"):
        files.remove(tmp_path / name)
    assert (tmp_path / "folder" / "file").exists()
    files.remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
