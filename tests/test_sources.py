"""Weights that a training starts from: paths, records, the experiment that fits them, errors."""

import json

import pytest

from bnn_keras import pretrained, resolve, runs
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run
from bnn_keras.sources import Source, default_directory, require_same_start, resolve_start


def write_run(directory, experiment, start=None, weights=b"weights"):
    """Write the files of a run that are read without TensorFlow."""
    directory.mkdir()
    (directory / "experiment.toml").write_text(experiment.to_toml())
    (directory / "environment.json").write_text(json.dumps({"dataset": {"labels": ["0"]}, "start_from": start}))
    (directory / "weights.h5").write_bytes(weights)
    return Run(directory)


@pytest.fixture
def float_run(tmp_path):
    """A run with a mean of its own and rotated images."""
    overrides = ["data.mean=[0.25]", "network.rotated=true"]
    return write_run(tmp_path / "float", resolve("lenet5", scheme="float", overrides=overrides).experiment)


@pytest.fixture
def started(float_run, tmp_path):
    """A run that was started from `float_run`."""
    experiment = resolve("lenet5", overrides=["data.mean=[0.25]", "network.rotated=true"]).experiment
    return write_run(tmp_path / "run", experiment, Source.at(float_run.directory).to_document())


@pytest.mark.parametrize(
    ("path", "weights", "name"),
    [
        ("runs/float", "weights.h5", "float"),
        ("runs/float/", "weights.h5", "float"),
        ("runs/float/weights.h5", "weights.h5", "float"),
        ("runs/float/weights_best.h5", "weights_best.h5", "float-best"),
    ],
)
def test_path_of_weights(path, weights, name):
    source = Source.at(path)
    assert (str(source.run.directory), source.path.name, source.name) == ("runs/float", weights, name)


def test_model_of_the_package():
    name, card = next(iter(pretrained.cards().items()))
    source = Source.at(name)
    assert (source.path, source.name) == (card.file, name)
    assert source.to_document() == {
        "path": str(card.file),
        "sha256": card.sha256,
        "experiment": card.experiment,
        **source.experiment.chosen,
    }
    source.require_other_than(Run(card.file.parent))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "model.pth").touch()
    with pytest.raises(BnnError) as caught:
        Source.at(tmp_path / "model.pth")
    assert str(caught.value) == (
        f"cannot start from '{tmp_path / 'model.pth'}': expected a run directory, weights.h5 or weights_best.h5 of "
        "one, or a packed file (its header should have 0 bytes, but the file has 0); convert a checkpoint of a "
        "reference to a run with `bnnk import`"
    )


def test_record(float_run):
    assert Source.at(float_run.directory).to_document() == {
        "path": str(float_run / "weights.h5"),
        "sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
        "experiment": "xnor_net/lenet5_mnist_5k",
        "network": "lenet5",
        "dataset": "mnist_5k",
        "scheme": "float",
        "bits": "32/32",
        "optimizer": "adam_torch",
    }


def test_each_source_has_a_default_directory():
    experiment = resolve("lenet5").experiment
    names = [default_directory(experiment, path).name for path in (None, "a/float", "a/float/weights_best.h5", "other")]
    assert names[0] == runs.default_directory(experiment).name
    assert [name.removeprefix(names[0]) for name in names] == ["", "-from-float", "-from-float-best", "-from-other"]


def test_images_are_those_of_the_source(float_run, tmp_path):
    resolution, directory = resolve_start("lenet5", float_run.directory)
    assert (resolution.experiment.data.mean, resolution.experiment.network.rotated) == ([0.25], True)
    assert resolution.note == ("network.rotated = True, data.mean = [0.25], as in the training that it starts from")
    assert directory == default_directory(resolve("lenet5").experiment, "float")


def test_overrides_win(float_run):
    overrides = ["data.mean=[0.5]", "network.rotated=false"]
    resolution, _ = resolve_start("lenet5", float_run.directory, overrides=overrides)
    assert resolution.experiment == resolve("lenet5", overrides=overrides).experiment
    assert resolution.note is None


