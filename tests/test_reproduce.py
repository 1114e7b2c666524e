"""`reproduce`: which runs are trained, and the table of measured and published accuracies."""

import csv
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from helpers import ROOT, once, run_bnnk, same_weights
from trainings import eagerly, small_experiment

from bnn_keras import reproduce as module
from bnn_keras.errors import BnnError
from bnn_keras.experiment import experiment_names, load_experiment, resolve
from bnn_keras.reproduce import ReproductionRow, reproduce, write_table
from bnn_keras.runs import Run

pytestmark = pytest.mark.usefixtures("eager")

NAMES = [
    "first-xnor-1w1a-adam_torch-seed1",
    "first-xnor-1w1a-adam_torch-seed2",
    "second-binarynet-1w1a-adam_torch-seed1",
    "second-binarynet-1w1a-adam_torch-seed2",
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Experiment files, and in "runs" two runs of each of the first two. Read them only.

    "first" has a published accuracy, "second" has none, and the dataset of "absent" is not available.
    """

    def make(folder):
        size = {"epochs": 1, "examples": 256, "batch_size": 128}
        first = small_experiment(**size).to_toml(named=False)
        (folder / "first.toml").write_text(
            first.replace("[network]", '[published]\nof = "best"\ntop1 = 99.5\n\n[network]', 1)
        )
        (folder / "second.toml").write_text(small_experiment(scheme="binarynet", **size).to_toml(named=False))
        (folder / "absent.toml").write_text(resolve("lenet5", dataset="mnist").experiment.to_toml(named=False))
        with eagerly():
            reproduce([f"{folder}/first.toml", f"{folder}/second.toml"], seeds=2, directory=folder / "runs")

    return once(tmp_path_factory, "reproduced", make)


@pytest.fixture
def rows(folder):
    """The rows of "first" and "second"."""
    return reproduce([f"{folder}/first.toml", f"{folder}/second.toml"], seeds=2, directory=folder / "runs")


def test_missing_runs_are_trained(folder, rows):
    first, second = rows
    assert sorted(path.name for path in (folder / "runs").iterdir()) == NAMES
    results = [Run(folder / "runs" / name).result["top1"] for name in NAMES[:2]]
    assert list(first.last) == results
    assert results[0] != results[1]
    assert first.last.mean == pytest.approx(sum(results) / 2)
    assert first.last.deviation == pytest.approx(abs(results[0] - results[1]) / 2**0.5)
    assert first.difference == pytest.approx(first.best.mean - 99.5)
    assert 0 < first.hours < 0.1
    assert re.match(r"\d+ × ", first.hardware)
    assert first.command == f"bnnk train lenet5 --experiment {folder}/first.toml"
    assert (second.published, second.difference) == (None, None)


def test_command_trains_the_run_of_its_row(folder, tmp_path):
    file = shutil.copy(folder / "first.toml", tmp_path / "of two words.toml")
    [row] = reproduce([str(file)], directory=tmp_path / "runs", overrides=["seed=7", "data.examples=128"])
    assert row.finished
    result = run_bnnk(*shlex.split(row.command)[1:], "--run", tmp_path / "again", "--quiet")
    assert result.exit_code == 0, result.output
    assert same_weights(row.finished[0] / "weights.h5", tmp_path / "again" / "weights.h5")


def test_finished_runs_are_kept_and_unfinished_runs_resumed(folder, rows, tmp_path):
    directory = shutil.copytree(folder / "runs", tmp_path / "runs")
    first, second = (directory / name for name in NAMES[:2])
    written = (first / "weights.h5").stat().st_mtime_ns
    (second / "result.json").unlink()
    seen = []
    again = reproduce(
        [f"{folder}/first.toml"], seeds=2, directory=directory, after_run=lambda rows: seen.append(list(rows))
    )
    assert again[0].last == rows[0].last
    assert (first / "weights.h5").stat().st_mtime_ns == written
    assert [len(rows[0].finished) for rows in seen] == [1, 2]


def test_tables(rows, tmp_path):
    csv_file, md_file = write_table(rows, tmp_path / "results" / "both")
    with csv_file.open() as stream:
        read = list(csv.DictReader(stream))
    assert [row["experiment"] for row in read] == ["first", "second"]
    assert float(read[0]["last"]) == rows[0].last.mean
    assert [row["published_of"] for row in read] == ["best", ""]
    assert read[0]["reconstructed"] == "True"
    assert len(read[0]["runs"].split("; ")) == 2
    assert float(read[0]["best"]) == pytest.approx(np.mean([run.result["best_top1"] for run in rows[0].finished]))
    assert read[0]["best_chosen_on"] == "test"
    text = md_file.read_text()
    assert f"| first* | 1/1 | 1 | 99.5 (best) | {rows[0].last} | {rows[0].best} |" in text
    assert str(rows[0].last) == f"{rows[0].last.mean:.2f} ± {rows[0].last.deviation:.2f} (2 seeds)"
    assert "| second* | 1/1 | 1 | – |" in text


@pytest.mark.parametrize(("of", "difference"), [("best", 0.5), ("last", -1.5)])
def test_figures_of_the_same_epoch_are_compared(folder, tmp_path, of, difference):
    """The published accuracy is 99.5 %, the run has 98 % after its last epoch and 100 % after its best one."""
    run = Run(shutil.copytree(folder / "runs" / NAMES[0], tmp_path / "run"))
    (run / "result.json").write_text(json.dumps({**run.result, "top1": 98.0, "best_top1": 100.0}))
    experiment = load_experiment(folder / "first.toml")
    published = experiment.published.model_copy(update={"of": of})
    row = ReproductionRow(experiment.model_copy(update={"published": published}), "first", finished=(run,))
    assert row.difference == difference


def test_lost_best_weights_are_not_compared(folder, tmp_path):
    run = Run(shutil.copytree(folder / "runs" / NAMES[0], tmp_path / "run"))
    (run / "result.json").write_text(json.dumps({**run.result, "best_top1": None}))
    row = ReproductionRow(load_experiment(folder / "first.toml"), "first", finished=(run,))
    assert (row.best.mean, row.difference, str(row.best)) == (None, None, "–")


def test_header_of_the_table_in_the_repository(rows, tmp_path):
    """`experiments/results` was written by an earlier run of the same code."""
    _, md_file = write_table(rows, tmp_path / "both")
    committed = (ROOT / "experiments" / "results" / "fashion_mnist.md").read_text()
    assert md_file.read_text().splitlines()[:7] == committed.splitlines()[:7]


def test_failed_run_does_not_stop_the_others(folder, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("bnn_keras.data.preparing._reachable", lambda url: False)
    names = [f"{folder}/absent.toml", f"{folder}/first.toml"]
    absent, first = reproduce(names, directory=tmp_path / "runs", data_dir=str(tmp_path / "none"))
    assert absent.last.mean is None
    assert re.match("seed 1: dataset 'mnist' is not prepared", absent.failures[0])
    assert first.last == rows[0].last[:1]
    assert not list((tmp_path / "runs").glob("absent*"))


def test_run_from_the_weights_of_another_one_is_no_reproduction(folder, tmp_path):
    run = Run(shutil.copytree(folder / "runs" / NAMES[0], tmp_path / "runs" / NAMES[0]))
    start = {"start_from": {"path": "/runs/float/weights.h5", "sha256": ""}}
    (run / "environment.json").write_text(json.dumps({**run.environment, **start}))
    (row,) = reproduce([f"{folder}/first.toml"], directory=tmp_path / "runs")
    assert row.failures == (
        f"seed 1: '{run.directory}' was started from '/runs/float/weights.h5', which is not its recipe; rename the "
        "folder, or choose another folder of runs",
    )
    assert not row.finished


def test_paper_stands_for_its_experiments(monkeypatch, tmp_path):
    def refuse(experiment, *args, **options):
        raise BnnError("not now")

    monkeypatch.setattr(module, "train", refuse)
    rows = reproduce(["ir_net", "lenet5_mnist", "ir_net/resnet20_cifar10"], directory=tmp_path)
    expected = [name for name in experiment_names() if name.startswith("ir_net/")]
    assert [row.experiment.name for row in rows] == [*expected, "xnor_net/lenet5_mnist"]
    assert {row.failures for row in rows} == {("seed 1: not now",)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("irnet", "unknown experiment or paper 'irnet'; did you mean 'ir_net'"),
        ("ir_net/resnet21_cifar10", "unknown experiment 'ir_net/resnet21_cifar10'"),
        ("nowhere.toml", "no experiment file 'nowhere.toml'"),
    ],
)
def test_no_run_is_trained_if_a_name_is_unknown(name, message, tmp_path):
    with pytest.raises(BnnError, match=message):
        reproduce(["lenet5_mnist_5k", name], directory=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_command(folder, tmp_path):
    directory = shutil.copytree(folder / "runs", tmp_path / "runs")
    result = run_bnnk("reproduce", folder / "first.toml", "--seeds", 2, "--runs", directory, "--quiet")
    assert result.exit_code == 0, result.output
    assert "99.5" in result.stdout
    assert (directory / "reproduced.csv").is_file()
    assert (directory / "reproduced.md").is_file()
