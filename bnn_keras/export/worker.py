"""Call converters and interpreters in a second process, because a crash of native code ends the process.

`call("module:function", *arguments)` calls a function there, and returns its result or raises its exception. A program
has one shared worker, because starting a process takes seconds, most of them to import TensorFlow.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any

from bnn_keras import files
from bnn_keras.errors import BnnError

# Python 3.10 has no option -P: without this, a module in the current folder replaces the library of the same name.
_START = f"import sys; sys.path = [path for path in sys.path if path]; from {__name__} import serve; serve()"


@dataclasses.dataclass(frozen=True)
class _Process:
    """A running worker process.

    Attributes:
        handle: The process.
        requests: Pipe to its standard input.
        results: Pipe from its standard output.
        log: File with its standard error.
    """

    handle: subprocess.Popen[bytes]
    requests: IO[bytes]
    results: IO[bytes]
    log: IO[bytes]


class Worker:
    """A process that calls functions. It starts with the first call, and again after a crash or `close`."""

    def __init__(self) -> None:
        self._process: _Process | None = None

    def call(self, function: str, *arguments: Any) -> Any:
        """Return the result of "module:function" for picklable arguments.

        Raises:
            BnnError: The process crashed.
            Exception: The function raised it.
        """
        process = self._start()
        try:
            pickle.dump((function, arguments), process.requests)
            process.requests.flush()
            raised, result = pickle.load(process.results)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            raise self._crash(function, process) from error
        if raised:
            raise result
        return result

    def close(self) -> None:
        """End the process and all processes that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.handle.pid, signal.SIGKILL)
        process.handle.wait()
        for stream in (process.requests, process.results, process.log):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _start(self) -> _Process:
        if self._process is None:
            with files.writing_temporary():
                log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
            handle = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                start_new_session=True,
            )
            assert handle.stdin
            assert handle.stdout
            self._process = _Process(handle, handle.stdin, handle.stdout, log)
        return self._process

    def _crash(self, function: str, process: _Process) -> BnnError:
        code = process.handle.wait()
        process.log.seek(0)
        lines = process.log.read().decode(errors="replace").strip().splitlines()
        self.close()
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}: {lines[-1] if lines else 'no output'}"
        return BnnError(
            f"{function.replace(':', '.')} crashed ({reason}), which is a fault of a library that it calls; nothing "
            "was written: try another format or another version of that library"
        )


_WORKER = Worker()
call, close = _WORKER.call, _WORKER.close
atexit.register(close)


def serve() -> None:
    """Answer calls from standard input, in the worker process. Only results are written to standard output."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks and sends usage reports
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            module, name = function.split(":")
            answer = (False, getattr(importlib.import_module(module), name)(*arguments))
        except Exception as error:  # the caller handles it
            answer = (True, error)
        pickle.dump(_picklable(answer), results)
        results.flush()


def _picklable(answer: tuple[bool, Any]) -> tuple[bool, Any]:
    """Return the answer, with an exception that cannot be pickled replaced by a RuntimeError of the same message."""
    raised, result = answer
    try:
        pickle.loads(pickle.dumps(result))
    except Exception:  # pickling calls methods of the object, which may raise anything
        if not raised:
            raise
        return True, RuntimeError(f"{type(result).__name__}: {result}")
    return answer
