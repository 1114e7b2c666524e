"""`bnnk show --plot`: contents and files of plots."""

import json

import numpy as np
import pytest
from helpers import error_line, run_bnnk, run_python

from bnn_keras import plots
from bnn_keras.experiment import load_experiment
from bnn_keras.plots import curves

THREE_STAGES = """
[network]
name = "resnet20"

[scheme]
name = "irnet"
bits = "1/1"
t = {schedule = "geometric", initial = 0.001, final = 10.0}

[data]
name = "cifar10"
mean = [0.5]
std = [0.5]

[[stages]]
epochs = 4
batch_size = 128
optimizer = {name = "sgd", learning_rate = {schedule = "cosine", initial = 0.1, final = 0.0, every = "step"}}

[[stages]]
epochs = 2
batch_size = 128
optimizer = {name = "adam", learning_rate = 0.01}

[[stages]]
epochs = 2
batch_size = 128
scheme = {name = "bireal", bits = "1/1"}
optimizer = {name = "adam", learning_rate = {schedule = "step", initial = 0.01, factor = 0.1, period = 1}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "three.toml"
    path.write_text(THREE_STAGES)
    return path


def test_curves_equal_closed_forms(file):
    found = curves(load_experiment(file))
    assert list(found) == ["learning_rate", "t", "k"]
    first, second, third = found["learning_rate"]
    assert [part.smooth for part in found["learning_rate"]] == [True, False, False]
    np.testing.assert_allclose(first.values, 0.05 * (1 + np.cos(np.pi * first.epochs / 4)), rtol=1e-9)
    assert (first.epochs[0], 3.99 < first.epochs[-1] < 4) == (0, True)
    assert [list(part.epochs) for part in (second, third)] == [[4, 5], [6, 7]]
    assert [list(part.values) for part in (second, third)] == [[0.01, 0.01], pytest.approx([0.01, 0.001])]
    # The schedule spans all eight epochs. The third stage has another scheme without t.
    steepness = np.concatenate([part.values for part in found["t"]])
    np.testing.assert_allclose(steepness, 0.001 * 10 ** (4 * np.arange(6) / 8), rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([part.values for part in found["k"]]), np.maximum(1 / steepness, 1))


def test_gamma_is_drawn_only_if_it_is_scheduled(tmp_path):
    gamma = "stages.0.optimizer.gamma={schedule = 'linear', initial = 1e-4, final = 0}"
    toml = run_bnnk("show", "lenet5_mnist", "--set", "stages.0.optimizer={name='bop', learning_rate=0.1}").stdout
    (tmp_path / "bop.toml").write_text(toml)
    assert list(curves(load_experiment(tmp_path / "bop.toml"))) == ["learning_rate"]
    (tmp_path / "bop.toml").write_text(run_bnnk("show", tmp_path / "bop.toml", "--set", gamma).stdout)
    assert list(curves(load_experiment(tmp_path / "bop.toml"))) == ["learning_rate", "gamma"]


@pytest.mark.parametrize(
    ("suffix", "begin"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_plot_writes_an_image_and_prints_the_toml(suffix, begin, file, tmp_path):
    image = tmp_path / f"schedules.{suffix}"
    image.write_text("previous content")
    result = run_bnnk("show", file, "--plot", image)
    assert result.exit_code == 0, result.output
    assert image.read_bytes().startswith(begin)
    assert result.stdout == run_bnnk("show", file).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([image.name, file.name])


def test_plot_and_json(file, tmp_path):
    result = run_bnnk("show", file, "--plot", tmp_path / "schedules.png", "--json")
    assert json.loads(result.stdout) == json.loads(run_bnnk("show", file, "--json").stdout)
    assert (tmp_path / "schedules.png").is_file()


def test_one_panel_per_hyper_parameter(file, monkeypatch, tmp_path):
    """Panels are logarithmic if values span more than a decade and are never 0. Dotted lines separate stages."""
    panels = []
    draw = plots._draw
    monkeypatch.setattr(plots, "_draw", lambda panel, *rest: (draw(panel, *rest), panels.append(panel)))
    plots.plot_schedules(load_experiment(file), tmp_path / "schedules.png")
    assert [panel.get_ylabel() for panel in panels] == ["learning rate", "IR-Net's t", "IR-Net's k"]
    assert [panel.get_yscale() for panel in panels] == ["log", "log", "log"]
    assert panels[-1].get_xlabel() == "epoch"
    assert panels[0].figure.get_suptitle() == "three"
    for panel in panels:
        assert panel.get_xlim() == (0, 8)
        dotted = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"]
        assert dotted == [4, 6]


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        (["stages.0.optimizer.learning_rate.final=0.02", "stages.2.optimizer.learning_rate=0.01"], "linear"),
        (["stages.0.optimizer.learning_rate.warm_up={initial=0, epochs=1}"], "linear"),
    ],
    ids=["less than a decade", "from 0"],
)
def test_scale_is_linear_below_a_decade_and_from_0(overrides, scale, file, monkeypatch, tmp_path):
    panels = []
    draw = plots._draw
    monkeypatch.setattr(plots, "_draw", lambda panel, *rest: (draw(panel, *rest), panels.append(panel)))
    arguments = [part for override in overrides for part in ("--set", override)]
    assert run_bnnk("show", file, *arguments, "--plot", tmp_path / "schedules.png").exit_code == 0
    assert panels[0].get_yscale() == scale


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "schedules.pngg",
            "unknown picture format 'pngg'; did you mean 'png'? known: pdf, png, svg; use one of these suffixes",
        ),
        ("schedules", "unknown picture format ''; known: pdf, png, svg"),
        ("nowhere/schedules.png", "cannot write"),
    ],
)
def test_plot_file_that_cannot_be_written(name, message, file, tmp_path):
    assert message in error_line("show", file, "--plot", tmp_path / name)


def test_show_without_a_plot_needs_no_matplotlib(file):
    code = f"""
import sys, atexit
atexit.register(lambda: print(*(name in sys.modules for name in ("matplotlib", "tensorflow"))))
sys.argv = ["bnnk", "show", {str(file)!r}]
from bnn_keras.cli import main
main(standalone_mode=False)
"""
    assert run_python(code).splitlines()[-1] == "False False"


@pytest.mark.parametrize("command", [("evaluate",), ("export", "--to", "packed", "-o", "model")])
def test_missing_run_is_reported_before_tensorflow_is_loaded(command):
    words = (command[0], "nowhere", *command[1:])
    code = f"""
import sys, atexit
atexit.register(lambda: print("tensorflow" in sys.modules))
sys.argv = ["bnnk", *{words!r}]
sys.stderr = sys.stdout
from bnn_keras.cli import main
try:
    main()
except SystemExit as error:
    print(error.code)
"""
    message, code, loaded = run_python(code).splitlines()
    assert message.startswith("Error: no run in 'nowhere'")
    assert (code, loaded) == ("1", "False")
