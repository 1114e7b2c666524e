"""Shipped experiments: golden copies, published figures, schedules in closed form, and short trainings."""

import dataclasses
import gc
import json
import math
import shlex
import sys

import numpy as np
import pytest
import tensorflow as tf
import tomli_w
from helpers import GOLDEN, ROOT

from bnn_keras import catalog, train
from bnn_keras.build import (
    build_annealing,
    build_loss,
    build_model,
    build_optimizer,
    build_schedules,
    build_scheme,
)
from bnn_keras.data import open_data
from bnn_keras.data.pipelines import training_batches
from bnn_keras.experiment import all_experiments, experiment_names, load_experiment, resolve
from bnn_keras.interop import reference_names
from bnn_keras.optimizers import decayed_variables
from bnn_keras.runs import Run
from bnn_keras.training import trainer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module", autouse=True)
def _keep_imported_modules():
    """Exclude imported modules from the garbage collection after each test, which takes 0.25 s with TensorFlow."""
    gc.freeze()


EXPERIMENTS = {experiment.name: experiment for experiment in all_experiments()}

# Published results: network, dataset, scheme, bits, optimizer, top-1, top-5.
PUBLISHED = {
    ("lenet5", "mnist", "xnor", "1/1", "adam_torch", 99.23, None),
    ("nin", "cifar10", "xnor", "1/1", "adam_torch", 86.28, None),
    ("alexnet", "imagenet2012", "xnor", "1/1", "adam_torch", 44.87, 69.70),
    ("lenet5", "mnist", "float", "32/32", "adam_torch", 99.34, None),
    ("nin", "cifar10", "float", "32/32", "adam_torch", 89.67, None),
    ("alexnet", "imagenet2012", "float", "32/32", "sgd", 57.1, 80.2),
    ("resnet18", "imagenet2012", "xnor", "1/1", "adam_torch", 51.2, 73.4),
    ("wrn_20_10", "cifar100", "mcdonnell", "1/32", "sgd", 80.0, None),
    ("wrn_20_10", "cifar100", "float", "32/32", "sgd", 80.5, None),
    ("binarynet", "cifar10", "binarynet", "1/1", "bop", 91.3, None),
    ("binary_alexnet", "imagenet2012", "binarynet", "1/1", "bop", 41.1, None),
    ("xnornet", "imagenet2012", "binarynet", "1/1", "bop", 45.9, None),
    ("birealnet18", "imagenet2012", "bireal", "1/1", "bop", 56.6, None),
    ("birealnet18", "imagenet2012", "bireal", "1/1", "adam_torch", 56.4, 79.5),
    ("birealnet18", "imagenet2012", "bireal", "1/1", "sgd", 56.4, 79.5),
    ("birealnet34", "imagenet2012", "bireal", "1/1", "adam_torch", 62.2, 83.9),
    ("birealnet34", "imagenet2012", "bireal", "1/1", "sgd", 62.2, 83.9),
    ("birealnet50", "imagenet2012", "bireal", "1/1", "adam_torch", 62.6, 83.9),
    ("birealnet18", "imagenet2012", "reactnet", "1/1", "adam_torch", 65.9, None),
    ("reactnet_a", "imagenet2012", "reactnet", "1/1", "adam_torch", 69.5, None),
    ("resnet20", "cifar10", "irnet", "1/1", "sgd", 86.5, None),
    ("resnet20", "cifar10", "irnet", "1/32", "sgd", 90.8, None),
    ("vgg_small", "cifar10", "irnet", "1/1", "sgd", 90.4, None),
    ("resnet18_cifar", "cifar10", "irnet", "1/1", "sgd", 91.5, None),
    ("resnet18", "imagenet2012", "irnet", "1/1", "sgd", 58.1, 80.0),
    ("resnet18", "imagenet2012", "irnet", "1/32", "sgd", 66.5, 86.8),
    ("resnet34", "imagenet2012", "irnet", "1/1", "sgd", 62.9, 84.1),
    ("resnet34", "imagenet2012", "irnet", "1/32", "sgd", 70.4, 89.5),
    ("resnet20", "cifar10", "recu", "1/1", "sgd", 87.5, None),
    ("vgg_small", "cifar10", "recu", "1/1", "sgd", 92.2, None),
    ("resnet18_cifar", "cifar10", "recu", "1/1", "sgd", 92.8, None),
    ("resnet18", "imagenet2012", "recu", "1/1", "sgd", 60.98, 82.57),
    ("resnet34", "imagenet2012", "recu", "1/1", "sgd", 65.1, 85.78),
}

