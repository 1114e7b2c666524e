"""Recipes against the numbers of the references in tests/golden/recipes, derived from our built objects."""

import pytest
import recipes
import tensorflow as tf
from helpers import ROOT

from bnn_keras import catalog
from bnn_keras.build import build_loss, build_model
from bnn_keras.experiment import all_experiments
from bnn_keras.optimizers import decayed_variables

EXPERIMENTS = {experiment.name: experiment for experiment in all_experiments() if experiment.published}
GOLDEN = {name: recipes.read(recipes.file_of(name)) for name in EXPERIMENTS if recipes.file_of(name).is_file()}
LARGE = ("imagenet2012",)


def given(table):
    """Return the fields of a table that the reference gives."""
    return {key: field["value"] for key, field in table.items() if field["value"] != recipes.NOT_GIVEN}


def row(name):
    """Return the fields of a row that the reference gives."""
    return given({key: GOLDEN[name][key] for key in recipes.ROW_FIELDS})


def stages(name):
    """Yield each stage of an experiment with the fields that the reference gives."""
    for number, stage in enumerate(EXPERIMENTS[name].stages, 1):
        yield stage, given(GOLDEN[name]["stage"][str(number)])


def close(value):
    """Return a value that numbers are equal to up to rounding."""
    return value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-15)


def train_examples(experiment):
    return catalog.DATASETS[experiment.data.name].train_examples


def test_every_published_row_has_a_file():
    files = {path.name for path in recipes.FOLDER.glob("*.toml")}
    assert files == {recipes.file_of(name).name for name in EXPERIMENTS}


def test_document_lists_every_row(monkeypatch):
    """Update it with `python docs/reproducing.py > docs/reproducing.md`."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import reproducing

    assert (ROOT / "docs" / "reproducing.md").read_text() == reproducing.document()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_field_has_a_value_and_a_source(name):
    golden = GOLDEN[name]
    assert len(golden["stage"]) == len(EXPERIMENTS[name].stages)
    tables = [{key: golden[key] for key in recipes.ROW_FIELDS}, golden["initial"], *golden["stage"].values()]
    for stage in golden["stage"].values():
        assert set(recipes.STAGE_FIELDS) <= set(stage)
    for field in (field for table in tables for field in table.values()):
        assert field.keys() == {"value", "source"}
        assert field["source"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_status(name):
    golden = GOLDEN[name]
    assert golden["status"] in recipes.STATUSES
    assert EXPERIMENTS[name].source.repository == golden["repository"]
    assert EXPERIMENTS[name].source.reconstructed == (golden["status"] == "reconstructed")
    assert bool(golden.get("why")) == (golden["status"] != "exact")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_images(name):
    experiment, fields = EXPERIMENTS[name], row(name)
    data = experiment.data
    found = {"train": train_examples(experiment), "shuffle": data.shuffle, "channels": data.channels}
    expected = fields.get("images", {})
    assert {key: found[key] for key in expected} == expected
    expected = fields.get("normalization", {})
    found = {"mean": data.mean, "std": data.std, "mean_image": data.mean_image is not None}
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-9)
    if "augmentation" in fields:
        found = recipes.augmentation_of(experiment)
        assert found.keys() == fields["augmentation"].keys()
        assert all(found[key] == close(value) for key, value in fields["augmentation"].items())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_evaluation(name):
    experiment = EXPERIMENTS[name]
    data = experiment.data
    examples = {"mnist": 10_000, "imagenet2012": 50_000}.get(data.name, 10_000)
    found = {
        **experiment.published.model_dump(),
        **{key: getattr(data, key) for key in ("resize", "keep_aspect", "crop_first", "interpolation")},
        "images": data.test_examples or examples,
    }
    expected = row(name)["evaluation"]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_optimizer(name):
    for stage, fields in stages(name):
        expected = fields.get("optimizer", {})
        found = recipes.optimizer_of(stage)
        for key, value in expected.items():
            assert found[key] == close(recipes.OPTIMIZERS.get(value, value)), key


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_schedules(name):
    experiment = EXPERIMENTS[name]
    for stage, fields in stages(name):
        batches = train_examples(experiment) / stage.batch_size
        steps = int(batches) if stage.drop_last else -int(-batches // 1)
        found = {"batch": stage.batch_size, "steps_per_epoch": steps, "epochs": stage.epochs}
        assert found == {**found, **{key: fields[key] for key in found if key in fields}}
        functions = recipes.schedules_of(experiment, stage)
        for key in ("learning_rate", "gamma", "t", "tau"):
            if key in fields:
                table = fields[key]
                points = table.get("epochs") or [step / steps for step in table["steps"]]
                assert [functions[key](point) for point in points] == close(table["values"]), key


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_loss(name):
    labels, logits = tf.constant([1]), tf.constant([[0.5, 2.0, -1.0, 0.25]], tf.float64)
    log_softmax = tf.nn.log_softmax(logits)[0]
    for stage, fields in stages(name):
        expected = fields.get("loss")
        if expected is None:
            continue
        smoothing = expected["label_smoothing"]
        value = -(1 - smoothing) * log_softmax[1] - smoothing * tf.reduce_mean(log_softmax)
        assert float(build_loss(stage)(labels, logits)) == pytest.approx(float(value), rel=1e-6)
        found = stage.distillation.model_dump() if stage.distillation else None
        if "distillation" not in expected:
            assert found is None
            continue
        teacher = {**expected["distillation"], "teacher": found["teacher"]}
        assert found == teacher
        assert found["teacher"].endswith(expected["distillation"]["teacher"])


def cases():
    """Return names of rows, of which those with large networks are slow."""
    for name, experiment in EXPERIMENTS.items():
        slow = experiment.data.name in LARGE or experiment.network.name.startswith(("wrn_20_10", "resnet18"))
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name", list(cases()))
def test_initial_deviations_and_decayed_tensors(name):
    experiment = EXPERIMENTS[name]
    initial = given(GOLDEN[name]["initial"])
    for number, (stage, fields) in enumerate(stages(name)):
        needed = fields.get("decayed") and stage.optimizer.weight_decay
        if number and not needed:
            assert not fields.get("decayed")
            continue
        model = build_model(experiment, stage)
        variables = recipes.roles(model)
        if number == 0:
            assert {role for role, *_ in variables} <= set(GOLDEN[name]["initial"])
            for role, variable, shape in (row for row in variables if row[0] in initial):
                mean, deviation = recipes.distribution(initial[role], tuple(shape))
                assert not recipes.deviates(variable.numpy(), mean, deviation), variable.name
        if "decayed" in fields:
            decayed = []
            if stage.optimizer.weight_decay:
                choice = stage.optimizer.weight_decay_of
                decayed = decayed_variables(model.trainable_variables, choice, experiment.latent_free)
            everything = fields["decayed"] == ["everything"]
            names = {variable.name for role, variable, _ in variables if everything or role in fields["decayed"]}
            assert {variable.name for variable in decayed} == names
        if "weight_decay" in fields:
            assert stage.optimizer.weight_decay == close(fields["weight_decay"])
        tf.keras.backend.clear_session()
