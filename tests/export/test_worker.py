import os
import time

import pytest

from bnn_keras.errors import BnnError
from bnn_keras.export.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def test_calls_in_one_other_process(worker):
    assert worker.call("operator:add", 2, 3) == 5
    assert worker.call("os:getpid") == worker.call("os:getpid") != os.getpid()


def test_what_it_raises_is_raised_here(worker):
    with pytest.raises(ZeroDivisionError):
        worker.call("operator:truediv", 1, 0)
    with pytest.raises(ModuleNotFoundError):
        worker.call("no_such_module:function")
    assert worker.call("operator:add", 1, 1) == 2


def test_what_it_prints_does_not_matter(worker):
    assert worker.call("builtins:print", "not a result") is None
    assert worker.call("operator:add", 1, 1) == 2


def test_a_crash_is_one_clear_error_and_the_next_call_works(worker):
    with pytest.raises(BnnError, match=r"os.abort crashed \(SIGABRT\); the fault is in a library it calls"):
        worker.call("os:abort")
    assert worker.call("operator:add", 1, 1) == 2
    with pytest.raises(BnnError, match=r"os._exit crashed \(exit code 3: no word\)"):
        worker.call("os:_exit", 3)


def test_close_ends_it_with_all_it_started(worker, tmp_path):
    process = worker.call("os:getpid")
    worker.call("os:system", f"(sleep 1; touch {tmp_path / 'late'}) &")
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
    worker.close()