# Other published values: float networks, standard deviations and numbers of runs.
OTHER_FIGURES = {
    "xnor_net/lenet5_mnist": {"float_top1": 99.34},
    "xnor_net/nin_cifar10_whitened": {"float_top1": 89.67},
    "xnor_net/alexnet_imagenet2012_caffe": {"float_top1": 57.1, "float_top5": 80.2},
    "binary_wide_resnet/wrn_20_10_cifar100": {"top1_deviation": 0.26, "runs": 5, "float_top1": 80.5},
    "binary_wide_resnet/wrn_20_10_cifar100_float": {"top1_deviation": 0.24, "runs": 5},
}

# Experiments whose source does not contain the complete recipe.
RECONSTRUCTED = {
    "binary_wide_resnet/wrn_20_1_fashion_mnist",
    "bireal_net/birealnet18_imagenet2012_stepwise",
    "bireal_net/birealnet34_imagenet2012_stepwise",
    "bireal_net/resnet20_fashion_mnist",
    "ir_net/resnet18_cifar_cifar10",
    "ir_net/resnet18_imagenet2012",
    "ir_net/resnet18_imagenet2012_1w32a",
    "ir_net/resnet20_fashion_mnist",
    "ir_net/resnet34_imagenet2012",
    "ir_net/resnet34_imagenet2012_1w32a",
    "reactnet/reactnet_a_imagenet2012",
    "rethinking_bnn/binarynet_fashion_mnist",
    "short/binarynet_fashion_mnist_bop",
    "short/lenet5_fashion_mnist",
    "short/lenet5_fashion_mnist_bop_grid",
    "short/lenet5_mnist_5k_binarynet",
    "short/lenet5_mnist_5k_bireal",
    "short/lenet5_mnist_5k_bop",
    "short/lenet5_mnist_5k_float",
    "short/lenet5_mnist_5k_irnet",
    "short/lenet5_mnist_5k_mcdonnell",
    "short/lenet5_mnist_5k_mcdonnell_1w1a",
    "short/lenet5_mnist_5k_reactnet",
    "short/lenet5_mnist_5k_recu",
    "short/lenet5_mnist_5k_xnor",
    "short/resnet20_fashion_mnist_binarynet",
    "short/resnet20_fashion_mnist_bireal",
    "short/resnet20_fashion_mnist_bop",
    "short/resnet20_fashion_mnist_float",
    "short/resnet20_fashion_mnist_irnet",
    "short/resnet20_fashion_mnist_mcdonnell",
    "short/resnet20_fashion_mnist_xnor",
    "bireal_net/resnet18_imagenet2012_xnor",
    "xnor_net/alexnet_imagenet2012_caffe_float",
    "xnor_net/lenet5_fashion_mnist",
    "xnor_net/lenet5_mnist_5k",
    "xnor_net/lenet5_mnist_float",
    "xnor_net/nin_cifar10",
    "xnor_net/nin_cifar10_whitened",
    "xnor_net/nin_cifar10_whitened_float",
    "xnor_net/nin_fashion_mnist",
}


def steps_per_epoch(experiment, stage):
    """Return the number of steps per epoch on the complete training split."""
    examples = catalog.DATASETS[experiment.data.name].train_examples
    return examples // stage.batch_size if stage.drop_last else -(-examples // stage.batch_size)


