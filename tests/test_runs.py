"""The run directory: its lock, its files, and what is refused."""

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


def row(epoch):
    """Return a complete row of metrics."""
    keys = ("stage", "step", "first", "val_top1", "val_top5", "seconds", "images_per_second")
    return {"epoch": epoch, **dict.fromkeys(keys, 0)}


def test_default_directory(experiment):
    assert str(runs.default_directory(experiment)) == "runs/xnor_net-lenet5_mnist_5k-xnor-1w1a-adam_torch-seed1"


def test_default_directory_has_weights_before_activations():
    experiment = resolve("resnet20", bits="1/32").experiment
    assert "-irnet-1w32a-sgd-seed1" in str(runs.default_directory(experiment))


@pytest.mark.parametrize("path", ["/proc/nowhere/run", "file/run"])
def test_directory_that_cannot_be_created(path, tmp_path):
    (tmp_path / "file").write_text("")
    expected = r"cannot write .*; free disk space, fix the permissions, or choose another location"
    with pytest.raises(BnnError, match=expected), Run(tmp_path / path).owned():
        pass


def test_owner_that_starts_no_run_leaves_no_files(tmp_path):
    with Run(tmp_path / "runs" / "one").owned():
        pass
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_kept(tmp_path):
    (tmp_path / "one").mkdir()
    with Run(tmp_path / "one").owned():
        pass
    assert (tmp_path / "one").is_dir()


def test_run_has_one_owner_at_a_time(tmp_path):
    code = f"""
import sys, time
from bnn_keras.runs import Run
with Run({str(tmp_path / "one")!r}).owned():
    print("owned", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "owned"
    assert Run(tmp_path / "one").in_use
    expected = f"is in use by process {process.pid}; wait for it or stop it"
    with pytest.raises(BnnError, match=expected), Run(tmp_path / "one").owned():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not Run(tmp_path / "one").in_use
    with Run(tmp_path / "one").owned():
        assert (tmp_path / "one" / ".lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    "name", [runs.LOCK, runs.METRICS, runs.WEIGHTS, runs.EXPERIMENT, runs.CHECKPOINTS, "tensorboard/train"]
)
@pytest.mark.parametrize("exists", [True, False], ids=["", "dangling"])
def test_link_that_leaves_the_run_is_not_followed(tmp_path, experiment, name, exists):
    outside = tmp_path / "outside"
    if exists:
        outside.write_text("mine")
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(outside)
    message = rf"run/{name}' is a link to '.*outside', outside of the run; replace the link with the file"
    with pytest.raises(BnnError, match=message), Run(tmp_path / "run").owned() as run:
        run.append_metrics(row(1))
    assert outside.read_text() == "mine" if exists else not outside.exists()


def test_link_to_a_run_and_links_inside_of_it_are_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "more.jsonl").touch()
    (tmp_path / "run" / runs.METRICS).symlink_to("more.jsonl")
    (tmp_path / "link").symlink_to("run")
    with Run(tmp_path / "link").owned() as run:
        run.append_metrics(row(1))
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics] == [1]


def test_relative_teacher_of_an_earlier_version(tmp_path, monkeypatch):
    """The path was relative to the folder of the command; now it is stored as an absolute one."""
    teacher = "stages.0.distillation={teacher='runs/teacher'}"
    old = resolve("lenet5", overrides=[teacher]).experiment
    (tmp_path / "run").mkdir()
    files.write_text(tmp_path / "run" / runs.EXPERIMENT, old.to_toml())
    monkeypatch.chdir(tmp_path)
    (distillation,) = [stage.distillation for stage in Run("run").experiment.stages]
    assert distillation.teacher == str(tmp_path / "runs" / "teacher")


def test_clear_removes_only_the_files_of_a_run(tmp_path, experiment):
    run = Run(tmp_path)
    files.write_text(run / runs.EXPERIMENT, experiment.to_toml())
    (run / runs.CHECKPOINTS / "epoch-00001").mkdir(parents=True)
    (run / "notes.txt").write_text("mine")
    run.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BnnError, match=r"holds other files \(thesis.tex\) and no run; give a new --run DIR"):
        Run(tmp_path).refuse_other_files()


def test_temporary_files_of_a_killed_process_are_accepted(tmp_path):
    run = Run(tmp_path)
    with files.replacing(run / runs.ENVIRONMENT) as temporary:
        name = temporary.name
        temporary.write_text("{}")
    (run / name).write_text("half")
    run.refuse_other_files()
    run.clear()
    assert list(tmp_path.iterdir()) == []


def test_read_without_a_run(tmp_path):
    with pytest.raises(BnnError, match=r"no run in .*; give the folder that `bnnk train` wrote"):
        Run.read(tmp_path)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / runs.EXPERIMENT).write_text("network = [")
    (tmp_path / runs.RESULT).write_text("{")
    (tmp_path / runs.METRICS).write_text("{}\n{")
    run = Run.read(tmp_path)
    for attribute in ("experiment", "result", "metrics", "environment"):
        with pytest.raises(BnnError, match=str(tmp_path)):
            getattr(run, attribute)


def test_metrics_are_appended_and_truncated(tmp_path):
    run = Run(tmp_path)
    length = run.append_metrics(row(1))
    run.append_metrics(row(2))
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    run.truncate_metrics(length)
    assert [row["epoch"] for row in run.metrics] == [1]
