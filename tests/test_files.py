"""Files are written atomically, and an error of the operating system becomes one line."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading

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


def test_folder_is_restored_if_it_cannot_be_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    real = os.replace

    def interrupted(source, target):
        if target == folder and (source / "new").exists():
            raise KeyboardInterrupt
        real(source, target)

    new = tmp_path / "temporary"
    new.mkdir()
    (new / "new").write_text("new")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.replace(new, folder)
    shutil.rmtree(new)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/old"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stopped_process_leaves_no_temporary_file(tmp_path, number):
    """Also if the signal comes twice."""
    file = tmp_path / "table.csv"
    file.write_text("old")
    code = f"""
import os, pathlib, signal, sys
from bnn_keras import files
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
with files.replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    try:
        os.kill(os.getpid(), {number})
    finally:
        if {number} != {signal.SIGINT}:
            os.kill(os.getpid(), {number})
"""
    process = subprocess.run([sys.executable, "-c", code, file], capture_output=True, check=False)
    assert process.returncode == (-number if number == signal.SIGINT else 128 + number)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_signal_handlers_are_restored_and_other_threads_can_write(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with files.replacing(tmp_path / "a") as temporary:
        temporary.write_text("a")
        assert signal.getsignal(signal.SIGTERM) is not before
        thread = threading.Thread(target=files.write_text, args=(tmp_path / "b", "b"))
        thread.start()
        thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


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


def test_owner_of_a_lock(tmp_path):
    with (tmp_path / ".lock").open("w+") as lock:
        assert files.owner(lock) == "another process"
        lock.write("4711\n")
        assert files.owner(lock) == "process 4711"
