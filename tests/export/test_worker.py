"""Call functions in the worker process: results, exceptions, crashes."""

import os
import tempfile
import time

import pytest

from bnn_keras.errors import BnnError
from bnn_keras.export.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def test_all_calls_run_in_one_other_process(worker):
    assert worker.call("operator:add", 2, 3) == 5
    assert worker.call("os:getpid") == worker.call("os:getpid") != os.getpid()


def test_exceptions_are_raised_in_the_caller(worker):
    with pytest.raises(ZeroDivisionError):
        worker.call("operator:truediv", 1, 0)
    with pytest.raises(ModuleNotFoundError):
        worker.call("no_such_module:function")
    assert worker.call("operator:add", 1, 1) == 2


@pytest.mark.parametrize("module", ["larq_compute_engine", "pickle", "bnn_keras"])
def test_modules_in_the_current_folder_are_not_imported(worker, module, tmp_path, monkeypatch):
    (tmp_path / f"{module}.py").write_text("open('imported', 'w').close()\n")
    (tmp_path / "only_here.py").touch()
    monkeypatch.chdir(tmp_path)
    worker.call("importlib.util:find_spec", module)
    with pytest.raises(ModuleNotFoundError, match="only_here"):
        worker.call("only_here:function")
    assert not (tmp_path / "imported").exists()


def test_printed_output_is_ignored(worker):
    assert worker.call("builtins:print", "not a result") is None
    assert worker.call("operator:add", 1, 1) == 2


def test_a_crash_is_an_error_and_the_next_call_works(worker):
    with pytest.raises(BnnError, match=r"os.abort crashed \(SIGABRT\), which is a fault of a library"):
        worker.call("os:abort")
    assert worker.call("operator:add", 1, 1) == 2
    with pytest.raises(BnnError, match=r"os._exit crashed \(exit code 3: no output\)"):
        worker.call("os:_exit", 3)


def test_close_ends_all_processes(worker, tmp_path):
    process = worker.call("os:getpid")
    worker.call("os:system", f"(sleep 1; touch {tmp_path / 'late'}) &")
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
    worker.close()


def test_no_temporary_folder_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    message = r"cannot write temporary files \(No usable temporary directory found in \['/nowhere'\]\); .* set TMPDIR"
    with pytest.raises(BnnError, match=message):
        Worker().call("os:getpid")
