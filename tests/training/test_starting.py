"""A training that starts from the weights of another run: which weights it takes, its records, resuming, errors."""

import functools
import io
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import contents, flip_bit, once, read_weights, same_weights
from PIL import Image
from rich.console import Console
from trainings import (
    assert_same_training,
    build_tiny_model,
    eagerly,
    resume_copy,
    small_experiment,
    tiny_networks,
    train_with_copies,
)

from bnn_keras import export_run, models, repair, resolve, train
from bnn_keras.build import build_model
from bnn_keras.constraints import CentreAndClip
from bnn_keras.counts import binary_variables
from bnn_keras.data import describe
from bnn_keras.errors import BnnError
from bnn_keras.location import DataLocation
from bnn_keras.packed_reader import read_packed
from bnn_keras.runs import Run
from bnn_keras.sources import Source, default_directory
from bnn_keras.training import trainer
from bnn_keras.training.starting import Start
from bnn_keras.transfer import head, weights_by_name

LABELS = [str(digit) for digit in range(10)]


@pytest.fixture(autouse=True)
def _tiny(eager):
    with tiny_networks():
        yield


def train_both(folder):
    train(small_experiment(scheme="float", epochs=1), folder / "float", plain=True)
    shutil.copytree(folder / "float", folder / "removed")
    train_with_copies(small_experiment(epochs=3), folder, start_from=folder / "removed")
    shutil.rmtree(folder / "removed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A float run of one epoch in "float", and a binary one in "whole", with its copies in "killed-0" … "killed-2".

    The binary run was started from a copy of the float run in "removed", which does not exist any more. Read them only.
    """
    with tiny_networks(), eagerly():
        return once(tmp_path_factory, "started", train_both)


class TrainingStoppedError(Exception):
    pass


@pytest.fixture
def first_weights(monkeypatch):
    """Stop trainings before their first step; return the weights of the last one."""
    weights = {}

    def keep_weights(self, model, *args):
        weights.update(weights_by_name(model))
        raise TrainingStoppedError

    monkeypatch.setattr(trainer._Training, "_fit", keep_weights)

    def start(*args, **options):
        with pytest.raises(TrainingStoppedError):
            train(*args, plain=True, **options)
        return weights

    return start


def source_of(experiment, model, labels=LABELS):
    return Start(Source.at("runs/source"), experiment, model, labels)


# --- which weights are taken ---


def test_latent_weights_are_those_of_the_float_network_after_constraints():
    source = small_experiment(scheme="float")
    model, other = build_tiny_model(small_experiment(scheme="xnor", seed=2)), build_tiny_model(source)
    transfer = source_of(source, other).give(model, small_experiment(), LABELS)
    assert (transfer.fresh, transfer.dropped) == ((), ())
    given = weights_by_name(other)
    for name, value in weights_by_name(model).items():
        kernel = given[name]
        expected = np.clip(kernel - kernel.mean(-2, keepdims=True), -1, 1) if name == "binary/kernel:0" else kernel
        np.testing.assert_allclose(value, expected, atol=1e-7)
    assert isinstance(model.get_layer("binary").kernel_constraint, CentreAndClip)


def test_kernels_that_bop_flips_are_signs():
    bop = small_experiment(scheme="binarynet", optimizer="bop", overrides=["stages.0.optimizer.threshold=1e-6"])
    model, other = build_tiny_model(bop), build_tiny_model(small_experiment(scheme="float", seed=2))
    kernel = other.get_layer("binary").kernel
    kernel.assign(tf.where(tf.abs(kernel) < 0.01, 0.0, kernel))
    assert 0 in kernel.numpy()
    source_of(small_experiment(scheme="float"), other).give(model, bop, LABELS)
    (flipped,) = binary_variables(model)
    np.testing.assert_array_equal(flipped.numpy(), np.where(kernel.numpy() < 0, -1, 1))
    np.testing.assert_array_equal(*(item.get_layer("first").get_weights()[0] for item in (model, other)))


def test_kernels_of_bop_become_latent_weights():
    bop = small_experiment(scheme="binarynet", optimizer="bop", overrides=["stages.0.optimizer.threshold=1e-6"])
    signs, other = build_tiny_model(bop), build_tiny_model(small_experiment(scheme="binarynet"))
    signs.get_layer("binary").kernel.assign(tf.sign(signs.get_layer("binary").kernel))
    source_of(bop, signs).give(other, small_experiment(scheme="binarynet"), LABELS)
    assert set(np.unique(other.get_layer("binary").get_weights()[0])) == {-1, 1}


@pytest.mark.parametrize("labels", [["cat", "dog", "wolf"], LABELS[::-1]], ids=["another number", "another order"])
def test_last_layer_is_new_with_other_classes(labels):
    experiment = small_experiment(overrides=["data.shape=[28, 28, 1]", f"data.classes={len(labels)}"])
    model, other = build_tiny_model(experiment), build_tiny_model(small_experiment(scheme="float", seed=2))
    before = weights_by_name(model)
    transfer = source_of(small_experiment(scheme="float"), other).give(model, experiment, labels)
    assert (list(transfer.fresh), transfer.dropped) == (head(model), ())
    for name in head(model):
        np.testing.assert_array_equal(weights_by_name(model)[name], before[name])
    np.testing.assert_array_equal(model.get_layer("first").get_weights()[0], other.get_layer("first").get_weights()[0])


def test_weights_of_the_scheme_are_new_or_dropped():
    reactnet, xnor = small_experiment(scheme="reactnet"), small_experiment()
    shifted, plain = build_tiny_model(reactnet), build_tiny_model(xnor)
    shift = "binary/shifted_sign/shift:0"
    assert source_of(xnor, plain).give(shifted, reactnet, LABELS).fresh == (shift,)
    assert source_of(reactnet, shifted).give(plain, xnor, LABELS).dropped == (shift,)


def test_weight_of_another_shape_is_named():
    wide = build_tiny_model(small_experiment(overrides=["data.shape=[28, 28, 3]", "data.classes=10"]))
    with pytest.raises(BnnError) as caught:
        source_of(small_experiment(), build_tiny_model(small_experiment())).give(wide, small_experiment(), LABELS)
    assert str(caught.value) == (
        "cannot start from 'runs/source/weights.h5': the weight 'first/kernel:0' has shape (5, 5, 1, 8) in the network "
        "it is taken from, but (5, 5, 3, 8) in the new one; choose networks whose weights of one name have one shape"
    )


def test_network_without_a_common_kernel():
    images = tf.keras.Input((28, 28, 1))
    other = tf.keras.Model(images, tf.keras.layers.Dense(10, name="logits")(tf.keras.layers.Flatten()(images)))
    message = "lenet5 has no kernel with the name of one of lenet5, other than in the last layer; choose weights of the"
    with pytest.raises(BnnError, match=message):
        source_of(small_experiment(), other).give(build_tiny_model(small_experiment()), small_experiment(), ["cat"])


@pytest.mark.parametrize("rotated", ["true", "false"])
def test_rotated_weights_need_rotated_images(rotated):
    source = small_experiment(overrides=[f"network.rotated={rotated}"])
    target = small_experiment(overrides=[f"network.rotated={'false' if rotated == 'true' else 'true'}"])
    model = build_tiny_model(source)
    with pytest.raises(BnnError, match=f"with network.rotated={rotated}, .*; set network.rotated={rotated}$"):
        source_of(source, model).give(model, target, LABELS)


# --- records and output ---


def test_training_starts_from_the_weights(runs, first_weights, tmp_path):
    start = first_weights(small_experiment(scheme="float"), tmp_path / "run", start_from=runs / "float")
    stored = {name.split("/", 1)[1]: value for name, value in read_weights(runs / "float" / "weights.h5").items()}
    assert {name: value.tolist() for name, value in start.items()} == {
        name: value.tolist() for name, value in stored.items()
    }


def test_best_weights(runs, first_weights, tmp_path):
    folder = shutil.copytree(runs / "whole", tmp_path / "source")
    shutil.copy(runs / "killed-0" / "weights_best.h5", folder)
    start = first_weights(small_experiment(), tmp_path / "run", start_from=folder / "weights_best.h5")
    stored = read_weights(folder / "weights_best.h5")["first/first/kernel:0"]
    np.testing.assert_array_equal(start["first/kernel:0"], stored)
    assert Run(tmp_path / "run").start["path"] == str(folder / "weights_best.h5")


def test_output_and_record(runs, first_weights, tmp_path):
    shown = io.StringIO()
    experiment = small_experiment(scheme="reactnet", overrides=["data.mean=[0.5]"])
    first_weights(experiment, tmp_path / "run", start_from=runs / "float", console=Console(file=shown, width=500))
    path = runs / "float" / "weights.h5"
    assert shown.getvalue().splitlines() == [
        f"starting from {path} (xnor_net/lenet5_fake, float 32/32): 14 of 15 weights are taken by name",
        "new, with initial values: binary/shifted_sign/shift:0; dropped: none",
        "mean and deviation of images are ([0.5], [0.3081]), but ([0.1307], [0.3081]) in the training of the weights",
    ]
    assert Run(tmp_path / "run").start == {
        **Source.at(runs / "float").to_document(),
        "fresh": ["binary/shifted_sign/shift:0"],
        "dropped": [],
    }


def test_default_directory_names_the_source(runs, first_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first_weights(small_experiment(), start_from=runs / "float")
    assert Run(default_directory(small_experiment(), "float")).start["path"] == str(runs / "float" / "weights.h5")


def test_images_of_another_folder(tmp_path):
    """The first weights are of ten classes, the folder has three."""
    for split in ("train", "test"):
        for name in ("cat", "dog", "wolf"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (28, 28), (index, 0, 9)).save(folder / f"{index}.png")
    overrides = ["data.shape=[28, 28, 3]", "data.classes=10"]
    first = small_experiment(scheme="float", examples=8, batch_size=8, epochs=1, overrides=overrides)
    train(first, tmp_path / "first", plain=True)
    row = describe("image_folder", DataLocation(str(tmp_path / "images")))
    experiment = resolve("lenet5", dataset=row, batch_size=2, epochs=1, overrides=["data.validation=0"]).experiment
    result = train(
        experiment, tmp_path / "run", start_from=tmp_path / "first", data_dir=str(tmp_path / "images"), plain=True
    )
    assert result["epochs"] == 1
    assert Run(tmp_path / "run").start["fresh"] == ["logits/kernel:0", "logits/bias:0"]


# --- resuming ---


@pytest.mark.parametrize("given", [None, "removed", "float"])
def test_resume(runs, tmp_path, given):
    """The weights are in the checkpoint: the source may be removed or moved, and need not be given again."""
    options = {"start_from": runs / given} if given else {}
    resumed = resume_copy(small_experiment(epochs=3), runs, 1, tmp_path / "run", **options)
    assert_same_training(resumed, runs / "whole")
    assert resumed.start == Run(runs / "whole").start
    assert resumed.start["path"] == str(runs / "removed" / "weights.h5")


def test_run_without_an_epoch_starts_again_from_the_recorded_weights(runs, first_weights, tmp_path):
    expected = dict(first_weights(small_experiment(), tmp_path / "run", start_from=runs / "float"))
    record = Run(tmp_path / "run").start
    again = first_weights(small_experiment(), tmp_path / "run")
    assert all(np.array_equal(value, expected[name]) for name, value in again.items())
    assert Run(tmp_path / "run").start == record


def test_run_without_an_epoch_needs_the_recorded_weights(runs, first_weights, tmp_path):
    shutil.copytree(runs / "float", tmp_path / "float")
    first_weights(small_experiment(), tmp_path / "run", start_from=tmp_path / "float")
    shutil.rmtree(tmp_path / "float")
    with pytest.raises(BnnError, match=rf"^cannot start from '{tmp_path}/float/weights.h5': no run in"):
        train(small_experiment(), tmp_path / "run", plain=True)


def test_fresh_starts_from_what_is_given(runs, first_weights, tmp_path):
    folder = shutil.copytree(runs / "whole", tmp_path / "run")
    start = dict(first_weights(small_experiment(epochs=3), folder, fresh=True))
    assert Run(folder).start is None
    assert np.array_equal(
        start["first/kernel:0"], weights_by_name(build_tiny_model(small_experiment()))["first/kernel:0"]
    )
    first_weights(small_experiment(epochs=3), folder, fresh=True, start_from=runs / "killed-0")
    assert Run(folder).start["path"] == str(runs / "killed-0" / "weights.h5")


@pytest.mark.parametrize("name", ["whole", "killed-1"])
def test_other_start_is_refused(runs, tmp_path, name):
    folder = shutil.copytree(runs / name, tmp_path / "run")
    before = contents(folder)
    with pytest.raises(BnnError, match=r"was started from the weights \w{8}… of .*, not from \w{8}… of .*killed-0"):
        train(small_experiment(epochs=3), folder, start_from=runs / "killed-0", plain=True)
    assert contents(folder) == before
    result = Run(folder).result
    assert result is None or train(small_experiment(epochs=3), folder, start_from=runs / "float") == result


def test_run_with_random_weights_is_not_started_from_others(runs, tmp_path):
    folder = shutil.copytree(runs / "float", tmp_path / "run")
    with pytest.raises(BnnError, match="was started from no weights of another run, not from"):
        train(small_experiment(scheme="float", epochs=1), folder, start_from=runs / "whole", plain=True)


def test_record_is_repaired(runs, tmp_path):
    folder = shutil.copytree(runs / "whole", tmp_path / "run")
    (folder / "environment.json").unlink()
    assert [repaired.lost for repaired in repair(folder)] == [False]
    assert Run(folder).start == Run(runs / "whole").start


# --- packed files ---


def test_latent_weights_of_a_packed_file_are_scale_times_sign(runs, first_weights, tmp_path):
    file = tmp_path / "packed.safetensors"
    np.save(tmp_path / "images.npy", np.zeros((2, 28, 28, 1), np.uint8))
    export_run(runs / "whole", "packed", file, verify_on=str(tmp_path / "images.npy"))
    weights = first_weights(small_experiment(scheme="bireal"), tmp_path / "run", start_from=file)
    (kernel,) = read_packed(file).kernels.values()
    assert np.abs(kernel.scales).min() > 0
    np.testing.assert_array_equal(weights["binary/kernel:0"], kernel.signs * kernel.scales)
    np.testing.assert_array_equal(weights["first/kernel:0"], read_packed(file).tensors["first/kernel"])


# --- errors ---


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip_bit(folder / "weights.h5"), "weights.h5' does not match its digest; run `bnnk repair"),
        (lambda folder: (folder / "weights.h5").unlink(), "has no weights.h5: no epoch is finished, or"),
        (lambda folder: (folder / "environment.json").write_text("{}"), "was trained with another environment.json"),
        (lambda folder: (folder / "experiment.toml").write_text("x"), "not TOML"),
        (shutil.rmtree, "no run in"),
    ],
    ids=["weights", "no weights", "environment", "experiment", "nothing"],
)
def test_damaged_source(runs, tmp_path, damage, message):
    source = shutil.copytree(runs / "float", tmp_path / "source")
    damage(source)
    with pytest.raises(BnnError, match=rf"^cannot start from '{re.escape(str(source))}/weights.h5': .*{message}"):
        train(small_experiment(), tmp_path / "run", start_from=source, plain=True)
    assert not (tmp_path / "run").exists()


def test_own_weights(runs, tmp_path):
    folder = shutil.copytree(runs / "float", tmp_path / "run")
    with pytest.raises(BnnError, match="from its own weights"):
        train(small_experiment(scheme="float", epochs=1), folder, start_from=folder / "weights_best.h5", fresh=True)


def test_weights_of_earlier_versions(runs, first_weights, tmp_path):
    source = shutil.copytree(runs / "float", tmp_path / "source")
    (source / "weights.h5").write_bytes((source / "weights.h5").read_bytes()[512:])
    start = first_weights(small_experiment(scheme="float"), tmp_path / "run", start_from=source)
    assert same_weights(source / "weights.h5", runs / "float" / "weights.h5")
    np.testing.assert_array_equal(start["first/kernel:0"], read_weights(source / "weights.h5")["first/first/kernel:0"])


@pytest.mark.slow
def test_float_lenet5_then_binary(monkeypatch, tmp_path, data_dir):
    """A binary network learns faster in its first epoch from the weights of a float one than from random weights."""
    for module in (trainer, models):
        monkeypatch.setattr(module, "build_model", build_model)
    options = functools.partial(resolve, "lenet5", epochs=1)
    train(options(scheme="float").experiment, tmp_path / "float", data_dir=data_dir, plain=True)
    for name, start in (("random", None), ("started", tmp_path / "float")):
        train(options().experiment, tmp_path / name, start_from=start, data_dir=data_dir, plain=True)
    random, started = (Run(tmp_path / name).metrics[0]["top1"] for name in ("random", "started"))  # of 4,000 images
    assert started > random
    assert json.loads((tmp_path / "started" / "environment.json").read_text())["start_from"]["scheme"] == "float"
