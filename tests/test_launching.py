"""`bnnk launch`, with short programs in the place of a training."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from helpers import error_line, run_bnnk

from bnn_keras import launching
from bnn_keras.cli import runs
from bnn_keras.errors import BnnError, LostProcessError
from bnn_keras.launching import launch

# Each process notes its start. `process(index, start)` is what it does then.
PROGRAM = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
start = len(list(folder.glob(f"{{index}}-*")))
(folder / f"{{index}}-{{start}}").write_text(json.dumps(dict(os.environ)))
{}
"""


def start(folder, code, processes=2, restarts=2):
    """Launch a program; return its exit code and the lines that were printed."""
    lines = []
    code = launch([sys.executable, "-c", PROGRAM.format(code), str(folder)], processes, restarts, lines.append)
    return code, lines


def started(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_processes_know_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert start(tmp_path, "") == (0, [])
    environments = [json.loads((tmp_path / f"{index}-0").read_text()) for index in (0, 1)]
    configs = [json.loads(environment["TF_CONFIG"]) for environment in environments]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in (0, 1)]
    assert configs[0]["cluster"] == configs[1]["cluster"]
    assert all(address.startswith("127.0.0.1:") for address in configs[0]["cluster"]["worker"])
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["4,7", "5"]


@pytest.mark.parametrize(
    ("loss", "reason"), [("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"), ("sys.exit(75)", "exit code 75")]
)
def test_all_start_again_after_a_loss(tmp_path, loss, reason):
    other = "index == 0 and start == 0 and sys.exit(75)"  # as a training whose other process ended
    code, lines = start(tmp_path, f"if index == 1 and start == 0: {loss}\n{other}")
    assert code == 0
    lost = "process 1" if reason == "SIGKILL" else "process 0"
    assert lines == [f"{lost} of 2 was lost ({reason}); starting all again (1 of 2)"]
    assert started(tmp_path) == ["0-0", "0-1", "1-0", "1-1"]


def test_no_restart_is_left(tmp_path):
    code, lines = start(tmp_path, "sys.exit(75)", restarts=1)
    assert code == LostProcessError.exit_code == 75
    assert [line.partition("; ")[2] for line in lines] == ["starting all again (1 of 1)", "no restart is left"]


@pytest.mark.parametrize("number", [1, 2, 143])
def test_an_error_is_not_repeated(tmp_path, number):
    assert start(tmp_path, f"sys.exit({number} if index else 75)") == (number, [])
    assert started(tmp_path) == ["0-0", "1-0"]


def test_a_process_that_hangs_after_a_loss_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "GRACE", 0.2)
    code, lines = start(tmp_path, "time.sleep(60) if index == 0 else sys.exit(75)", restarts=0)
    assert code == 75
    assert len(lines) == 1


def test_signals_are_passed_on(tmp_path):
    """Both processes stop as a training does, and are not started again."""
    code = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n(folder / f'ready-{index}').touch()\ntime.sleep(60)"
    )

    def stop():
        while not all((tmp_path / f"ready-{index}").exists() for index in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    assert start(tmp_path, code) == (143, [])
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert started(tmp_path) == ["0-0", "1-0", "ready-0", "ready-1"]


def test_launches_that_cannot_start(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(BnnError, match="got 3 processes for 2 GPUs; expected at most 2; set --nproc, or CUDA"):
        launch(["true"], 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(BnnError, match=r"cannot start '/no/program' \(No such file or directory\)"):
        launch(["/no/program"], 3)
    assert run_bnnk("launch", "--nproc", 2, "--", "evaluate").exit_code == 2
    assert run_bnnk("launch", "--", "train", "lenet5").exit_code == 2


def test_command(monkeypatch):
    """The options behind -- are those of `train`; exit codes of errors are those of their classes."""
    launched = []
    monkeypatch.setattr(runs, "launch_", lambda *arguments: launched.append(arguments) or 75)
    assert (
        run_bnnk("--debug", "launch", "--nproc", 2, "--restarts", 1, "--", "train", "lenet5", "--epochs", 1).exit_code
        == 75
    )
    ((program, processes, restarts, _),) = launched
    assert program[3:] == ["--debug", "train", "lenet5", "--epochs", "1"]
    assert (processes, restarts) == (2, 1)

    def lose(*arguments):
        raise LostProcessError("another process of this training ended")

    monkeypatch.setattr(runs, "launch_", lose)
    assert error_line("launch", "--nproc", 2, "--", "train", code=75) == "another process of this training ended"
