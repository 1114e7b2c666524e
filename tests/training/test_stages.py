"""Trainings of several stages, and the options of a stage: scheme, frozen layers, teacher, label smoothing."""

import json
import shutil

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import once, read_weights, same_weights
from trainings import eagerly, resume_copy, small_experiment, tiny_networks, train_with_copies

from bnn_keras import evaluate, load_run, resolve, train
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.experiment import load_experiment
from bnn_keras.runs import Run
from bnn_keras.training import callbacks, trainer

pytestmark = pytest.mark.usefixtures("eager")

STEPWISE = """
[network]
name = "lenet5"

[scheme]
name = "bireal"
bits = "1/1"

[data]
name = "mnist_5k"
mean = [0.1307]
std = [0.3081]
"""
STAGE = """
[[stages]]
epochs = {epochs}
batch_size = 500
{scheme}
[stages.optimizer]
name = "sgd"
momentum = 0.9
learning_rate = 0.02
learning_rate_factors = {factors}
"""
FLOAT = '[stages.scheme]\nname = "float"\nbits = "32/32"\nactivation = "{}"\n'
BATCH_NORM = '{"*/gamma:0" = 1.0, "*/beta:0" = 1.0, "*" = 0.0}'
STAGES = [
    {"epochs": 2, "factors": "{}", "scheme": FLOAT.format("relu")},
    {"epochs": 1, "factors": "{}", "scheme": FLOAT.format("leaky_clip")},
    {"epochs": 1, "factors": "{}", "scheme": FLOAT.format("clip")},
    {"epochs": 2, "factors": "{}", "scheme": ""},
    {"epochs": 1, "factors": BATCH_NORM, "scheme": '[stages.scheme]\nname = "bireal"\nbits = "1/1"\nscaled = false\n'},
]


EXPERIMENT = STEPWISE + "".join(STAGE.format(**stage) for stage in STAGES)


def values(model):
    """Return the weights of a model by name."""
    return {variable.name.replace("/", "|"): variable.numpy() for variable in model.weights}


@pytest.fixture(scope="session")
def stepwise(tmp_path_factory, data_dir):
    """A training of all `STAGES` with a tiny network, in "whole", with what `train_with_copies` copies. Read it only.

    "start-<stage>.npz" are the weights that a stage starts with, "end-<epoch>.npz" those that an epoch ends with.
    """

    def make(folder):
        (folder / "stepwise.toml").write_text(EXPERIMENT)
        fit, end = trainer._Training._fit, callbacks.SaveRun.on_epoch_end

        def save_start(self, model, index, *args):
            np.savez(folder / f"start-{index}.npz", **values(model))
            return fit(self, model, index, *args)

        def save_end(self, epoch, logs=None):
            end(self, epoch, logs)
            np.savez(folder / f"end-{epoch}.npz", **values(self.model))

        with pytest.MonkeyPatch.context() as patch, tiny_networks(), eagerly():
            patch.setattr(trainer._Training, "_fit", save_start)
            patch.setattr(callbacks.SaveRun, "on_epoch_end", save_end)
            train_with_copies(load_experiment(folder / "stepwise.toml"), folder, data_dir=data_dir)

    return once(tmp_path_factory, "stepwise", make)


@pytest.mark.usefixtures("tiny")
def test_stepwise_training(stepwise, data_dir):
    run = Run(stepwise / "whole")
    rows = run.metrics
    assert [(row["stage"], row["epoch"]) for row in rows] == [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (3, 6), (4, 7)]
    assert [row["step"] for row in rows] == [8 * epoch for epoch in range(1, 8)]
    assert "flip_ratio" not in rows[3]
    assert rows[4]["flip_ratio"] > 0
    assert rows[6]["flip_ratio"] == 0
    assert all(row["val_top1"] > 50 for row in (rows[3], rows[6]))
    assert run.result["best_top1"] == rows[6]["val_top1"]  # not the float network's
    assert evaluate(run.directory, data_dir=data_dir)["top1"] == run.result["top1"]
    _, model = load_run(run.directory)
    with larq.context.quantized_scope(True):
        kernels = [tf.convert_to_tensor(variable).numpy() for variable in binary_variables(model)]
    assert len(kernels) == 1
    assert all(set(np.unique(kernel)) == {-1.0, 1.0} for kernel in kernels)