def test_dataset_with_other_channels_keeps_its_mean(float_run, tmp_path):
    three = ["data.mean=[0.1, 0.2, 0.3]", "data.std=[0.4, 0.5, 0.6]"]
    colors = write_run(tmp_path / "colors", resolve("resnet20", overrides=three).experiment)
    assert resolve_start("resnet20", colors.directory)[0].experiment.data.mean == [0.1, 0.2, 0.3]
    grey = resolve_start("lenet5", colors.directory)[0]
    assert (grey.experiment, grey.note) == (resolve("lenet5").experiment, None)


def test_without_a_source_the_recipe_is_unchanged(tmp_path):
    resolution, directory = resolve_start("lenet5", None, epochs=3)
    assert resolution == resolve("lenet5", epochs=3)
    assert directory == runs.default_directory(resolution.experiment)
    assert resolve_start("lenet5", None, tmp_path)[1] == tmp_path


@pytest.mark.parametrize("given", [True, False])
def test_resumed_run_keeps_its_images(started, float_run, given):
    """Also if the source is gone."""
    (float_run / "experiment.toml").unlink()
    resolution, _ = resolve_start("lenet5", float_run.directory if given else None, started.directory)
    assert resolution.experiment == started.experiment
    fresh, _ = resolve_start("lenet5", None, started.directory, fresh=True)
    assert fresh.experiment == resolve("lenet5").experiment


def test_missing_source(tmp_path):
    with pytest.raises(BnnError) as caught:
        resolve_start("lenet5", tmp_path / "none")
    assert str(caught.value).startswith(
        f"cannot start from '{tmp_path / 'none' / 'weights.h5'}': no run in '{tmp_path / 'none'}', and no exported "
        "file; give the folder that `bnnk train` wrote, a file that `bnnk export` wrote, or the name of a model"
    )


def test_same_start(started, float_run, tmp_path):
    source = Source.at(float_run.directory)
    require_same_start(started, source)
    require_same_start(started, None)
    require_same_start(Run(tmp_path / "none"), source)
    moved = float_run.directory.rename(tmp_path / "moved")
    require_same_start(started, source)  # its weights are gone
    require_same_start(started, Source.at(moved))


def test_other_start(started, float_run, tmp_path):
    (float_run / "weights.h5").write_bytes(b"trained further")
    pattern = (
        rf"'{tmp_path}/run' was started from the weights \w{{8}}… of '{tmp_path}/float/weights.h5', not from "
        rf"\w{{8}}… of '{tmp_path}/float/weights.h5'; leave --from out to resume it, or give another --run DIR"
    )
    with pytest.raises(BnnError, match=pattern):
        require_same_start(started, Source.at(float_run.directory))
    with pytest.raises(BnnError, match=r"not from '.*/none/weights.h5', which does not exist"):
        require_same_start(started, Source.at(tmp_path / "none"))
    with pytest.raises(BnnError, match="was started from no weights of another run, not from"):
        require_same_start(float_run, Source.at(started.directory))


@pytest.mark.parametrize("record", [3, "float", {}, {"path": "x"}, {"path": 1, "sha256": ""}])
def test_damaged_record(float_run, tmp_path, record):
    run = write_run(tmp_path / "damaged", float_run.experiment, record)
    with pytest.raises(BnnError, match=r"environment.json' \(it does not name the weights that the run started from\)"):
        require_same_start(run, Source.at(float_run.directory))


def test_own_weights_are_refused(float_run, tmp_path):
    source = Source.at(float_run / "weights_best.h5")
    with pytest.raises(BnnError, match=r"cannot start '.*/float' from its own weights; give another --run DIR"):
        source.require_other_than(Run(tmp_path / "x" / ".." / "float"))
    source.require_other_than(Run(tmp_path / "other"))
