"""A second process for converters and interpreters whose crash would take the program with it.

`call("module:function", *arguments)` calls a function there; what it raises is raised here. There is one such process
for a program: starting it takes seconds, most of them TensorFlow's.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from typing import Any

from bnn_keras.errors import BnnError


class Worker:
    """A process that is started with the first call, and again with the first one after a crash or `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of "module:function" with these arguments, all of which must be picklable.

        Raises:
            BnnError: The process crashed.
            Exception: What the function raises.
        """
        process = self._started()
        assert process.stdin
        assert process.stdout
        try:
            pickle.dump((function, arguments), process.stdin)
            process.stdin.flush()
            raised, result = pickle.load(process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            raise self._crash(function) from error
        if raised:
            raise result
        return result

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # libraries may have started processes of their own
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._said):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                start_new_session=True,
            )
        return self._process

    def _crash(self, function: str) -> BnnError:
        assert self._process
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self.close()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}: {lines[-1] if lines else 'no word'}"
        return BnnError(
            f"{function.replace(':', '.')} crashed ({how}); the fault is in a library it calls: nothing was "
            "written; try another format or another version of that library"
        )


_WORKER = Worker()
call = _WORKER.call
atexit.register(_WORKER.close)


def _serve() -> None:
    """Calls what it is told on standard input; results alone go to what was standard output."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks, and would call home
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
        except Exception as error:  # whatever it is belongs to the caller
            answer = (True, error)
        pickle.dump(_picklable(answer), results)
        results.flush()


def _picklable(answer: tuple[bool, Any]) -> tuple[bool, Any]:
    """The answer; an error that cannot travel as one that says the same."""
    raised, result = answer
    try:
        pickle.loads(pickle.dumps(result))
    except Exception:  # objects say themselves why they cannot travel, each in its way
        if not raised:
            raise
        return True, RuntimeError(f"{type(result).__name__}: {result}")
    return answer


if __name__ == "__main__":
    _serve()
