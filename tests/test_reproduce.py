import csv
import re

import pytest
from helpers import run_bnnk

from bnn_keras import reproduce as module
from bnn_keras.errors import BnnError
from bnn_keras.experiment import experiment_names, resolve
from bnn_keras.reproduce import reproduce, write_table
from bnn_keras.runs import Run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two experiments that train in seconds, one with a published figure, and one whose data cannot be had."""
    folder = tmp_path_factory.mktemp("experiments")
    quick = resolve("lenet5", epochs=1, batch_size=500).experiment.to_toml(named=False)
    (folder / "one.toml").write_text(quick.replace("[network]", "[published]\ntop1 = 99.5\n\n[network]", 1))
    (folder / "two.toml").write_text(
        quick.replace('name = "xnor"', 'name = "binarynet"').replace("gradient_scale = 1.0\n", "")
    )
    (folder / "absent.toml").write_text(quick.replace('"mnist_5k"', '"mnist"'))
    return [str(folder / f"{name}.toml") for name in ("one", "two", "absent")]


@pytest.fixture(scope="module")
def rows(files, data_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    return reproduce(files[:2], seeds=2, directory=directory, data_dir=data_dir), directory


def test_trains_what_is_missing(rows):
    (one, two), directory = rows
    assert sorted(path.name for path in directory.iterdir()) == [
        "one-xnor-1w1a-adam_torch-seed1",
        "one-xnor-1w1a-adam_torch-seed2",
        "two-binarynet-1w1a-adam_torch-seed1",
        "two-binarynet-1w1a-adam_torch-seed2",
    ]
    results = [Run(directory / f"one-xnor-1w1a-adam_torch-seed{seed}").result["top1"] for seed in (1, 2)]
    assert one.top1 == results
    assert results[0] != results[1]
    assert one.measured == pytest.approx(sum(results) / 2)
    assert one.deviation == pytest.approx(abs(results[0] - results[1]) / 2**0.5)
    assert one.difference == pytest.approx(one.measured - 99.5)
    assert 0 < one.hours < 0.1
    assert re.match(r"\d+ × ", one.hardware)
    assert one.command == "bnnk train lenet5 --experiment one"
    assert (two.published, two.difference) == (None, None)


def test_leaves_finished_runs_and_goes_on_with_cut_ones(rows, files, data_dir):
    before, directory = rows
    first, second = (directory / f"one-xnor-1w1a-adam_torch-seed{seed}" for seed in (1, 2))
    written = (first / "weights.h5").stat().st_mtime_ns
    (second / "result.json").unlink()
    seen = []
    again = reproduce(
        files[:1], seeds=2, directory=directory, data_dir=data_dir, finished=lambda rows: seen.append(list(rows))
    )
    assert again[0].top1 == before[0].top1
    assert (first / "weights.h5").stat().st_mtime_ns == written
    assert [len(rows[0].finished) for rows in seen] == [1, 2]


def test_tables(rows, tmp_path):
    csv_file, md_file = write_table(rows[0], tmp_path / "results" / "both")
    with csv_file.open() as stream:
        read = list(csv.DictReader(stream))
    assert [row["experiment"] for row in read] == ["one", "two"]
    assert float(read[0]["measured"]) == rows[0][0].measured
    assert read[0]["reconstructed"] == "True"
    assert len(read[0]["runs"].split("; ")) == 2
    text = md_file.read_text()
    assert f"| one* | 1/1 | 1 | 99.5 | {rows[0][0].measured:.2f} ± {rows[0][0].deviation:.2f} (2 seeds) |" in text
    assert "| two* | 1/1 | 1 | – |" in text


def test_a_run_that_fails_does_not_stop_the_others(files, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("bnn_keras.data.preparing._reachable", lambda url: False)
    absent, one = reproduce([files[2], files[0]], directory=tmp_path / "runs", data_dir=data_dir)
    assert absent.measured is None
    assert re.match("seed 1: dataset 'mnist' is not prepared", absent.failures[0])
    assert one.measured > 50
    assert not list((tmp_path / "runs").glob("absent*"))


def test_a_paper_is_all_of_its_experiments(monkeypatch, tmp_path):
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
def test_unknown_names_train_nothing(name, message, tmp_path):
    with pytest.raises(BnnError, match=message):
        reproduce(["lenet5_mnist_5k", name], directory=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_command(files, data_dir, tmp_path, rows):
    _, directory = rows
    result = run_bnnk("reproduce", files[0], "--seeds", 2, "--runs", directory, "--data-dir", data_dir, "--quiet")
    assert result.exit_code == 0, result.output
    assert "99.5" in result.stdout
    assert (directory / "reproduced.csv").is_file()
    assert (directory / "reproduced.md").is_file()