def test_schedules_of_a_stage_start_with_the_stage():
    assigned = {}
    schedules = callbacks.ApplySchedules({"rate": lambda epoch: epoch}, assigned.__setitem__, steps=4, begin=3)
    schedules.on_epoch_begin(5)
    schedules.on_train_batch_begin(1)
    assert assigned == {"rate": 2.25}


def test_each_stage_starts_with_the_weights_of_the_last_one(stepwise):
    for stage, last_epoch in enumerate([1, 2, 3, 5], start=1):
        with np.load(stepwise / f"end-{last_epoch}.npz") as before, np.load(stepwise / f"start-{stage}.npz") as after:
            assert all(np.array_equal(old, new) for old, new in zip(before.values(), after.values(), strict=True))


def test_stage_of_batch_norm_trains_batch_norm_only(stepwise):
    with np.load(stepwise / "end-5.npz") as before, np.load(stepwise / "end-6.npz") as after:
        for name, value in after.items():
            batch_norm = any(part in name for part in ("|gamma", "|beta", "|moving_"))
            assert np.array_equal(before[name], value) == (not batch_norm), name


@pytest.mark.parametrize(
    "epoch",
    [pytest.param(1, marks=pytest.mark.nightly), 5, 6],
    ids=["in the first stage", "in a binary stage", "between stages"],
)
@pytest.mark.usefixtures("tiny")
def test_resumed_stages_equal_uninterrupted_stages(stepwise, tmp_path, data_dir, epoch):
    experiment = Run(stepwise / "whole").experiment
    resumed = resume_copy(experiment, stepwise, epoch, tmp_path / "run", data_dir=data_dir)
    assert same_weights(stepwise / "whole" / "weights.h5", resumed / "weights.h5")
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in Run(stepwise / "whole").metrics]


@pytest.mark.usefixtures("tiny")
def test_run_killed_after_the_last_epoch_gets_its_result(stepwise, tmp_path, data_dir, monkeypatch):
    """Only result.json is missing: the network of the last stage is restored from the checkpoint."""
    directory = shutil.copytree(stepwise / "whole", tmp_path / "run")
    (directory / "result.json").unlink()
    monkeypatch.setattr(trainer._Training, "_fit", None)  # nothing is trained
    assert train(Run(directory).experiment, directory, data_dir=data_dir) == Run(stepwise / "whole").result
    assert same_weights(stepwise / "whole" / "weights.h5", directory / "weights.h5")


# --- teachers ---


def distilled(teacher, **keys):
    values = {"teacher": str(teacher), "temperature": 2.0, "weight": 0.5, **keys}
    overrides = [f"stages.0.distillation.{key}={json.dumps(value)}" for key, value in values.items()]
    return resolve("lenet5", epochs=1, batch_size=250, overrides=overrides).experiment


@pytest.mark.slow
def test_student_learns_from_its_teacher_only(trained, tmp_path, data_dir):
    experiment = distilled(trained, weight=1.0)
    result = train(experiment, tmp_path / "run", data_dir=data_dir)
    assert result["top1"] > 60
    assert result["parameters"] == 431_220
    assert read_weights(tmp_path / "run" / "weights.h5").keys() == read_weights(trained / "weights.h5").keys()
    assert evaluate(tmp_path / "run", data_dir=data_dir)["top1"] == result["top1"]


