"""The shipped experiments against golden copies, published figures and closed forms of their schedules."""

import math
import shlex
import sys

import pytest
import tomli_w
from helpers import ROOT

from bnn_keras import catalog, train
from bnn_keras.build import build_annealing, build_model, build_schedules
from bnn_keras.experiment import all_experiments, experiment_names, load_experiment, resolve
from bnn_keras.runs import Run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXPERIMENTS = {one.name: one for one in all_experiments()}

# What their sources say: network, dataset, scheme, bits, optimizer, top-1, top-5.
PUBLISHED = {
    ("lenet5", "mnist", "xnor", "1/1", "adam_torch", 99.23, None),
    ("nin", "cifar10", "xnor", "1/1", "adam_torch", 86.28, None),
    ("alexnet", "imagenet2012", "xnor", "1/1", "adam_torch", 44.87, 69.70),
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
    ("resnet20", "cifar10", "irnet", "1/1", "sgd", 86.5, None),
    ("resnet20", "cifar10", "irnet", "1/32", "sgd", 90.8, None),
    ("vgg_small", "cifar10", "irnet", "1/1", "sgd", 90.4, None),
    ("resnet18_cifar", "cifar10", "irnet", "1/1", "sgd", 91.5, None),
    ("resnet18", "imagenet2012", "irnet", "1/1", "sgd", 58.1, 80.0),
    ("resnet18", "imagenet2012", "irnet", "1/32", "sgd", 66.5, 86.8),
    ("resnet34", "imagenet2012", "irnet", "1/1", "sgd", 62.9, 84.1),
    ("resnet34", "imagenet2012", "irnet", "1/32", "sgd", 70.4, 89.5),
}

# Floating-point networks beside them, deviations and numbers of runs.
BESIDE = {
    "xnor_net/lenet5_mnist": {"float_top1": 99.34},
    "xnor_net/nin_cifar10": {"float_top1": 89.67},
    "xnor_net/alexnet_imagenet2012": {"float_top1": 57.1, "float_top5": 80.2},
    "binary_wide_resnet/wrn_20_10_cifar100": {"top1_deviation": 0.26, "runs": 5, "float_top1": 80.5},
    "binary_wide_resnet/wrn_20_10_cifar100_float": {"top1_deviation": 0.24, "runs": 5},
}

# Where not all of a recipe is in its source.
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
    "rethinking_bnn/binarynet_fashion_mnist",
    "short/binarynet_fashion_mnist_bop",
    "short/lenet5_mnist_5k_binarynet",
    "short/lenet5_mnist_5k_bireal",
    "short/lenet5_mnist_5k_float",
    "short/lenet5_mnist_5k_irnet",
    "short/lenet5_mnist_5k_mcdonnell",
    "short/resnet20_fashion_mnist_binarynet",
    "short/resnet20_fashion_mnist_bireal",
    "short/resnet20_fashion_mnist_float",
    "short/resnet20_fashion_mnist_irnet",
    "short/resnet20_fashion_mnist_mcdonnell",
    "short/resnet20_fashion_mnist_xnor",
    "xnor_net/lenet5_fashion_mnist",
    "xnor_net/lenet5_mnist_5k",
    "xnor_net/nin_cifar10",
    "xnor_net/nin_fashion_mnist",
}


def steps_per_epoch(experiment, stage):
    """With every training image of the dataset."""
    examples = catalog.DATASETS[experiment.data.name].train_examples
    return examples // stage.batch_size if stage.drop_last else -(-examples // stage.batch_size)


