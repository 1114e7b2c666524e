"""Start the processes of a training on this machine, and restart all of them after one is lost. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnn_keras.errors import BnnError, LostProcessError

LOST = LostProcessError.exit_code
RESTARTS = 3
# Seconds until processes that do not end by themselves after another one was lost, or ended with an error, are killed.
GRACE = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.1


def launch(
    command: Sequence[str],
    processes: int,
    restarts: int = RESTARTS,
    tell: Callable[[str], object] = lambda line: None,
) -> int:
    """Run a command in several processes that train together, and return its exit code.

    Each process gets TF_CONFIG with free ports of the loopback interface, and its share of the visible GPUs. Process 0
    is the chief, whose standard output is shown. A process is lost if a signal ends it, or if it exits with 75 because
    another one is lost. All are then started again. Signals that end a program are passed on to all processes, which
    then stop; they are not started again.

    Args:
        command: Program and arguments.
        processes: Number of processes.
        restarts: How often to start all processes again after a loss.
        tell: Prints a line.

    Returns:
        0 if all processes end with 0; 75 if one is lost and no restart is left; otherwise the code of the first one
        that ended with another code, or 128 + number after a signal.

    Raises:
        BnnError: There are GPUs, but fewer than processes; or the program cannot be started.

    >>> launch(["true"], processes=2)
    0
    """
    shares = _shares_of_gpus(processes)
    for restart in range(restarts + 1):
        group = _Group()
        with _passed_on(group):
            group.start(command, shares)
            codes = group.wait()
        if group.received:
            return 128 + group.received
        code = _exit_code(codes)
        if code != LOST:
            return code
        left = f"starting all again ({restart + 1} of {restarts})" if restart < restarts else "no restart is left"
        lost = next((index for index, each in enumerate(codes) if each < 0), codes.index(LOST))
        reason = signal.Signals(-codes[lost]).name if codes[lost] < 0 else f"exit code {LOST}"
        tell(f"process {lost} of {processes} was lost ({reason}); {left}")
    return LOST


class _Group:
    """Processes that train together.

    Attributes:
        received: Number of the signal that was passed on to them; 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], shares: Sequence[Mapping[str, str]]) -> None:
        """Start a process for each share of the GPUs."""
        addresses = free_addresses(len(shares))
        try:
            for index, share in enumerate(shares):
                config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                self.running.append(
                    subprocess.Popen(
                        command,
                        stdout=subprocess.DEVNULL if index else None,
                        env={**os.environ, **share, "TF_CONFIG": json.dumps(config)},
                        start_new_session=True,  # Ctrl-C in a terminal then reaches them only once, from here
                    )
                )
        except OSError as error:
            self.send(signal.SIGKILL)
            raise BnnError(f"cannot start {command[0]!r} ({error.strerror}); expected a program") from error
        if self.received:  # while they were started
            self.send(self.received)

    def wait(self) -> list[int]:
        """Return the exit codes of all processes. Kill those that do not end after another one failed."""
        end = float("inf")
        try:
            while None in (codes := [process.poll() for process in self.running]):
                if any(codes) and not self.received:
                    end = min(end, time.monotonic() + GRACE)
                if time.monotonic() > end:
                    self.send(signal.SIGKILL)
                time.sleep(_POLL)
            return [process.wait() for process in self.running]
        finally:
            self.send(signal.SIGKILL)

    def pass_on(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        self.received = number
        self.send(number)

    def send(self, number: int) -> None:
        """Send a signal to the processes that run."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(number)


@contextlib.contextmanager
def _passed_on(group: _Group) -> Iterator[None]:
    """Pass signals on to a group of processes while in the context, except for ignored ones."""
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, group.pass_on) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(codes: Sequence[int]) -> int:
    """Return the exit code of all processes together: an error of their own counts more than a loss."""
    own = [code for code in codes if code > 0 and code != LOST]
    return own[0] if own else LOST if any(codes) else 0


def free_addresses(number: int) -> list[str]:
    """Return addresses with free ports of the loopback interface.

    >>> len(set(free_addresses(2)))
    2
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _shares_of_gpus(processes: int) -> list[dict[str, str]]:
    """Return CUDA_VISIBLE_DEVICES for each process; nothing without GPUs.

    Raises:
        BnnError: There are fewer GPUs than processes.
    """
    gpus = _visible_gpus()
    if not gpus:
        return [{}] * processes
    if len(gpus) < processes:
        raise BnnError(
            f"got {processes} processes for {len(gpus)} GPUs; expected at most {len(gpus)}; set --nproc, or "
            "CUDA_VISIBLE_DEVICES=-1 to train on the CPU"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[index::processes])} for index in range(processes)]


def _visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES lists, or the numbers of all NVIDIA GPUs of this machine."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        devices = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
        return [str(index) for index in range(len(devices))]
    names = [name.strip() for name in listed.split(",")]
    return [] if "-1" in names else [name for name in names if name]
