"""Sweeps: definition, trials, several processes, results, pictures."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import error_line, run_bnnk, same_weights
from rich.console import Console
from trainings import build_tiny_model, small_experiment

from bnn_keras import plots, resolve
from bnn_keras.errors import BnnError, DivergedError
from bnn_keras.experiment import all_experiments
from bnn_keras.runs import Run
from bnn_keras.sweeps import definition, running
from bnn_keras.sweeps.definition import Interval, define
from bnn_keras.sweeps.results import plot, results
from bnn_keras.training import train, trainer

GAMMA, THRESHOLD = (f"stages.0.optimizer.{name}" for name in ("gamma", "threshold"))
GRID = {THRESHOLD: [1e-7, 1e-6], GAMMA: [1e-3, 1e-2]}
QUIET = Console(quiet=True)


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.setattr(trainer, "build_model", build_tiny_model)
    return small_experiment(optimizer="bop", epochs=2)


def measured(number):
    """Return the row of an epoch with this accuracy."""
    keys = ("stage", "step", "first", "val_top5", "seconds", "images_per_second")
    return {**dict.fromkeys(keys, 0), "epoch": 1, "val_top1": float(number)}


@pytest.fixture
def accuracies(monkeypatch):
    """Trainings that only record a row with the next of these accuracies; the list of their experiments."""
    trained = []

    def pretend(values):
        def record(experiment, directory, *, after_epoch, **options):
            with Run(directory).owned() as run:
                trained.append(experiment)
                run.append_metrics(measured(values[len(trained) - 1]))
                after_epoch(run.metrics[-1])

        monkeypatch.setattr(running, "train", record)
        return trained

    return pretend


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to vary: experiment xnor_net/lenet5_fake has no table [sweep]; give --vary"),
        ({"vary": {"stages.0.optimizer.gama": [1e-3]}}, "unknown key of optimizer 'bop'; did you mean 'gamma'?"),
        ({"vary": {GAMMA: [1e-3, -1.0]}}, "stages.0.optimizer.gamma: got -1.0; "),
        ({"vary": {GAMMA: [1e-3, 1e-3]}}, "has the value 0.001 2 times; give it once"),
        ({"vary": {"seed": [1, 2]}, "seeds": 2}, "give one of --vary seed=… and --seeds 2"),
        ({"vary": {GAMMA: [1e-3]}, "trials": 3}, "3 trials, but no range to search"),
        ({"search": {GAMMA: Interval(1e-4, 1e-2)}}, "give --trials N"),
        ({"search": {GAMMA: Interval(1e-4, 1e-2)}, "vary": {GAMMA: [1e-3]}, "trials": 2}, "has a list and a range"),
        ({"search": {"stages.0.epochs": Interval(0, 3)}, "trials": 2}, "stages.0.epochs: got 0; "),
    ],
)
def test_bad_definitions_are_one_error(arguments, message):
    with pytest.raises(BnnError) as error:
        define(small_experiment(optimizer="bop"), **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (definition.parse_vary, ["epochs"], "cannot read 'epochs'; expected KEY=a,b,c"),
        (definition.parse_vary, ["seed=1", "seed=2"], "'seed' is given twice"),
        (definition.parse_vary, ["seed=1,x,"], "cannot read the values of 'seed': got '1,x,'"),
        (definition.parse_search, ["seed=3..1"], "got '3..1'; expected [log:]LOW..HIGH with LOW < HIGH"),
        (definition.parse_search, ["seed=log:0..1"], "with 0 < LOW < HIGH"),
        (definition.parse_search, ["seed=1"], "got '1'"),
        (lambda texts: definition.directory_of(*texts), ["a/b"], "got the name 'a/b'; expected a name without slashes"),
    ],
)
def test_bad_texts_are_one_error(parse, text, message):
    with pytest.raises(BnnError) as error:
        parse(text)
    assert message in str(error.value)


def test_grids_of_experiments_are_valid():
    grids = {experiment.name: define(experiment).trials for experiment in all_experiments() if experiment.sweep}
    assert grids == {
        "rethinking_bnn/binarynet_cifar10_sec51": 25,
        "short/lenet5_fashion_mnist_bop_grid": 25,
    }


@pytest.mark.usefixtures("eager")
def test_grid_is_trained_once_and_continued(experiment, tmp_path, monkeypatch):
    """Interrupted after an epoch of the first trial, the sweep goes on there."""
    calls = []

    def interrupted(experiment, directory, *, after_epoch, **options):
        calls.append(directory.name)

        def stop(row):
            after_epoch(row)
            if calls == ["000"]:
                raise KeyboardInterrupt

        return train(experiment, directory, after_epoch=stop, **options)

    monkeypatch.setattr(running, "train", interrupted)
    grid = define(experiment, {GAMMA: [1e-3, 1e-2]})
    with pytest.raises(KeyboardInterrupt):
        running.sweep(grid, tmp_path / "grid", console=QUIET)
    states = [trial.state for trial in results(tmp_path / "grid")]
    assert states == ["interrupted", "waiting"]
    trials = running.sweep(grid, tmp_path / "grid", console=QUIET)
    assert calls == ["000", "000", "001"]
    assert [trial.values for trial in trials] == grid.combinations()
    for trial in trials:
        metrics = Run(trial.run).metrics
        assert (trial.state, trial.epochs, trial.accuracy) == ("finished", 2, metrics[-1]["val_top1"])
        assert [row["epoch"] for row in metrics] == [1, 2]
    assert running.sweep(grid, tmp_path / "grid", console=QUIET) == trials
    assert len(calls) == 3
    with pytest.raises(BnnError, match=r"another sweep \(requested / existing\): seeds: 2 / 1; give the same options"):
        running.sweep(define(experiment, grid.vary, seeds=2), tmp_path / "grid", console=QUIET)


def test_names_vary_as_the_options_of_train():
    """The options of a replaced name are removed, and published figures with them."""
    base = resolve("lenet5", dataset="mnist").experiment
    sweep = define(base, {"scheme": ["xnor", "irnet"], "optimizer": ["adam_torch", "sgd"]})
    varied = [sweep.at(values) for values in sweep.combinations()]
    assert [(point.scheme.name, point.optimizer) for point in varied] == [
        *(("xnor", "adam_torch"), ("xnor", "sgd")),
        *(("irnet", "adam_torch"), ("irnet", "sgd")),
    ]
    assert varied[0] == base
    assert varied[3].published is None
    with pytest.raises(BnnError, match="unknown scheme 'irnt'; did you mean 'irnet'"):
        define(base, {"scheme": ["xnor", "irnt"]})


def test_search_repeats_each_point_with_other_seeds(experiment, tmp_path, accuracies):
    trained = accuracies([10, 20, 30, 40])
    search = {GAMMA: Interval(1e-4, 1e-1, log=True), "stages.0.batch_size": Interval(8, 32)}
    trials = running.sweep(define(experiment, search=search, trials=2, seeds=2), tmp_path, console=QUIET)
    first, again, second, _ = trials
    assert [trial.seed for trial in trials] == [1, 2, 1, 2] == [experiment.seed for experiment in trained]
    assert first.values == again.values != second.values
    assert 1e-4 <= first.values[GAMMA] <= 1e-1
    assert first.values["stages.0.batch_size"] == trained[0].stages[0].batch_size in range(8, 33)


@pytest.mark.usefixtures("eager")
def test_several_processes_do_not_train_one_trial(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    with pytest.raises(BnnError, match=r"give --strategy single or mirrored"):
        running.sweep(define(experiment, GRID), tmp_path / "grid", console=QUIET)
    assert not (tmp_path / "grid").exists()


def test_divergence_ends_a_trial_and_not_the_sweep(experiment, tmp_path, monkeypatch):
    def diverge(experiment, directory, **options):
        raise DivergedError("the loss is nan in epoch 1")

    monkeypatch.setattr(running, "train", diverge)
    trials = running.sweep(define(experiment, GRID), tmp_path, console=QUIET)
    assert [(trial.state, trial.error) for trial in trials] == [("diverged", "the loss is nan in epoch 1")] * 4
    with pytest.raises(BnnError, match=r"no trial of .* is finished; continue the sweep"):
        plot(tmp_path, tmp_path / "grid.png")


def test_trials_below_the_median_are_pruned(experiment, tmp_path, accuracies):
    accuracies([50, 60, 70, 80, 90, 10, 75])
    sweep = define(experiment, {"seed": list(range(7))}, prune=True)
    states = [trial.state for trial in running.sweep(sweep, tmp_path, console=QUIET)]
    assert states == ["finished"] * 5 + ["pruned", "finished"]


@pytest.fixture
def figures(monkeypatch):
    """Figures in place of files."""
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, file, kind: drawn.append(figure))
    return drawn


def test_two_keys_give_a_heat_map_of_means_over_seeds(experiment, tmp_path, accuracies, figures):
    accuracies([10, 20, 30, 40, 30, 40, 50, 60])
    running.sweep(define(experiment, GRID, seeds=2), tmp_path, console=QUIET)
    plot(tmp_path, "grid.png")
    panel = figures[0].axes[0]
    np.testing.assert_array_equal(panel.images[0].get_array(), [[20, 30], [40, 50]])
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("Bop's threshold", "Bop's γ")
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.001", "0.01"]


def test_one_key_gives_a_curve_and_three_an_error(experiment, tmp_path, accuracies, figures):
    accuracies([10, 20, 30, 10, 20, 30, 40, 50, 60, 70, 80])
    running.sweep(define(experiment, {GAMMA: [1e-2, 1e-4, 1e-3]}), tmp_path / "one", console=QUIET)
    plot(tmp_path / "one", "curve.png")
    panel = figures[0].axes[0]
    np.testing.assert_array_equal(panel.lines[0].get_xydata(), [[1e-4, 20], [1e-3, 30], [1e-2, 10]])
    assert panel.get_xscale() == "log"
    more = {**GRID, "stages.0.batch_size": [8, 16]}
    running.sweep(define(experiment, more), tmp_path / "three", console=QUIET)
    with pytest.raises(BnnError, match=r"cannot draw 3 keys .*; expected one or two that vary; use --csv instead"):
        plot(tmp_path / "three", "grid.png")


def test_command_trains_shows_and_refuses(experiment, tmp_path, monkeypatch, accuracies):
    monkeypatch.chdir(tmp_path)
    accuracies([10, 20])
    options = ["--dataset", "fake", "--optimizer", "bop", "--epochs", 1]
    command = ["sweep", "lenet5", *options, "--vary", f"{GAMMA}=1e-3,1e-2", "--name", "rates"]
    result = run_bnnk(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "best: trial 1 with 20.00 %; 2 of 2 finished"
    shown = json.loads(run_bnnk("sweep", "show", "rates", "--json").stdout)
    assert [row["accuracy"] for row in shown] == [10, 20]
    table = run_bnnk("sweep", "show", "rates", "--csv").stdout.splitlines()
    assert table[0] == f"number,state,{GAMMA},seed,accuracy,top1,best_top1,epochs,run,error"
    assert table[2] == "1,finished,0.01,1,20.0,,,1,sweeps/rates/001,"
    assert "holds another sweep" in error_line("sweep", *command[1:3], "fake", *command[4:-1], "rates", "--seeds", 2)
    assert "known: rates" in error_line("sweep", "show", "other")
    assert error_line("sweep", "show", "rates", "--plot", "rates.gif").startswith("cannot draw 'rates.gif'")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "install it with `pip install 'bnn-keras[sweep]'`" in error_line(*command)


PROCESS = """
import sys, time
from rich.console import Console
from bnn_keras.sweeps import definition, running
from bnn_keras.training import callbacks
callbacks.MeasureEpoch.on_train_batch_end = lambda *args: time.sleep(0.5)  # so that it is caught in a trial
running.sweep(definition.read(sys.argv[1]), sys.argv[1], console=Console(file=sys.stdout), plain=True)
"""


@pytest.mark.slow
def test_two_processes_share_a_sweep_and_one_is_killed(tmp_path):
    """Every trial is trained once; the one of the killed process is resumed and equals an uninterrupted training."""
    experiment = resolve("lenet5", dataset="fake", epochs=4, batch_size=8, overrides=["data.examples=16"]).experiment
    sweep = define(experiment, {"stages.0.optimizer.beta_1": [0.8, 0.85, 0.9]})
    folder = tmp_path / "shared"
    folder.mkdir()
    definition.write(sweep, folder)

    def start(name):
        command = [sys.executable, "-c", PROCESS, str(folder)]
        with (tmp_path / name).open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    processes = [start("first"), start("second")]
    try:
        killed = Run(folder / "000")
        deadline = time.monotonic() + 120
        while killed.measured_epochs < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        owner = int((folder / "000" / ".lock").read_text())
        os.kill(owner, signal.SIGKILL)
        (other,) = [process for process in processes if process.pid != owner]
        assert killed.measured_epochs < 4
        assert other.wait(timeout=240) == 0, (tmp_path / "first").read_text() + (tmp_path / "second").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    trials = results(folder)
    assert [trial.state for trial in trials] == ["finished"] * 3
    assert [trial.values for trial in trials] == sweep.combinations()
    for trial in trials:
        assert [row["epoch"] for row in Run(trial.run).metrics] == [1, 2, 3, 4]
    begun = ((tmp_path / "first").read_text() + (tmp_path / "second").read_text()).split("trial ")[1:]
    # A process may also announce a trial that the other one has just asked for, and then finds its run in use.
    assert {text.split()[0] for text in begun} == {"1", "2", "3"}
    assert [text.split()[0] for text in begun].count("1") >= 2
    train(sweep.at(trials[0].values), tmp_path / "whole", console=QUIET)
    assert same_weights(tmp_path / "whole" / "weights.h5", folder / "000" / "weights.h5")