def sampled_schedules(experiment):
    """Return the scheduled values of each stage at some of its steps."""
    tables = []
    before = 0
    for stage in experiment.stages:
        steps = steps_per_epoch(experiment, stage)
        total = stage.epochs * steps
        samples = sorted({step for step in (0, 1, steps, total // 2, total - steps, total - 1) if step < total})
        table = {"epochs": stage.epochs, "steps_per_epoch": steps, "steps": samples}
        for name, schedule in build_schedules(stage.optimizer, stage.epochs).items():
            table[name] = [schedule(step / steps) for step in samples]
        for name, schedule in build_annealing(experiment, stage).items():
            table[name] = [schedule(before + step / steps) for step in samples]
        tables.append(table)
        before += stage.epochs
    return tables


def close(found, expected):
    """Return whether two TOML documents are equal up to rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-12, abs=1e-300)
    return found == expected and type(found) is type(expected)


@pytest.fixture
def golden_folder():
    return ROOT / "tests" / "golden" / "experiments"


@pytest.mark.parametrize("name", experiment_names())
def test_experiment_equals_its_golden_copy(name, golden_folder, request):
    """Update the copies with `pytest tests/test_recipes.py --update`, and review the difference."""
    experiment = EXPERIMENTS[name]
    text = experiment.to_toml() + "\n" + tomli_w.dumps({"schedules": sampled_schedules(experiment)})
    file = golden_folder / f"{name.replace('/', '-')}.toml"
    if request.config.getoption("--update"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        pytest.skip(f"{file} was written")
    found, expected = tomllib.loads(text), tomllib.loads(file.read_text())
    differing = [key for key in found.keys() | expected.keys() if not close(found.get(key), expected.get(key))]
    assert differing == []


def test_every_golden_copy_has_an_experiment(golden_folder):
    names = {name.replace("/", "-") for name in experiment_names()}
    assert {file.stem for file in golden_folder.iterdir()} == names


@pytest.mark.parametrize("network", sorted({experiment.network.name for experiment in EXPERIMENTS.values()}))
def test_one_default_for_each_network(network):
    defaults = [
        name for name, experiment in EXPERIMENTS.items() if experiment.network.name == network and experiment.default
    ]
    assert len(defaults) == 1
    assert resolve(network).experiment.name == defaults[0]


def test_every_network_of_the_references_has_an_experiment():
    """Except for those that README lists without recipes, which train with the plain one."""
    trained = {experiment.network.name for experiment in EXPERIMENTS.values()}
    without = {"torchvision_resnet18", "torchvision_resnet34"}
    assert trained | without == {name for name in catalog.NETWORKS if not name.startswith("zoo/")}
    assert not trained & without


def test_published_figures():
    found = [
        (
            experiment.network.name,
            experiment.data.name,
            experiment.scheme.name,
            experiment.scheme.bits,
            experiment.stages[-1].optimizer.name,
            experiment.published.top1,
            experiment.published.top5,
        )
        for experiment in EXPERIMENTS.values()
        if experiment.published
    ]
    assert len(found) == len(PUBLISHED)
    assert set(found) == PUBLISHED


def test_other_published_figures():
    figures = {
        name: experiment.published.model_dump(exclude_none=True, exclude={"of", "top1", "top5"})
        for name, experiment in EXPERIMENTS.items()
        if experiment.published
    }
    assert {name: values for name, values in figures.items() if values} == OTHER_FIGURES


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.published])
def test_published_figure_is_of_the_best_or_the_last_epoch(name):
    """These references keep track of the best test accuracy; the others report, or keep, the last epoch."""
    document = tomllib.loads((ROOT / "experiments" / f"{name}.toml").read_text())
    best = ("xnor_net", "bireal_net", "ir_net", "reactnet", "recu")
    tracked = name.startswith(best) and not name.endswith(("_stepwise", "_xnor"))
    assert document["published"]["of"] == ("best" if tracked else "last")


def test_references_that_score_a_part_of_the_test_images():
    numbers = {name: experiment.data.test_examples for name, experiment in EXPERIMENTS.items()}
    assert {name: number for name, number in numbers.items() if number} == {
        "ir_net/resnet20_cifar10": 9984,
        "ir_net/resnet20_cifar10_1w32a": 9984,
        "ir_net/vgg_small_cifar10": 9984,
        "rethinking_bnn/binary_alexnet_imagenet2012": 49152,
        "rethinking_bnn/birealnet18_imagenet2012": 49152,
        "rethinking_bnn/xnornet_imagenet2012": 49152,
    }


def test_reconstructed_recipes():
    assert {name for name, experiment in EXPERIMENTS.items() if experiment.source.reconstructed} == RECONSTRUCTED


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_names_paper_and_source(name):
    experiment = EXPERIMENTS[name]
    assert experiment.paper
    assert experiment.source.repository.startswith("https://github.com/")
    assert experiment.source.files


@pytest.mark.parametrize("name", experiment_names())
def test_first_command_in_the_header_finds_the_experiment(name):
    lines = (ROOT / "experiments" / f"{name}.toml").read_text().splitlines()
    program, command, network, *words = shlex.split(next(line for line in lines if "bnnk train" in line).lstrip("# "))
    assert (program, command) == ("bnnk", "train")
    options = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    assert resolve(network, **options).experiment == load_experiment(name)


# --- networks, schemes, optimizers and training ---


def networks():
    """Return experiments and stages, experiment for each distinct network that some stage trains."""
    distinct = {}
    for experiment in EXPERIMENTS.values():
        for stage in experiment.stages:
            scheme = experiment.scheme_of(stage)
            network = (experiment.network.name, experiment.network.choices.get("structure"), experiment.latent_free)
            anneals = catalog.SCHEMES[scheme.name].anneals
            options = tuple(value for name, value in scheme.choices.items() if name not in anneals)
            key = (*network, scheme.name, scheme.bits, *options, experiment.input_shape)
            distinct.setdefault(key, pytest.param(experiment, stage, id="-".join(map(str, key[:5]))))
    return list(distinct.values())


SHALLOW = ("lenet5", "nin", "binarynet", "vgg_small")


def is_slow(case):
    """Return whether a network has many layers, which take long to build, or large ones."""
    return case.values[0].network.name not in SHALLOW


def build_and_check(experiment, stage):
    """Build the network for images of its dataset."""
    model = build_model(experiment, stage)
    assert model.input_shape == (None, *experiment.input_shape)
    assert model.output_shape == (None, experiment.data.row.classes)


@pytest.mark.parametrize(("experiment", "stage"), [case for case in networks() if not is_slow(case)])
def test_network_is_built(experiment, stage):
    build_and_check(experiment, stage)


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "stage"), [case for case in networks() if is_slow(case)])
def test_deep_network_is_built(experiment, stage):
    build_and_check(experiment, stage)


@pytest.mark.parametrize("name", experiment_names())
def test_scheme_optimizer_and_loss_are_built(name):
    experiment = EXPERIMENTS[name]
    for stage in experiment.stages:
        scheme = build_scheme(experiment, stage)
        assert scheme.bits == experiment.scheme_of(stage).bits
        optimizer = build_optimizer(stage.optimizer, stage.epochs)
        parts = optimizer.optimizers if experiment.latent_free else [optimizer]  # Bop and Adam
        for key, schedule in build_schedules(stage.optimizer, stage.epochs).items():
            values = [float(getattr(part, key)) for part in parts if hasattr(part, key)]
            assert values == [pytest.approx(schedule(0), rel=1e-6)]
        loss = build_loss(stage)(tf.constant([1]), tf.constant([[0.0, 0.0, 0.0]])).numpy()
        assert loss == pytest.approx(math.log(3), rel=1e-6)


def gentle(stage):
    """Return the optimizer of a stage, with an initial rate at which no network diverges on batches of four images."""
    rate = stage["optimizer"]["learning_rate"]
    if isinstance(rate, dict) and "initial" in rate:
        rate = {**rate, "initial": min(rate["initial"], 0.001)}
    return {**stage["optimizer"], "learning_rate": rate}


def small(experiment):
    """Return the experiment with two steps of four generated images per stage."""
    document = experiment.to_document()
    data = {key: value for key, value in document["data"].items() if key != "name"}
    stages = [{**stage, "epochs": 1, "batch_size": 4, "optimizer": gentle(stage)} for stage in document["stages"]]
    fake = {**data, "name": "fake", "like": experiment.data.name, "examples": 8}
    return type(experiment).model_validate({**document, "data": fake, "stages": stages})


def kinds(value):
    """Return a table with types instead of numbers, except 0, which switches a feature off."""
    if isinstance(value, dict):
        return {key: kinds(inner) for key, inner in value.items()}
    return value if isinstance(value, str | bool) or value == 0 else type(value).__name__


AUGMENTATIONS = {
    repr(kinds(experiment.data.model_dump(exclude={"name", "std"}))): experiment for experiment in EXPERIMENTS.values()
}


@pytest.mark.parametrize("experiment", AUGMENTATIONS.values(), ids=lambda experiment: experiment.name)
def test_images_are_augmented(experiment):
    experiment = small(experiment)
    arrays = {name: np.zeros(experiment.shapes_of(name)[0], np.float32) for name in experiment.data.arrays}
    experiment = experiment.with_arrays(lambda: arrays)
    batches = training_batches(open_data(experiment), experiment, experiment.stages[0], 0, 1)
    images, labels = next(iter(batches))
    assert images.shape == (4, *experiment.input_shape)
    assert labels.shape == (4,)
    assert np.isfinite(images).all()


# Networks that differ from another one only in depth.
DEEPER = {"birealnet34": "birealnet18", "resnet34": "resnet18"}


def features(experiment):
    """Return each option of the augmentation, schemes, optimizers and stages of an experiment, with its kind."""
    augmentation = experiment.data.augmentation
    tables = [("augmentation", augmentation.model_dump() if augmentation else {})]
    for stage in experiment.stages:
        scheme = experiment.scheme_of(stage)
        tables += [
            ("stage", stage.model_dump(exclude={"scheme", "optimizer"})),
            ("optimizer", stage.optimizer.model_dump(exclude={"weight_decay_of"})),
            (scheme.name, scheme.model_dump()),
        ]
    return {(table, option, repr(kinds(value))) for table, values in tables for option, value in values.items()}


def combinations():
    """Yield one experiment for each distinct combination of network, augmentation, schemes and optimizers.

    Recipes that differ only in numbers, such as depth, rates or epochs, are one combination. Those of options that
    others have too are nightly.
    """
    distinct, seen = {}, set()
    for experiment in sorted(EXPERIMENTS.values(), key=lambda item: math.prod(item.input_shape)):
        name = DEEPER.get(experiment.network.name, experiment.network.name)
        stages = [(experiment.scheme_of(stage).model_dump(), stage.model_dump()) for stage in experiment.stages]
        augmentation = experiment.data.augmentation
        key = (
            catalog.NETWORKS[name].builder,
            experiment.network.choices.get("structure"),
            kinds(augmentation.model_dump()) if augmentation else None,
            [(kinds(scheme), kinds(stage)) for scheme, stage in stages],
        )
        if experiment.network.name not in DEEPER:
            distinct.setdefault(repr(key), experiment)
    for experiment in distinct.values():
        marks = pytest.mark.slow if features(experiment) - seen else pytest.mark.nightly
        seen |= features(experiment)
        yield pytest.param(experiment, id=experiment.name, marks=marks)


@pytest.fixture
def teacher(monkeypatch):
    """Replace teachers, which are runs that the user has, by a function without weights."""

    def load(name, student):
        assert name.endswith("/runs/torchvision_resnet34")
        return lambda images: tf.tile(tf.reduce_mean(images, (1, 2)), (1, 334))[:, :1000]

    monkeypatch.setattr(trainer, "load_teacher", load)


@pytest.mark.usefixtures("eager", "teacher")
@pytest.mark.parametrize("experiment", list(combinations()))
def test_trains_two_steps_of_each_stage(experiment, tmp_path, monkeypatch):
    """Train with augmentation, optimizer and checkpoints. The golden copies hold schedules at full length."""
    row = catalog.NETWORKS[experiment.network.name]
    if experiment.data.name == "imagenet2012":  # crops of 96 pixels instead of 224; xnornet needs 217
        size = 217 if experiment.network.name == "xnornet" else 96
        monkeypatch.setitem(catalog.NETWORKS, row.name, dataclasses.replace(row, input_shape=(size, size, 3)))
        data = experiment.data.model_copy(update={"resize": size + 14})
        experiment = experiment.model_copy(update={"data": data})
    if "width" in experiment.network.choices:
        network = experiment.network.model_copy(update={"width": 1.0})
        experiment = experiment.model_copy(update={"network": network})
    experiment = small(experiment)
    result = train(experiment, tmp_path / "run", plain=True)
    rows = Run(tmp_path / "run").metrics
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, 2 * stage + 2) for stage in range(len(experiment.stages))
    ]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert result["epochs"] == len(experiment.stages)


# --- schedules in closed form ---


def rate(name, stage=0):
    chosen = EXPERIMENTS[name].stages[stage]
    return build_schedules(chosen.optimizer, chosen.epochs)["learning_rate"]


def close_to(*values):
    return pytest.approx(values, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", ["wrn_20_10_cifar100", "wrn_20_10_cifar100_float", "wrn_20_1_fashion_mnist"])
def test_first_cycle_of_wide_resnets_is_one_epoch_ahead(name):
    learning_rate = rate(f"binary_wide_resnet/{name}")
    assert [learning_rate(epoch) for epoch in (0, 0.9, 1, 1.9)] == close_to(0.05005, 0.05005, 1e-4, 1e-4)
    assert {learning_rate(epoch) for epoch in (2, 4, 8, 16, 32, 64, 128)} == {0.1}
    assert [learning_rate(epoch) for epoch in (3, 6, 12, 192)] == close_to(*4 * [0.05005])
    assert learning_rate(255) > 1e-4  # each later cycle stops one epoch before its minimum


@pytest.mark.parametrize(("depth", "initial"), [(18, 1e-3), (34, 1e-3), (50, 5e-4)])
def test_learning_rate_of_bireal_nets_is_zero_in_the_last_epoch(depth, initial):
    learning_rate = rate(f"bireal_net/birealnet{depth}_imagenet2012")
    found = [learning_rate(epoch) for epoch in (0, 0.99, 127, 254, 255, 255.99)]
    assert found == close_to(initial * 255 / 256, initial * 255 / 256, initial / 2, initial / 256, 0, 0)


@pytest.mark.parametrize(("depth", "rates", "boundaries"), [(18, (0.01, 1e-4), (10, 15)), (34, (0.08, 8e-4), (20, 30))])
def test_bireal_nets_stepwise_stages(depth, rates, boundaries):
    name = f"bireal_net/birealnet{depth}_imagenet2012_stepwise"
    experiment = EXPERIMENTS[name]
    schemes = [experiment.scheme_of(stage) for stage in experiment.stages]
    names = [(scheme.name, scheme.bits) for scheme in schemes]
    assert names == 3 * [("float", "32/32")] + 2 * [("bireal", "1/1")]
    assert [scheme.activation for scheme in schemes] == ["relu", "leaky_clip", "clip", None, None]
    assert [scheme.choices.get("scaled") for scheme in schemes] == [None, None, None, True, False]
    assert {scheme.choices.get("masked_gradient") for scheme in schemes[3:]} == {False}
    assert {stage.optimizer.choices["velocity"] for stage in experiment.stages} == {"steps"}
    factors = [dict(stage.optimizer.learning_rate_factors) for stage in experiment.stages]
    assert factors == [*4 * [{"fc/bias:0": 2}], {"fc/bias:0": 2, "*conv*": 0, "*.downsample.*": 0}]
    learning_rate = rate(name, 3)
    changes = [epoch for epoch in range(1, 40) if learning_rate(epoch) != learning_rate(epoch - 1)]
    assert (learning_rate(0), *changes) == (rates[0], *boundaries)
    assert rate(name, 4)(0) == pytest.approx(learning_rate(39), rel=1e-12) == rates[1]


@pytest.mark.parametrize("name", ["resnet18_imagenet2012", "resnet34_imagenet2012_1w32a"])
def test_irnet_learning_rate_on_imagenet(name):
    experiment = EXPERIMENTS[f"ir_net/{name}"]
    (stage,) = experiment.stages
    steps = steps_per_epoch(experiment, stage)
    learning_rate = rate(experiment.name)
    samples = (0, 1_250, 2_499, 2_500, 18_749, 18_750, 37_499, 37_500, 56_249, 56_250, 62_499)
    expected = (0.2, 0.5, 0.8 - 0.6 / 2_500, 0.8, 0.8, 0.08, 0.08, 0.008, 0.008, 8e-4, 8e-4)
    assert steps * stage.epochs == 62_500
    assert [learning_rate(step / steps) for step in samples] == close_to(*expected)


def test_irnet_t_and_k():
    experiment = EXPERIMENTS["ir_net/resnet20_cifar10"]
    annealing = build_annealing(experiment, experiment.stages[0])
    assert [annealing["t"](epoch) for epoch in (0, 100, 300, 399)] == close_to(
        1e-3, 1e-2, 1, 10 ** (-3 + 4 * 399 / 400)
    )
    assert [annealing["k"](epoch) for epoch in (0, 100, 300, 399)] == close_to(1e3, 1e2, 1, 1)


@pytest.mark.parametrize(("name", "epochs"), [("resnet20_cifar10", 600), ("resnet34_imagenet2012", 200)])
def test_recu_learning_rate_and_tau(name, epochs):
    experiment = EXPERIMENTS[f"recu/{name}"]
    learning_rate = rate(experiment.name)
    warm_up = [0.1 * (epoch + 1) / 5 for epoch in range(5)]
    later = [0.05 * (1 + math.cos(math.pi * (epoch - 4) / (epochs - 4))) for epoch in (5, 100, epochs - 1)]
    assert [learning_rate(epoch) for epoch in (0, 1, 2, 3, 4, 5, 100, epochs - 1)] == close_to(*warm_up, *later)
    tau = build_annealing(experiment, experiment.stages[0])["tau"]
    factor = 0.14 / (math.e - 1)
    found = [tau(epoch) for epoch in (0, epochs / 2, epochs - 1)]
    assert found == close_to(*(factor * math.exp(e / epochs) + 0.85 - factor for e in (0, epochs / 2, epochs - 1)))


@pytest.mark.parametrize("depth", [18, pytest.param(34, marks=pytest.mark.slow)])
def test_recu_decays_the_tensors_that_the_reference_decays(depth):
    """On ImageNet it decays tensors whose names contain "conv" or "fc"."""
    experiment = EXPERIMENTS[f"recu/resnet{depth}_imagenet2012"]
    (stage,) = experiment.stages
    model = build_model(experiment)
    decayed = decayed_variables(model.trainable_variables, stage.optimizer.weight_decay_of)
    names = reference_names(model, model.trainable_variables)
    expected = [name for name in names if "conv" in name or "fc" in name]
    assert reference_names(model, decayed) == expected
    assert {name.split(".")[-1] for name in expected} == {"weight", "alpha", "bias"}
    assert len(expected) < len(names)


def test_gamma_of_section_52_drops_every_100_epochs():
    (stage,) = EXPERIMENTS["rethinking_bnn/binarynet_cifar10"].stages
    gamma = build_schedules(stage.optimizer, stage.epochs)["gamma"]
    assert [gamma(epoch) for epoch in (0, 99.9, 100, 200, 300, 400, 499)] == close_to(
        1e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-8
    )


@pytest.mark.parametrize("name", ["binary_alexnet", "xnornet", "birealnet18"])
def test_bop_schedules_on_imagenet_change_every_step(name):
    experiment = EXPERIMENTS[f"rethinking_bnn/{name}_imagenet2012"]
    (stage,) = experiment.stages
    schedules = build_schedules(stage.optimizer, stage.epochs)
    assert steps_per_epoch(experiment, stage) == 1_251
    end = stage.epochs * 1_281_167 // 1_024 / 1_251  # a little behind the last epoch
    for key, initial, final in (("gamma", 1e-4, 1e-6), ("learning_rate", 2.5e-3, 5e-6)):
        epochs = (0, stage.epochs / 2, stage.epochs - 1 / 1_251)
        expected = [initial + (final - initial) * epoch / end for epoch in epochs]
        assert [schedules[key](epoch) for epoch in epochs] == close_to(*expected)


@pytest.mark.parametrize("data", ["cifar10", "fashion_mnist"])
def test_network_in_network_learning_rate_drops_four_times(data):
    learning_rate = rate(f"xnor_net/nin_{data}")
    found = [learning_rate(epoch) for epoch in (0, 118, 119, 198, 199, 238, 239, 278, 279, 318)]
    assert found == close_to(1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6)


# --- ReActNet ---

REACTNETS = {"birealnet18": (2.5e-3, 512, "resnet18"), "reactnet_a": (1.25e-3, 256, "a")}
MARKED_REACTNETS = ["birealnet18", pytest.param("reactnet_a", marks=pytest.mark.slow)]  # its layers take long to build


@pytest.mark.parametrize("network", REACTNETS)
def test_both_steps_of_reactnet(network):
    initial, batch_size, _ = REACTNETS[network]
    experiment = EXPERIMENTS[f"reactnet/{network}_imagenet2012"]
    schemes = [experiment.scheme_of(stage) for stage in experiment.stages]
    assert [(scheme.name, scheme.bits) for scheme in schemes] == [("reactnet", "32/1"), ("reactnet", "1/1")]
    assert [stage.optimizer.weight_decay for stage in experiment.stages] == [1e-5, 0]
    for index, stage in enumerate(experiment.stages):
        assert (stage.epochs, stage.batch_size, stage.label_smoothing) == (128, batch_size, 0)
        assert (stage.distillation.weight, stage.distillation.temperature) == (1, 1)
        learning_rate = rate(experiment.name, index)
        found = [learning_rate(epoch) for epoch in (0, 0.99, 63, 126, 127, 127.99)]
        assert found == close_to(initial * 127 / 128, initial * 127 / 128, initial / 2, initial / 128, 0, 0)


def test_scheme_chooses_between_the_recipes_of_birealnet18():
    assert resolve("birealnet18", scheme="reactnet").experiment.name == "reactnet/birealnet18_imagenet2012"
    assert resolve("birealnet18", scheme="reactnet").note is None
    assert resolve("birealnet18").experiment.name == "bireal_net/birealnet18_imagenet2012"


@pytest.mark.parametrize("network", MARKED_REACTNETS)
def test_first_step_of_reactnet_decays_the_tensors_that_the_reference_decays(network):
    """It decays tensors with four axes: kernels of convolutions, and shifts, which it stores as maps."""
    experiment = EXPERIMENTS[f"reactnet/{network}_imagenet2012"]
    stage = experiment.stages[0]
    model = build_model(experiment, stage)
    decayed = decayed_variables(model.trainable_variables, stage.optimizer.weight_decay_of)
    with np.load(GOLDEN / f"reactnet_{REACTNETS[network][2]}_step1.npz") as golden:
        expected = [name for name, shape, _ in json.loads(str(golden["names"])) if len(shape) == 4]
    assert sorted(reference_names(model, decayed)) == sorted(expected)
    assert 0 < len(expected) < len(model.trainable_variables)
    optimizer = build_optimizer(stage.optimizer, stage.epochs)
    assert [variable.name for variable in model.trainable_variables if optimizer.decays(variable)] == [
        variable.name for variable in decayed
    ]


@pytest.mark.parametrize("network", MARKED_REACTNETS)
def test_second_step_of_reactnet_decays_nothing(network):
    experiment = EXPERIMENTS[f"reactnet/{network}_imagenet2012"]
    stage = experiment.stages[1]
    optimizer = build_optimizer(stage.optimizer, stage.epochs)
    assert not any(map(optimizer.decays, build_model(experiment, stage).trainable_variables))


def test_patterns_of_a_recipe_are_dropped_with_its_scheme():
    """They name weights that another scheme does not have."""
    resolution = resolve("reactnet_a", scheme="bireal")
    assert resolution.experiment.stages[0].optimizer.weight_decay_of == "kernels"
    assert resolution.experiment.stages[1].optimizer.weight_decay_of == "everything"
    assert "stages.0.optimizer.weight_decay_of = 'kernels'" in resolution.note
    kept = EXPERIMENTS["reactnet/reactnet_a_imagenet2012"].stages[0].optimizer.weight_decay_of
    assert resolve("reactnet_a", bits="32/1").experiment.stages[0].optimizer.weight_decay_of == kept
    stepwise = "bireal_net/birealnet18_imagenet2012_stepwise"
    assert resolve(experiment=stepwise, optimizer="adam").experiment.stages[0].optimizer.learning_rate_factors
    for changes in ({"scheme": "irnet"}, {"network": "resnet18"}):
        stages = resolve(**{"experiment": stepwise, **changes}).experiment.stages
        assert not any(stage.optimizer.learning_rate_factors for stage in stages)