def samples(experiment):
    """What changes in each stage, at a few of its steps."""
    found = []
    before = 0
    for stage in experiment.stages:
        steps = steps_per_epoch(experiment, stage)
        total = stage.epochs * steps
        places = sorted({place for place in (0, 1, steps, total // 2, total - steps, total - 1) if place < total})
        table = {"epochs": stage.epochs, "steps_per_epoch": steps, "steps": places}
        for name, schedule in build_schedules(stage.optimizer, stage.epochs).items():
            table[name] = [schedule(place / steps) for place in places]
        for name, schedule in build_annealing(experiment, stage).items():
            table[name] = [schedule(before + place / steps) for place in places]
        found.append(table)
        before += stage.epochs
    return found


def close(found, expected):
    """Whether two TOML documents are the same but for rounding."""
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
    """`pytest tests/test_recipes.py --update` writes the copies anew: read the difference then."""
    experiment = EXPERIMENTS[name]
    text = experiment.to_toml() + "\n" + tomli_w.dumps({"schedules": samples(experiment)})
    file = golden_folder / f"{name.replace('/', '-')}.toml"
    if request.config.getoption("--update"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        pytest.skip(f"{file} was written")
    found, expected = tomllib.loads(text), tomllib.loads(file.read_text())
    differing = [key for key in found.keys() | expected.keys() if not close(found.get(key), expected.get(key))]
    assert differing == []


def test_no_golden_copy_without_its_experiment(golden_folder):
    names = {name.replace("/", "-") for name in experiment_names()}
    assert {file.stem for file in golden_folder.iterdir()} == names


@pytest.mark.parametrize("network", sorted({one.network.name for one in EXPERIMENTS.values()}))
def test_one_default_for_each_network(network):
    defaults = [name for name, one in EXPERIMENTS.items() if one.network.name == network and one.default]
    assert len(defaults) == 1
    assert resolve(network).experiment.name == defaults[0]


def test_every_network_of_the_references_has_an_experiment():
    trained = {one.network.name for one in EXPERIMENTS.values()}
    assert trained == {name for name in catalog.NETWORKS if not name.startswith("zoo/")}


def test_published_figures():
    found = [
        (
            one.network.name,
            one.data.name,
            one.scheme.name,
            one.scheme.bits,
            one.stages[-1].optimizer.name,
            one.published.top1,
            one.published.top5,
        )
        for one in EXPERIMENTS.values()
        if one.published
    ]
    assert len(found) == len(PUBLISHED)
    assert set(found) == PUBLISHED


def test_what_is_published_beside_the_figures():
    found = {
        name: {key: value for key, value in one.published.model_dump(exclude_none=True).items() if key not in _FIGURES}
        for name, one in EXPERIMENTS.items()
        if one.published
    }
    assert {name: values for name, values in found.items() if values} == BESIDE


_FIGURES = ("top1", "top5")


def test_reconstructed_recipes():
    assert {name for name, one in EXPERIMENTS.items() if one.source.reconstructed} == RECONSTRUCTED


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_says_where_it_comes_from(name):
    experiment = EXPERIMENTS[name]
    assert experiment.paper
    assert experiment.source.repository.startswith("https://github.com/")
    assert experiment.source.files


@pytest.mark.parametrize("name", experiment_names())
def test_the_command_in_a_file_finds_it(name):
    """The first one in its header."""
    lines = (ROOT / "experiments" / f"{name}.toml").read_text().splitlines()
    program, command, network, *words = shlex.split(next(line for line in lines if "bnnk train" in line).lstrip("# "))
    assert (program, command) == ("bnnk", "train")
    options = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    assert resolve(network, **options).experiment == load_experiment(name)


# Data on which a network was never published: it has to be built for their sizes.
SMALL = sorted(name for name, one in EXPERIMENTS.items() if one.data.name == "fashion_mnist" and "short" not in name)


@pytest.mark.parametrize("name", SMALL)
def test_network_for_other_images(name):
    experiment = EXPERIMENTS[name]
    model = build_model(experiment)
    assert (model.input_shape, model.output_shape) == ((None, 28, 28, 1), (None, 10))


def small(experiment):
    """The experiment on made-up images of its own size: two steps of four images per stage."""
    document = experiment.to_document()
    data = {key: value for key, value in document["data"].items() if key != "name"}
    stages = [{**stage, "epochs": 1, "batch_size": 4} for stage in document["stages"]]
    fake = {**data, "name": "fake", "like": experiment.data.name, "examples": 8}
    return type(experiment).model_validate({**document, "data": fake, "stages": stages})


@pytest.mark.slow
@pytest.mark.parametrize("name", experiment_names())
def test_trains_two_steps_of_each_stage(name, tmp_path):
    """The whole way: augmentation, optimizer, checkpoints. Schedules at full size are in the golden copies."""
    experiment = small(EXPERIMENTS[name])
    assert experiment.input_shape == EXPERIMENTS[name].input_shape
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
def test_wide_resnets_first_cycle_is_ahead(name):
    learning_rate = rate(f"binary_wide_resnet/{name}")
    assert [learning_rate(epoch) for epoch in (0, 0.9, 1, 1.9)] == close_to(0.05005, 0.05005, 1e-4, 1e-4)
    assert {learning_rate(epoch) for epoch in (2, 4, 8, 16, 32, 64, 128)} == {0.1}
    assert [learning_rate(epoch) for epoch in (3, 6, 12, 192)] == close_to(*4 * [0.05005])
    assert learning_rate(255) > 1e-4  # each later cycle stops one epoch before its minimum


@pytest.mark.parametrize(("depth", "initial"), [(18, 1e-3), (34, 1e-3), (50, 5e-4)])
def test_bireal_nets_last_epoch_stands_still(depth, initial):
    learning_rate = rate(f"bireal_net/birealnet{depth}_imagenet2012")
    found = [learning_rate(epoch) for epoch in (0, 0.99, 127, 254, 255, 255.99)]
    assert found == close_to(initial * 255 / 256, initial * 255 / 256, initial / 2, initial / 256, 0, 0)


@pytest.mark.parametrize(("depth", "rates", "boundaries"), [(18, (0.01, 1e-4), (10, 15)), (34, (0.08, 8e-4), (20, 30))])
def test_bireal_nets_steps(depth, rates, boundaries):
    name = f"bireal_net/birealnet{depth}_imagenet2012_stepwise"
    experiment = EXPERIMENTS[name]
    schemes = [experiment.scheme_of(stage) for stage in experiment.stages]
    assert [(one.name, one.bits) for one in schemes] == 3 * [("float", "32/32")] + 2 * [("bireal", "1/1")]
    assert [one.activation for one in schemes] == ["relu", "leaky_clip", "clip", None, None]
    assert [one.scaled for one in schemes] == [None, None, None, True, False]
    assert [stage.trains for stage in experiment.stages] == [*4 * ["everything"], "batch_norm"]
    learning_rate = rate(name, 3)
    changes = [epoch for epoch in range(1, 40) if learning_rate(epoch) != learning_rate(epoch - 1)]
    assert (learning_rate(0), *changes) == (rates[0], *boundaries)
    assert rate(name, 4)(0) == pytest.approx(learning_rate(39), rel=1e-12) == rates[1]


@pytest.mark.parametrize("name", ["resnet18_imagenet2012", "resnet34_imagenet2012_1w32a"])
def test_irnets_steps_on_imagenet(name):
    experiment = EXPERIMENTS[f"ir_net/{name}"]
    (stage,) = experiment.stages
    steps = steps_per_epoch(experiment, stage)
    learning_rate = rate(experiment.name)
    places = (0, 1_250, 2_499, 2_500, 18_749, 18_750, 37_499, 37_500, 56_249, 56_250, 62_499)
    expected = (0.2, 0.5, 0.8 - 0.6 / 2_500, 0.8, 0.8, 0.08, 0.08, 0.008, 0.008, 8e-4, 8e-4)
    assert steps * stage.epochs == 62_500
    assert [learning_rate(place / steps) for place in places] == close_to(*expected)


def test_irnets_t_and_k():
    experiment = EXPERIMENTS["ir_net/resnet20_cifar10"]
    annealing = build_annealing(experiment, experiment.stages[0])
    assert [annealing["t"](epoch) for epoch in (0, 100, 300, 399)] == close_to(
        1e-3, 1e-2, 1, 10 ** (-3 + 4 * 399 / 400)
    )
    assert [annealing["k"](epoch) for epoch in (0, 100, 300, 399)] == close_to(1e3, 1e2, 1, 1)


def test_gamma_of_section_52_falls_in_stairs():
    (stage,) = EXPERIMENTS["rethinking_bnn/binarynet_cifar10"].stages
    gamma = build_schedules(stage.optimizer, stage.epochs)["gamma"]
    assert [gamma(epoch) for epoch in (0, 99.9, 100, 200, 300, 400, 499)] == close_to(
        1e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-8
    )


@pytest.mark.parametrize("name", ["binary_alexnet", "xnornet", "birealnet18"])
def test_bop_on_imagenet_falls_with_every_step(name):
    experiment = EXPERIMENTS[f"rethinking_bnn/{name}_imagenet2012"]
    (stage,) = experiment.stages
    schedules = build_schedules(stage.optimizer, stage.epochs)
    assert steps_per_epoch(experiment, stage) == 1_251
    for key, initial, final in (("gamma", 1e-4, 1e-6), ("learning_rate", 2.5e-3, 5e-6)):
        middle = (initial + final) / 2
        assert [schedules[key](epoch) for epoch in (0, stage.epochs / 2)] == close_to(initial, middle)
        assert final < schedules[key](stage.epochs - 1 / 1_251) < final + 1e-4 * initial


@pytest.mark.parametrize("data", ["cifar10", "fashion_mnist"])
def test_network_in_networks_rate_falls_four_times(data):
    learning_rate = rate(f"xnor_net/nin_{data}")
    found = [learning_rate(epoch) for epoch in (0, 118, 119, 198, 199, 238, 239, 278, 279, 318)]
    assert found == close_to(1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6)
