import json
import os
import signal
import subprocess
import sys

import pytest

from bnn_keras import files, runs
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.runs import Run


@pytest.fixture
def experiment():
    return resolve("lenet5").experiment


def test_default_directory(experiment):
    assert str(runs.default_directory(experiment)) == "runs/xnor_net-lenet5_mnist_5k-xnor-1w1a-adam_torch-seed1"


def test_replacing_is_all_or_nothing(tmp_path):
    file = tmp_path / "value.json"
    files.write_json(file, {"a": 1})
    with pytest.raises(ZeroDivisionError), files.replacing(file) as temporary:
        temporary.write_text("half" * (1 // temporary.write_text("")))
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_no_room_for_a_file(tmp_path):
    """A limit on the size of a file stands for a full disk: both make a write fail in its middle."""
    file = tmp_path / "value.txt"
    files.write_text(file, "old")
    code = f"""
import resource
from pathlib import Path
from bnn_keras import files, runs
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_text(Path({str(file)!r}), "x" * 5000)
except runs.BnnError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"cannot write '{file}' (File too large); make room")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["value.txt"]


@pytest.mark.parametrize("place", ["/proc/nowhere/run", "file/run"])
def test_no_place_for_a_run(place, tmp_path):
    (tmp_path / "file").write_text("")
    expected = r"cannot write .*; make room or allow it there, or choose another place"
    with pytest.raises(BnnError, match=expected), Run(tmp_path / place).owned():
        pass


def test_an_owner_that_writes_nothing_leaves_nothing(tmp_path):
    with Run(tmp_path / "runs" / "one").owned():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays(tmp_path):
    (tmp_path / "one").mkdir()
    with Run(tmp_path / "one").owned():
        pass
    assert (tmp_path / "one").is_dir()


def test_one_owner_at_a_time(tmp_path):
    code = f"""
import sys, time
from bnn_keras.runs import Run
with Run({str(tmp_path / "one")!r}).owned():
    print("owned", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "owned"
    expected = f"is in use by process {process.pid}; wait for it or stop it"
    with pytest.raises(BnnError, match=expected), Run(tmp_path / "one").owned():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Run(tmp_path / "one").owned():
        assert (tmp_path / "one" / ".lock").read_text() == f"{os.getpid()}\n"


def test_clear_removes_a_run_and_nothing_else(tmp_path, experiment):
    run = Run(tmp_path)
    files.write_text(run / runs.EXPERIMENT, experiment.to_toml())
    (run / runs.CHECKPOINTS / "epoch-00001").mkdir(parents=True)
    (run / "notes.txt").write_text("mine")
    run.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_strangers_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BnnError, match=r"holds other files \(thesis.tex\) and no run; give a new --run DIR"):
        Run(tmp_path).refuse_strangers()


def test_what_a_killed_process_left_is_no_stranger(tmp_path):
    run = Run(tmp_path)
    with files.replacing(run / runs.ENVIRONMENT) as temporary:
        name = temporary.name
        temporary.write_text("{}")
    (run / name).write_text("half")
    run.refuse_strangers()
    run.clear()
    assert list(tmp_path.iterdir()) == []


def test_reading_no_run(tmp_path):
    with pytest.raises(BnnError, match=r"no run in .*; give the folder that `bnnk train` wrote"):
        Run.read(tmp_path)


def test_reading_a_damaged_run(tmp_path):
    (tmp_path / runs.EXPERIMENT).write_text("network = [")
    (tmp_path / runs.RESULT).write_text("{")
    (tmp_path / runs.METRICS).write_text("{}\n{")
    run = Run.read(tmp_path)
    for attribute in ("experiment", "result", "metrics", "environment"):
        with pytest.raises(BnnError, match=str(tmp_path)):
            getattr(run, attribute)


def test_metrics_are_appended_and_truncated(tmp_path):
    run = Run(tmp_path)
    length = run.append_metrics({"epoch": 1})
    run.append_metrics({"epoch": 2})
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    run.truncate_metrics(length)
    assert [row["epoch"] for row in run.metrics] == [1]