def test_distillation_loss(trained, tmp_path):
    """The loss is (1 − w) CE + w T² KL, and the teacher's images are normalised as in the teacher's training."""
    experiment = distilled(trained, weight=0.25, temperature=3.0)
    experiment = resolve(
        experiment=_write(tmp_path, experiment), overrides=["data.mean=[0.5]", "data.std=[0.25]"]
    ).experiment
    training = trainer._Training(None, experiment, None, trainer.build_replicas("single"), None, True, lambda row: None)
    model = training.build_network(experiment.stages[0])
    training._compile(model, experiment.stages[0])
    random = np.random.default_rng(2)
    pixels, labels = random.integers(0, 256, (8, 28, 28, 1)), random.integers(0, 10, 8)
    normalised = lambda mean, std: ((pixels / 255 - mean) / std).astype(np.float32)  # noqa: E731
    logits = model(normalised(0.5, 0.25), training=False).numpy().astype(float)
    _, teacher = load_run(trained)
    expected = teacher(normalised(0.1307, 0.3081), training=False).numpy().astype(float)

    def log_softmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    cross_entropy = -log_softmax(logits)[np.arange(8), labels].mean()
    p, q = log_softmax(expected / 3), log_softmax(logits / 3)
    divergence = (np.exp(p) * (p - q)).sum(-1).mean()
    measured = model.evaluate(normalised(0.5, 0.25), labels, verbose=0, return_dict=True)["loss"]
    assert measured == pytest.approx(0.75 * cross_entropy + 0.25 * 9 * divergence, rel=1e-4)


def test_relative_teacher_is_kept_absolute_in_the_run(trained, tmp_path, monkeypatch, data_dir):
    """So that the experiment of the run, which is a file in another folder, is the same one."""
    shutil.copytree(trained, tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    overrides = ["stages.0.distillation.teacher='teacher'"]
    experiment = small_experiment(epochs=1, overrides=overrides).model_copy(update={"name": "own"})
    result = train(experiment, "run", data_dir=data_dir)
    assert Run("run").experiment.stages[0].distillation.teacher == str(tmp_path / "teacher")
    for same in (experiment, load_experiment("run/experiment.toml")):
        assert train(same, "run", data_dir=data_dir) == result


def _write(folder, experiment):
    (folder / "experiment.toml").write_text(experiment.to_toml())
    return folder / "experiment.toml"


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            "no where",
            r"^cannot load the teacher: no run in '(.*)/no where'; create it with `bnnk import CHECKPOINT --network "
            r"NETWORK --run '\1/no where'` or `bnnk train NETWORK --run '\1/no where'`, or set "
            r"stages\.N\.distillation\.teacher to another run$",
        ),
        (
            "runs/torchvision_resnet34",
            r"with `bnnk import CHECKPOINT --network torchvision_resnet34 --run \S+/runs/torchvision_resnet34`",
        ),
        ("zoo/quicknt", "unknown network 'zoo/quicknt'; did you mean 'zoo/quicknet'"),
    ],
)
def test_unknown_teacher(teacher, message, tmp_path, data_dir):
    with pytest.raises(BnnError, match=message):
        train(distilled(teacher), tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight_decay_of", '["conv?/kernel:0", "*/shift:0"]'),
        ("learning_rate_factors", '{"conv?/kernel:0" = 2.0, "*/shift:0" = 0.0}'),
    ],
)
def test_patterns_of_unknown_weights_are_an_error_before_the_training(tmp_path, data_dir, key, value):
    """Also in the last stage."""
    overrides = [f"stages.4.optimizer.{key}={value}"]
    (tmp_path / "stepwise.toml").write_text(EXPERIMENT)
    experiment = resolve(experiment=tmp_path / "stepwise.toml", overrides=overrides).experiment
    with pytest.raises(BnnError, match=rf"^{key} has the pattern '\*/shift:0', which matches no weight"):
        train(experiment, tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


def test_teacher_for_images_of_another_shape(tmp_path, trained, data_dir):
    overrides = [f"stages.0.distillation.teacher={json.dumps(str(trained))}", "data.name=fake", "data.examples=4"]
    experiment = resolve("resnet20", batch_size=4, epochs=1, overrides=overrides).experiment
    with pytest.raises(BnnError, match="takes images 28 × 28 × 1 in 10 classes; the student has 32 × 32 × 3 in 10"):
        train(experiment, tmp_path / "run", data_dir=data_dir)


def test_label_smoothing_affects_the_loss_but_not_the_cross_entropy(tmp_path):
    train(small_experiment(epochs=1, overrides=["stages.0.label_smoothing=0.1"]), tmp_path / "run")
    row = Run(tmp_path / "run").metrics[0]
    measured = evaluate(tmp_path / "run")
    assert measured["loss"] == pytest.approx(row["val_cross_entropy"], rel=1e-5)
    assert abs(row["val_loss"] - row["val_cross_entropy"]) > 1e-3
