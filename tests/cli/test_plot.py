"""`bnnk plot`: curves of runs, and errors."""

import json

import pytest
from helpers import error_line, run_bnnk

from bnn_keras import plots
from bnn_keras.plots import plot_runs
from bnn_keras.runs import Run


def write_run(directory, **values):
    """Write the metrics of a run: a list of each value, one per epoch."""
    directory.mkdir(parents=True)
    keys = ("stage", "step", "first", "val_top5", "seconds", "images_per_second")
    for epoch, row in enumerate(zip(*values.values(), strict=True), start=1):
        Run(directory).append_metrics({**dict.fromkeys(keys, 0), "epoch": epoch, **dict(zip(values, row, strict=True))})
    return directory


@pytest.fixture
def first(tmp_path):
    return write_run(tmp_path / "first", top1=[60, 70], val_top1=[65, 80], flip_ratio=[0.4, 0.01], t=[0.1, 10])


def test_panels_are_those_of_the_runs(first, tmp_path, monkeypatch):
    second = write_run(tmp_path / "second", top1=[50], val_top1=[55], learning_rate=[0.1])
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, file, kind: figures.append(figure))
    plot_runs([first, second], "curves.png")
    panels = figures[0].axes
    labels = [panel.get_ylabel() for panel in panels]
    assert labels == ["error in %\n(training dashed)", "flip ratio", "learning rate", "IR-Net's t"]
    training, test, *_ = panels[0].lines
    assert (training.get_linestyle(), test.get_linestyle()) == ("--", "-")
    assert list(training.get_ydata()) == [40, 30]
    assert list(test.get_ydata()) == [35, 20]
    assert list(panels[1].lines[0].get_ydata()) == [0.4, 0.01]
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["first", "second"]
    assert len({line.get_color() for line in panels[0].lines}) == 2
    assert [panel.get_yscale() for panel in panels] == ["linear", "log", "linear", "log"]


def test_picture_is_written(first, tmp_path):
    result = run_bnnk("plot", first, "-o", tmp_path / "curves.svg")
    assert result.exit_code == 0, result.output
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_errors(first, tmp_path):
    assert "no run in" in error_line("plot", tmp_path / "none", "-o", "curves.png")
    assert error_line("plot", first, "-o", "curves.gif").startswith("cannot draw 'curves.gif'")
    assert error_line("plot", first, "-o", first / "metrics.jsonl" / "curves.png").startswith("cannot write")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "metrics.jsonl").write_text("")
    assert error_line("plot", begun, "-o", "curves.png").endswith(
        "has no finished epoch; train it first, or leave it out"
    )
    (begun / "metrics.jsonl").write_text(json.dumps({"epoch": 1}) + "\n")
    assert "line 1 has not all of" in error_line("plot", begun, "-o", "curves.png")
    assert run_bnnk("plot", "-o", "curves.png").exit_code == 2
