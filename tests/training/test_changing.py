"""A run that is trained further: with more epochs, or with other hyper-parameters."""

import pytest
from helpers import contents, error_line
from trainings import assert_same_training, small_experiment, stepping

from bnn_keras import files, train
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run
from bnn_keras.training import repair

pytestmark = pytest.mark.usefixtures("tiny")

RATE = "stages.0.optimizer.learning_rate"


@pytest.mark.slow
def test_finished_run_is_trained_further(stepped, tmp_path, monkeypatch):
    """It becomes the run of the longer training, bit for bit, also if a kill leaves the files half changed."""
    directory = tmp_path / "run"
    train(stepping(epochs=2), directory)
    with pytest.raises(
        BnnError, match=r"stages.0.epochs: 4 / 2; train it further with --continue .*, start a new run from"
    ):
        train(stepping(), directory)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_text", lambda *args: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            train(stepping(), directory, change=True)
    with pytest.raises(BnnError, match="differs from its copy in epoch-00002"):
        train(stepping(), directory, change=True)
    assert {repaired.name for repaired in repair(directory) if not repaired.lost} >= {
        "experiment.toml",
        "environment.json",
    }
    train(stepping(), directory, change=True)
    run = Run(directory)
    assert_same_training(run, stepped / "whole")
    assert run.result["epochs"] == run.experiment.epochs == 4
    assert run.environment["changes"] == [{"epoch": 2, "step": 4, "requested / before": ["stages.0.epochs: 4 / 2"]}]
    assert train(stepping(), directory) == train(stepping(), directory, change=True) == run.result


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_other_hyperparameters(tmp_path):
    train(small_experiment(epochs=1), tmp_path / "run")
    train(small_experiment(epochs=2, overrides=[f"{RATE}=0.5"]), tmp_path / "run", change=True)
    assert [row["learning_rate"] for row in Run(tmp_path / "run").metrics] == pytest.approx([0.01, 0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3}, "to 3 epochs: it has trained 4; give more epochs"),
        (
            {"seed": 2},
            "with another seed: 2 / 1 .*; only epochs, label smoothing and hyper-parameters of",
        ),
        ({"batch_size": 16}, "with another stages.0.batch_size: 16 / 32"),
    ],
)
def test_what_cannot_change(stepped, options, message):
    before = contents(stepped / "whole")
    with pytest.raises(BnnError, match=f"cannot continue '.*whole' {message}"):
        train(stepping(**options), stepped / "whole", change=True)
    assert contents(stepped / "whole") == before


@pytest.mark.usefixtures("eager")
def test_schedules_that_depend_on_the_length(tmp_path):
    cosine = f"{RATE}={{schedule='cosine', initial=0.1, final=0.0}}"
    train(small_experiment(scheme="irnet", epochs=1, overrides=[cosine]), tmp_path / "run")
    error = error_line("train", "--continue", tmp_path / "run", "--epochs", "2")
    assert error == (
        f"cannot continue {str(tmp_path / 'run')!r} with 2 instead of 1 epochs: scheme.t, "
        "stages.0.optimizer.learning_rate depend on the number of epochs; give other schedules with --set, or start a "
        "new run from its weights with --from"
    )


def test_arguments_of_continue(tmp_path):
    assert "got NETWORK, --seed beside --continue RUN" in error_line(
        "train", "lenet5", "--continue", tmp_path, "--seed", "2", code=2
    )
    assert "no run in" in error_line("train", "--continue", tmp_path / "none")
    assert error_line("train", code=2) == "Missing argument 'NETWORK', or --continue RUN."
