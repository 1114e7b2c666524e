"""Trainings of several stages, and what a stage may do: another scheme, batch norms alone, a teacher."""

import json

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import read_weights, same_weights

from bnn_keras import evaluate, load_run, resolve, train
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.experiment import load_experiment
from bnn_keras.runs import Run
from bnn_keras.training import callbacks, trainer

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
trains = "{trains}"
{scheme}
[stages.optimizer]
name = "sgd"
momentum = 0.9
learning_rate = 0.02
"""
FLOAT = '[stages.scheme]\nname = "float"\nbits = "32/32"\nactivation = "{}"\n'
STAGES = [
    {"epochs": 2, "trains": "everything", "scheme": FLOAT.format("relu")},
    {"epochs": 1, "trains": "everything", "scheme": FLOAT.format("leaky_clip")},
    {"epochs": 1, "trains": "everything", "scheme": FLOAT.format("clip")},
    {"epochs": 2, "trains": "everything", "scheme": ""},
    {"epochs": 1, "trains": "batch_norm", "scheme": '[stages.scheme]\nname = "bireal"\nbits = "1/1"\nscaled = false\n'},
]


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory):
    file = tmp_path_factory.mktemp("experiments") / "stepwise.toml"
    file.write_text(STEPWISE + "".join(STAGE.format(**stage) for stage in STAGES))
    return load_experiment(file)


@pytest.fixture(scope="module")
def trained_stepwise(stepwise, tmp_path_factory, data_dir):
    directory = tmp_path_factory.mktemp("runs") / "stepwise"
    train(stepwise, directory, data_dir=data_dir)
    return directory


def test_stepwise_training(trained_stepwise, stepwise, data_dir):
    run = Run(trained_stepwise)
    rows = run.metrics
    assert [(row["stage"], row["epoch"]) for row in rows] == [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (3, 6), (4, 7)]
    assert [row["step"] for row in rows] == [8 * epoch for epoch in range(1, 8)]
    assert "flip_ratio" not in rows[3]
    assert rows[4]["flip_ratio"] > 0
    assert rows[6]["flip_ratio"] == 0
    assert all(row["val_top1"] > 50 for row in (rows[3], rows[6]))
    assert run.result["best_top1"] == rows[6]["val_top1"]  # not the float network's
    assert evaluate(trained_stepwise, data_dir=data_dir)["top1"] == run.result["top1"]
    _, model = load_run(trained_stepwise)
    with larq.context.quantized_scope(True):
        kernels = [tf.convert_to_tensor(variable).numpy() for variable in binary_variables(model)]
    assert len(kernels) == 2
    assert all(set(np.unique(kernel)) == {-1.0, 1.0} for kernel in kernels)


@pytest.fixture
def kept(monkeypatch):
    """The weights that each epoch ends with, by epoch."""
    found = {}
    whole = callbacks.SaveRun.on_epoch_end

    def keep(self, epoch, logs=None):
        whole(self, epoch, logs)
        found[epoch] = {variable.name: variable.numpy() for variable in self.model.weights}

    monkeypatch.setattr(callbacks.SaveRun, "on_epoch_end", keep)
    return found


def test_a_stage_starts_from_the_last_one_and_trains_what_it_says(stepwise, tmp_path, data_dir, kept, monkeypatch):
    started = []
    fit = trainer._Training._fit

    def noted(self, model, *args):
        started.append({variable.name: variable.numpy() for variable in model.weights})
        return fit(self, model, *args)

    monkeypatch.setattr(trainer._Training, "_fit", noted)
    train(stepwise, tmp_path / "run", data_dir=data_dir)
    for stage, last_epoch in enumerate([1, 2, 3, 5], start=1):
        before, after = kept[last_epoch].values(), started[stage].values()
        assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    for name, value in kept[6].items():
        norm = any(part in name for part in ("/gamma", "/beta", "/moving_"))
        assert np.array_equal(kept[5][name], value) == (not norm), name


@pytest.mark.parametrize("epoch", [1, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (5, 6))])
def test_resumes_inside_and_between_stages(stepwise, trained_stepwise, tmp_path, data_dir, monkeypatch, epoch):
    save = callbacks.SaveRun.on_epoch_end

    def stop(self, at, logs=None):
        if at == epoch:
            raise KeyboardInterrupt
        save(self, at, logs)

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.SaveRun, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(stepwise, tmp_path / "run", data_dir=data_dir)
    train(stepwise, tmp_path / "run", data_dir=data_dir)
    assert same_weights(trained_stepwise / "weights.h5", tmp_path / "run" / "weights.h5")
    assert [row["loss"] for row in Run(tmp_path / "run").metrics] == [
        row["loss"] for row in Run(trained_stepwise).metrics
    ]


def test_killed_after_the_last_epoch(stepwise, trained_stepwise, tmp_path, data_dir, monkeypatch):
    """Only result.json is missing: the network of the last stage comes from the checkpoint."""
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_result", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(stepwise, tmp_path / "run", data_dir=data_dir)
    result = train(stepwise, tmp_path / "run", data_dir=data_dir)
    assert result["top1"] == Run(trained_stepwise).result["top1"]


# --- teachers ---


def distilled(teacher, **keys):
    values = {"teacher": str(teacher), "temperature": 2.0, "weight": 0.5, **keys}
    overrides = [f"stages.0.distillation.{key}={json.dumps(value)}" for key, value in values.items()]
    return resolve("lenet5", epochs=2, batch_size=500, overrides=overrides).experiment


def test_a_student_learns_from_its_teacher_alone(trained, tmp_path, data_dir):
    experiment = distilled(trained, weight=1.0)
    result = train(experiment, tmp_path / "run", data_dir=data_dir)
    assert result["top1"] > 60
    assert result["parameters"] == 431_220
    assert read_weights(tmp_path / "run" / "weights.h5").keys() == read_weights(trained / "weights.h5").keys()
    assert evaluate(tmp_path / "run", data_dir=data_dir)["top1"] == result["top1"]


def test_the_loss_is_the_formula(trained, tmp_path, data_dir, monkeypatch):
    """Of one step: (1 − w) CE + w T² KL, with the teacher's own normalisation."""
    experiment = distilled(trained, weight=0.25, temperature=3.0)
    experiment = resolve(
        experiment=_written(tmp_path, experiment), overrides=["data.mean=[0.5]", "data.std=[0.25]"]
    ).experiment
    training = trainer._Training(None, experiment, None, trainer.build_replicas("single"), None, True)
    model = training.network(experiment.stages[0])
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
    found = model.evaluate(normalised(0.5, 0.25), labels, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(0.75 * cross_entropy + 0.25 * 9 * divergence, rel=1e-4)


def _written(folder, experiment):
    (folder / "experiment.toml").write_text(experiment.to_toml())
    return folder / "experiment.toml"


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("nowhere", "no run in 'nowhere'"),
        ("zoo/quicknt", "unknown network 'zoo/quicknt'; did you mean 'zoo/quicknet'"),
    ],
)
def test_teacher_that_cannot_be(teacher, message, tmp_path, data_dir):
    with pytest.raises(BnnError, match=message):
        train(distilled(teacher), tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


def test_teacher_of_other_images(tmp_path, trained, data_dir):
    overrides = [f"stages.0.distillation.teacher={json.dumps(str(trained))}", "data.name=fake", "data.examples=4"]
    experiment = resolve("resnet20", batch_size=4, epochs=1, overrides=overrides).experiment
    with pytest.raises(BnnError, match="takes images 28 × 28 × 1 in 10 classes; the student has 32 × 32 × 3 in 10"):
        train(experiment, tmp_path / "run", data_dir=data_dir)


def test_smoothing_is_in_the_training_loss_alone(tmp_path, data_dir):
    experiment = resolve("lenet5", epochs=1, overrides=["stages.0.label_smoothing=0.1"]).experiment
    train(experiment, tmp_path / "run", data_dir=data_dir)
    row = Run(tmp_path / "run").metrics[0]
    measured = evaluate(tmp_path / "run", data_dir=data_dir)
    assert measured["loss"] == pytest.approx(row["val_cross_entropy"], rel=1e-5)
    assert row["val_loss"] > row["val_cross_entropy"]
