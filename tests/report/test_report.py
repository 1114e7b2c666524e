"""Reports and comparisons of runs: facts, page, tables, errors."""

import csv
import io
import json
import shutil

import pytest
from helpers import error_line, run_bnnk
from written_runs import write_run

from bnn_keras import BnnError, report, runs
from bnn_keras.report import writing
from bnn_keras.runs import Run

EVIL = "<script>document.title = 'owned'</script>"


@pytest.fixture
def seeds(tmp_path):
    """Three seeds each of two schemes, and an unfinished run."""
    for seed, (xnor, irnet) in enumerate([(98.0, 96.0), (97.9, 95.8), (98.1, 96.2)], start=1):
        write_run(tmp_path / f"xnor-{seed}", xnor, seed=seed)
        write_run(tmp_path / f"irnet-{seed}", irnet, seed=seed, scheme="irnet")
    write_run(tmp_path / "xnor-4", 50.0, seed=4, finished=False)
    return sorted(path for path in tmp_path.iterdir())[::-1]


def test_runs_are_compared_over_their_seeds(seeds):
    comparison = report.compare(seeds)
    first, second = comparison.groups
    assert (first.name, second.name) == ("xnor", "irnet")
    assert (first.last.mean, first.unfinished) == (pytest.approx(98.0), ["xnor-4"])
    (result,) = comparison.differences
    assert (result.difference.test, result.difference.seeds) == ("paired t", [3, 2, 1])
    assert result.difference.mean == pytest.approx(-2.0)
    assert result.verdict == "larger than the spread of the seeds"
    assert comparison.settings["scheme.name"] == ["xnor", "irnet"]
    printed = run_bnnk("compare", *seeds).stdout
    assert "98.00 ± 0.10" in printed
    assert "3 of 4" in printed
    assert json.loads(run_bnnk("compare", *seeds, "--json").stdout) == comparison.model_dump(mode="json")


def test_one_seed_or_other_images_give_no_verdict(tmp_path):
    one = write_run(tmp_path / "one", 98.0)
    other = write_run(tmp_path / "other", 90.0, overrides=["stages.0.optimizer.learning_rate.initial=0.1"])
    (result,) = report.compare([one, other]).differences
    assert (result.group, result.verdict) == (
        "learning_rate.initial=0.1",
        "unknown: one seed does not show the spread",
    )
    environment = Run(other).environment
    environment["dataset"]["test_examples"] = 10
    (other / runs.ENVIRONMENT).write_text(json.dumps(environment))
    (result,) = report.compare([one, other]).differences
    assert (result.difference, result.verdict) == (None, "not compared: other test images")


def test_accuracies_have_wilson_intervals_and_published_figures_of_the_same_epoch(tmp_path):
    experiment = ["xnor_net/lenet5_mnist", "--set", "seed=1"]
    run = write_run(tmp_path / "run", 95.0, experiment=experiment[0], epochs=60, dataset=None)
    facts = report.collect(run, inspect=False)
    assert (round(facts.last.interval.low, 2), round(facts.last.interval.high, 2)) == (93.47, 96.19)
    assert (facts.published.of, facts.published.top1, facts.published.measured) == ("best", 99.23, 95.0)
    assert facts.repeat.endswith(f"--experiment {run}/experiment.toml --run {run}-again")


def test_unfinished_run_without_weights_has_a_page(tmp_path):
    run = write_run(tmp_path / EVIL.replace("/", "-"), finished=False, labels=[EVIL, *"123456789"])
    with (run / runs.METRICS).open("a") as stream:
        stream.write('{"epoch": 3, "val_')  # the training is writing this line
    page = tmp_path / "report.html"
    result = run_bnnk("report", run, "-o", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "stopped, epoch 2 of 3" in text
    assert "no epoch is finished, so there are no weights yet" in text


def test_tables_have_a_row_for_each_run(seeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = list(csv.DictReader(io.StringIO(run_bnnk("report", *seeds, "--csv").stdout)))
    assert [(row["run"], row["seed"], row["status"]) for row in rows][:2] == [
        ("xnor-4", "4", "stopped"),
        ("xnor-3", "3", "finished"),
    ]
    assert rows[1]["top1"] == "98.1"
    document = json.loads(run_bnnk("report", seeds[1], "--json").stdout)
    assert document["runs"][0]["curves"]["val_top1"] == [96.1, 97.1, 98.1]
    assert not (tmp_path / "report.html").exists()
    run_bnnk("report", seeds[1], seeds[-1], "--png", "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "Settings that differ" in (tmp_path / "report.html").read_text()


def test_exports_and_latencies_lie_beside_the_run(tmp_path):
    run = write_run(tmp_path / "run")
    row = {"engine": "tflite", "threads": 1, "latency_median_ms": 0.31, "latency_p95_ms": 0.4, "bytes": 88_900}
    others = [{**row, "source": "lenet5"}, {**row, "source": "runs/other"}]
    (tmp_path / "latency.json").write_text(json.dumps([{**row, "source": str(run)}, *others]))
    (tmp_path / "unrelated.json").write_text("[1, null]")
    facts = report.collect(run, inspect=False)
    assert [(latency.file, latency.engine) for latency in facts.latencies] == [("latency.json", "tflite")]


def test_watch_writes_until_all_runs_are_finished(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    statuses = []

    def write(made):
        statuses.append(made.runs[0].status)
        if len(statuses) == 1:
            shutil.rmtree(run)
            write_run(run)

    report.watch([run], write, interval=0.01)
    assert statuses == ["stopped", "finished"]


def test_errors_say_what_to_do(tmp_path):
    run = write_run(tmp_path / "run")
    assert "twice; expected each run once" in error_line("report", run, run)
    assert error_line("report", run, "-o", "report.pdf") == (
        "cannot write 'report.pdf' as a page; expected a name that ends in .html"
    )
    assert "no run in" in error_line("compare", tmp_path / "none")
    assert run_bnnk("report", run, "--json", "--csv").exit_code == 2
    untrained = write_run(tmp_path / "untrained", epochs=1, finished=False)
    with pytest.raises(BnnError, match="no run has a finished epoch to draw"):
        writing.write_png(report.make_report([untrained]), tmp_path / "curves.png")
