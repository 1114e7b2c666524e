"""Loading, finding and overriding experiments, and the errors of invalid ones."""

import dataclasses

import pytest
import tomli_w
from helpers import ROOT

from bnn_keras import build_model, catalog
from bnn_keras.catalog import DatasetRow
from bnn_keras.errors import BnnError
from bnn_keras.experiment import (
    ExperimentError,
    check_experiment,
    experiment_names,
    find_experiment,
    load_experiment,
    parse,
    resolve,
    resolve_for_weights,
)

EXPERIMENTS = 68


@pytest.fixture
def base():
    return resolve("lenet5").experiment


def problems(**options):
    with pytest.raises(ExperimentError) as error:
        resolve("lenet5", **options)
    return error.value.problems


def test_number_of_experiments():
    files = list((ROOT / "experiments").glob("*/*.toml"))
    assert len(files) == len(experiment_names()) == EXPERIMENTS


@pytest.mark.parametrize("name", experiment_names())
def test_experiment_file_name_and_round_trip_through_toml(name):
    experiment = load_experiment(name)
    paper, file = name.split("/")
    assert experiment.name == name
    assert paper
    assert file.startswith(f"{experiment.network.name}_")
    if experiment.data.name in catalog.DATASETS:
        assert file.startswith(f"{experiment.network.name}_{experiment.data.name}")
    assert parse(experiment.to_toml(), "again") == experiment


def test_lenet5_on_mnist_has_the_values_of_the_reference():
    experiment = load_experiment("xnor_net/lenet5_mnist")
    (stage,) = experiment.stages
    assert (stage.epochs, stage.batch_size) == (60, 128)
    assert (stage.optimizer.name, stage.optimizer.weight_decay) == ("adam_torch", 1e-5)
    assert stage.optimizer.choices == {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
    assert (experiment.data.mean, experiment.data.std) == ([0.1307], [0.3081])
    assert (experiment.published.top1, experiment.published.float_top1) == (99.23, 99.34)


def test_stage_key_loss_of_older_files_has_no_effect(base):
    new = base.to_toml()
    assert "loss" not in new
    old = parse(new.replace("epochs = 60", 'epochs = 60\nloss = "cross_entropy"'), base.name)
    assert old == base
    assert (old.to_toml(), old.differences(base), base.differences(old)) == (new, [], [])


# --- find an experiment ---


def test_network_alone_resolves_to_its_default_experiment():
    assert resolve("lenet5").experiment.name == "xnor_net/lenet5_mnist_5k"


def test_options_choose_between_recipes():
    resolution = resolve("lenet5", dataset="mnist", scheme="xnor", bits="1/1")
    assert (resolution.experiment.name, resolution.note) == ("xnor_net/lenet5_mnist", None)


def test_options_without_a_recipe_override_the_default_and_add_a_note():
    resolution = resolve("lenet5", dataset="cifar10")
    assert resolution.experiment.name == "xnor_net/lenet5_cifar10"
    assert resolution.experiment.data.name == "cifar10"
    assert resolution.note == (
        "no recipe for lenet5 with cifar10; based on xnor_net/lenet5_mnist_5k with data.name = 'cifar10', "
        "data.mean = [0.4914, 0.4822, 0.4465], data.std = [0.247, 0.2435, 0.2616]"
    )


def test_changed_experiment_has_no_published_figures():
    resolution = resolve("lenet5", experiment="xnor_net/lenet5_mnist", optimizer="adam")
    assert resolution.experiment.optimizer == "adam"
    assert resolution.experiment.published is None


def test_several_matching_experiments_without_a_default(base):
    twins = [base.model_copy(update={"name": name, "default": False}) for name in ("a/one", "a/two")]
    with pytest.raises(
        BnnError, match=r"2 experiments match network 'lenet5'; choose one with --experiment: a/one, a/two"
    ):
        find_experiment("lenet5", {}, twins)


def test_several_matching_experiments_with_a_default(base):
    twins = [base.model_copy(update={"name": name, "default": name == "a/two"}) for name in ("a/one", "a/two")]
    assert find_experiment("lenet5", {}, twins).name == "a/two"


def test_network_without_an_experiment():
    with pytest.raises(BnnError, match=r"no experiment trains network 'lenet5'; give a file with --experiment FILE"):
        find_experiment("lenet5", {}, [])


def test_load_by_file_name_or_full_name():
    assert load_experiment("lenet5_mnist") == load_experiment("xnor_net/lenet5_mnist")


def test_resolve_needs_a_network_or_an_experiment():
    with pytest.raises(BnnError, match="neither a network nor an experiment"):
        resolve()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "mnst"}, "unknown dataset 'mnst'; did you mean 'mnist'"),
        ({"scheme": "xnr"}, "unknown scheme 'xnr'; did you mean 'xnor'"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'; did you mean 'adam'"),
        ({"experiment": "lenet5_mnst"}, "unknown experiment 'lenet5_mnst'; did you mean 'xnor_net/lenet5_mnist'"),
        ({"experiment": "nowhere.toml"}, "no experiment file 'nowhere.toml'"),
    ],
)
def test_unknown_names(options, message):
    with pytest.raises(BnnError, match=message):
        resolve("lenet5", **options)


def test_unknown_network():
    with pytest.raises(BnnError, match="unknown network 'lenet'; did you mean 'lenet5'"):
        resolve("lenet")


# --- options that replace a name ---


def test_network_without_experiments_gets_a_plain_recipe():
    resolution = resolve("zoo/quicknet")
    assert resolution.experiment.name == "plain/zoo-quicknet_imagenet2012"
    assert resolution.note == (
        "no recipe for zoo/quicknet; using the plain recipe plain/zoo-quicknet_imagenet2012: "
        "Adam at 0.001 for 100 epochs"
    )
    assert parse(resolution.experiment.to_toml(), "again") == resolution.experiment


def test_images_for_the_best_epoch():
    """Papers chose it on the test images; experiments that are of no paper hold out training images."""
    folder = DatasetRow.other("image_folder", (None, None, 3), 4)
    with_split = dataclasses.replace(folder, validation="validation")
    for options, validation in [
        ({"network": "lenet5"}, None),
        ({"network": "lenet5", "dataset": "fashion_mnist"}, None),
        ({"network": "zoo/quicknet"}, 0.1),
        ({"network": "zoo/quicknet", "dataset": "cifar10"}, 0.1),
        ({"network": "resnet18", "dataset": folder}, 0.1),
        ({"network": "resnet18", "dataset": with_split}, "validation"),
        ({"network": "resnet18", "dataset": folder, "overrides": ["data.validation=0"]}, None),
        ({"network": "lenet5", "overrides": ["data.validation=500"]}, 500),
        ({"network": "lenet5", "overrides": ["data.validation=500.0"]}, 500),
    ]:
        experiment = resolve(**options).experiment
        assert experiment.data.validation == validation
        assert experiment.best_chosen_on == ("test" if validation is None else "validation")
        assert parse(experiment.to_toml(), "again") == experiment


@pytest.mark.parametrize("value", ["-0.1", "1.5", "true", "[]", "inf", "nan", "''"])
def test_images_for_the_best_epoch_must_be_a_part(value):
    with pytest.raises(BnnError, match=r"data.validation: .*expected a fraction between 0 and 1, a number of images"):
        resolve("lenet5", overrides=[f"data.validation={value}"])


def test_plain_recipe_from_a_file_has_no_note(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text(resolve("zoo/quicknet", epochs=3).experiment.to_toml())
    resolution = resolve("zoo/quicknet", experiment=file)
    assert (resolution.experiment.name, resolution.note) == ("plain/zoo-quicknet_imagenet2012", None)


def test_bits_of_another_scheme():
    """They are its own in the place of real weights, unless they are chosen."""
    for options, bits in [
        ({"scheme": "mcdonnell"}, "1/32"),
        ({"scheme": "bireal"}, "1/1"),
        ({"scheme": "bireal", "bits": "32/32"}, "32/32"),
        ({"scheme": "bireal", "bits": "32/1"}, "32/1"),
        ({}, "32/32"),
    ]:
        assert resolve("torchvision_resnet18", **options).experiment.scheme.bits == bits
    assert resolve("resnet20", scheme="xnor", bits="1/32").experiment.scheme.bits == "1/32"
    assert resolve("wrn_20_1", scheme="xnor").experiment.scheme.bits == "1/32"


def test_structure_follows_the_bits():
    structures = [resolve("resnet34", bits=bits).experiment.network.structure for bits in ("1/1", "1/32")]
    assert structures == ["bireal", "normal"]


@pytest.mark.parametrize("network", list(catalog.NETWORKS))
def test_every_network_resolves(network):
    experiment = resolve(network).experiment
    assert experiment.network.name == network
    assert experiment.scheme.name == catalog.NETWORKS[network].scheme


def test_scheme_that_lacks_the_bits_takes_its_own():
    resolution = resolve("nin", scheme="float")
    assert resolution.experiment.scheme.bits == "32/32"
    assert "scheme.name = 'float', scheme.bits = '32/32'" in resolution.note


def test_another_scheme_drops_the_options_of_the_old_one():
    assert resolve("nin", scheme="irnet").experiment.scheme.choices.keys() == {"t"}
    assert resolve("nin", bits="1/32").experiment.scheme.choices == {"activation": "relu", "gradient_scale": 1.0}


def test_another_optimizer_keeps_only_learning_rate_and_weight_decay():
    (stage,) = resolve("lenet5", optimizer="bop").experiment.stages
    assert stage.optimizer.learning_rate.schedule == "multi_step"
    assert stage.optimizer.weight_decay == 1e-5
    assert stage.optimizer.choices == dict(catalog.OPTIMIZERS["bop"].options.defaults())


@pytest.mark.parametrize("dataset", list(catalog.DATASETS))
def test_another_dataset_brings_its_own_mean_and_deviation(dataset):
    resolution = resolve("vgg_small", dataset=dataset)
    row, data = catalog.DATASETS[dataset], resolution.experiment.data
    if dataset == "cifar10":
        assert (resolution.note, data.mean) == (None, [0.485, 0.456, 0.406])  # as its recipe says
    else:
        assert (data.mean, data.std) == (list(row.mean), list(row.std))
        assert (f"data.mean = {data.mean}, data.std = {data.std}" in resolution.note) == (dataset != "imagenet2012")


def test_an_override_of_the_normalization_wins_over_the_dataset():
    resolution = resolve("vgg_small", dataset="mnist", overrides=["data.mean=[0.25]"])
    assert resolution.experiment.data.mean == [0.25]
    assert resolution.note.endswith("with data.name = 'mnist', data.mean = [0.25], data.std = [0.3081]")


@pytest.mark.parametrize(("channels", "mean"), [(3, [0.485, 0.456, 0.406]), (1, [0.5])])
def test_larq_zoo_networks_keep_the_normalization_of_their_weights(channels, mean):
    assert resolve("zoo/quicknet").experiment.data.mean == [0.485, 0.456, 0.406]
    row = catalog.DatasetRow.other("photographs", (None, None, channels), 1000)
    assert resolve("zoo/quicknet", dataset=row).experiment.data.mean == mean


@pytest.mark.parametrize(
    ("network", "dataset", "mean", "note"),
    [
        ("wrn_20_1", "cifar100", [125.3 / 255, 123.0 / 255, 113.9 / 255], "data.name = 'cifar100'"),
        ("birealnet18", "fashion_mnist", [0.286], "data.std = [0.353]"),
        ("lenet5", "mnist_5k", [0.1307], None),
    ],
)
def test_reference_weights_keep_the_normalization_of_their_recipe(network, dataset, mean, note):
    resolution = resolve_for_weights(network, dataset=dataset)
    assert resolution.experiment.data.mean == pytest.approx(mean)
    assert resolution.note == note or resolution.note.endswith(note)


def test_latent_weights_and_bop_cannot_be_combined(base):
    document = resolve("lenet5", optimizer="bop").experiment.to_document()
    document["stages"].append(base.to_document()["stages"][0])
    with pytest.raises(ExperimentError, match="stages with Bop and stages with latent weights do not go together"):
        parse(tomli_w.dumps(document), "mixed")


# --- overrides ---


def test_overrides_apply_in_order_and_after_the_options():
    experiment = resolve("lenet5", epochs=5, batch_size=32, seed=7, overrides=["seed=8", "data.mean=[0.5]"]).experiment
    assert (experiment.epochs, experiment.stages[0].batch_size, experiment.seed) == (5, 32, 8)
    assert experiment.data.mean == [0.5]


def test_override_replaces_a_schedule_with_a_number():
    experiment = resolve("lenet5", overrides=["stages.0.optimizer.learning_rate=0.5"]).experiment
    assert experiment.stages[0].optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.epochs", "cannot read the override 'stages.0.epochs'; expected key=value"),
        ("=3", "cannot read the override"),
        ("stages.1.epochs=3", "cannot set 'stages.1.epochs': expected a number below 1 in place of '1'"),
        ("stages.x.epochs=3", "expected a number below 1 in place of 'x'"),
        ("seed.x=3", "cannot set 'seed.x': 'seed' is a value, not a table"),
    ],
)
def test_override_that_cannot_be_applied(override, message):
    with pytest.raises(BnnError, match=message):
        resolve("lenet5", overrides=[override])


def test_epochs_option_is_ambiguous_with_several_stages(base, tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(base.model_copy(update={"stages": [*base.stages, *base.stages]}).to_toml())
    with pytest.raises(BnnError, match=r"--epochs 3 is ambiguous: .* has 2 stages; use --set"):
        resolve("lenet5", experiment=file, epochs=3)


@pytest.mark.parametrize(("text", "value"), [("True", True), ("False", False), ("true", True), ("false", False)])
def test_override_with_a_boolean_of_python_or_toml(text, value):
    assert resolve("lenet5", overrides=[f"stages.0.drop_last={text}"]).experiment.stages[0].drop_last is value


# --- files and types ---


def test_byte_order_mark_of_a_file_is_ignored(base, tmp_path):
    file = tmp_path / "base.toml"
    file.write_bytes(base.to_toml().encode("utf-8-sig"))
    assert load_experiment(file) == base


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [("runs/teacher", "{folder}/runs/teacher"), ("/runs/teacher", "/runs/teacher"), ("zoo/quicknet", "zoo/quicknet")],
)
def test_teacher_is_relative_to_the_file(tmp_path, monkeypatch, teacher, expected):
    overrides = [f'stages.0.distillation={{teacher = "{teacher}"}}']
    experiment = resolve("lenet5", overrides=overrides).experiment
    assert experiment.stages[0].distillation.teacher == teacher
    (tmp_path / "student.toml").write_text(experiment.to_toml())
    monkeypatch.chdir(tmp_path.parent)
    loaded = load_experiment(f"{tmp_path.name}/student.toml")
    assert loaded.stages[0].distillation.teacher == expected.format(folder=tmp_path)
    assert parse(loaded.to_toml(), "run") == loaded


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nin", r"^got 'nin' \(str\); expected an Experiment, such as bnn_keras.resolve\('nin'\).experiment$"),
        (None, r"^got None \(NoneType\); expected an Experiment, such as bnn_keras.resolve\('lenet5'\).experiment$"),
        (resolve("lenet5"), r"^got Resolution\(.*\(Resolution\); expected an Experiment"),
    ],
)
def test_value_that_is_not_an_experiment(value, message):
    for function in (check_experiment, build_model):
        with pytest.raises(BnnError, match=message):
            function(value)


# --- errors of a document ---


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stages.0.epoch=3",
            "stages.0.epoch: unknown key; did you mean 'epochs'? known: epochs, batch_size, drop_last,",
        ),
        ("netwrk.name=x", "netwrk: unknown key; did you mean 'network'?"),
        (
            "stages.0.optimizer.learning_rate.factr=2",
            "stages.0.optimizer.learning_rate.factr: unknown key; did you mean 'factor'?",
        ),
        ("stages.0.epochs=many", "stages.0.epochs: got 'many'; expected a valid integer"),
        ("stages.0.epochs=2.5", "stages.0.epochs: got 2.5; expected a valid integer"),
        (
            "stages.0.batch_size=99999999999",
            "stages.0.batch_size: got 99999999999; expected less than or equal to 65536",
        ),
        ("data.examples=1000000000000", "data.examples: got 1000000000000; expected less than or equal to 10000000"),
        ("stages.0.optimizer.beta_1=1.8", "stages.0.optimizer.beta_1: got 1.8; expected less than 1"),
        ("stages.0.epochs=0", "stages.0.epochs: got 0; expected greater than or equal to 1"),
        (
            "stages.0.optimizer.weight_decay=-1",
            "stages.0.optimizer.weight_decay: got -1; expected greater than or equal to 0",
        ),
        ("stages.0.optimizer.weight_decay=nan", "stages.0.optimizer.weight_decay: got nan; expected a finite number"),
        (
            "stages.0.optimizer.learning_rate=fast",
            "stages.0.optimizer.learning_rate: got 'fast'; expected a valid number",
        ),
        (
            "stages.0.optimizer.learning_rate.boundaries=[2, 1]",
            "stages.0.optimizer.learning_rate.boundaries: got [2, 1]; expected epochs in rising order",
        ),
        ("stages.0.optimizer.name=bopp", "stages.0.optimizer.name: unknown optimizer 'bopp'"),
        ("stages.0.loss=hinge", "stages.0.loss: got 'hinge'; expected 'cross_entropy'"),
        ("stages.0=3", "stages.0: got 3; expected a table"),
        ("stages=[]", "stages: got []"),
        ("network.name=lenet", "network.name: unknown network 'lenet'; did you mean 'lenet5'?"),
        ("data.name=mnst", "data.name: unknown dataset 'mnst'; did you mean 'mnist'?"),
        ("data.mean=[1, 2]", "data.mean: got [1, 2]; expected 1 value(s), one for each channel"),
        ("data.std=[0]", "data.std.0: got 0; expected greater than 0"),
        ("scheme.bits=2/2", "scheme.bits: got '2/2'; scheme 'xnor' has bits (weights/activations) 1/1, 1/32"),
        ("scheme.name=irnt", "scheme.name: unknown scheme 'irnt'; did you mean 'irnet'?"),
        (
            "stages.0.optimizer.learning_rate.schedule=multistep",
            "stages.0.optimizer.learning_rate.schedule: unknown schedule 'multistep'; did you mean 'multi_step'?",
        ),
        (
            "stages.0.optimizer.gamma=0.1",
            "stages.0.optimizer.gamma: unknown key of optimizer 'adam_torch'; known: name, learning_rate, ",
        ),
        ("default=perhaps", "default: got 'perhaps'; expected a valid boolean"),
    ],
)
def test_error_of_a_single_key(override, expected):
    (problem,) = problems(overrides=[override])
    assert problem.startswith(expected)


def test_all_errors_are_reported_at_once():
    lines = problems(overrides=["stages.0.epoch=3", "seed=x", "data.colour=1", "network.name=lenet"])
    assert [line.split(":")[0] for line in sorted(lines)] == ["data.colour", "network.name", "seed", "stages.0.epoch"]


def test_missing_keys():
    with pytest.raises(ExperimentError) as error:
        parse("", "empty")
    assert set(error.value.problems) == {f"{key}: missing; add it" for key in ("network", "scheme", "data", "stages")}


def test_invalid_toml_is_reported_with_line_and_column():
    with pytest.raises(
        ExperimentError, match=r"experiment x: not TOML: .*\(at line 2, column 5\); correct the file at this position"
    ):
        parse("a = 3\nb = = 4", "x")


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000], ids=["digits", "brackets"])
def test_toml_that_exceeds_limits_of_python(value):
    with pytest.raises(ExperimentError, match=r"experiment x: not TOML: .*; correct the file at this position"):
        parse(f"seed = {value}", "x")
    (problem,) = problems(overrides=[f"seed={value}"])
    assert problem.startswith(f"seed: got '{value[:100]}")
    assert "… (" in problem
    assert len(problem) < 400


@pytest.mark.parametrize("table", ["network", "scheme", "data"])
@pytest.mark.parametrize("name", [[], {}, 3])
def test_name_that_is_not_a_string(table, name):
    assert f"{table}.name: got {name}; expected a valid string" in problems(overrides=[f"{table}.name={name}"])


def test_file_that_is_not_text(tmp_path):
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BnnError, match=r"cannot read .* as text"):
        load_experiment(file)


def test_differences_ignore_what_does_not_affect_training(base):
    other = resolve("lenet5", epochs=3, optimizer="adam").experiment
    assert base.differences(base.model_copy(update={"name": "x", "default": False, "published": None})) == []
    assert base.differences(other) == [
        "stages.0.epochs: 60 / 3",
        "stages.0.optimizer.name: adam_torch / adam",
        "stages.0.optimizer.epsilon: 1e-08 / 1e-07",
    ]


@pytest.mark.parametrize("channels", [3, 1])
def test_dataset_outside_of_the_catalog(channels, tmp_path):
    row = catalog.DatasetRow.other("photographs", (None, None, channels), 7)
    experiment = resolve("resnet20", dataset=row).experiment
    assert (experiment.data.shape, experiment.data.classes) == ([0, 0, channels], 7)
    assert (experiment.data.mean, experiment.data.std) == ([0.5], [0.5])
    assert experiment.input_shape == (32, 32, channels)
    (tmp_path / "experiment.toml").write_text(experiment.to_toml())
    fake = resolve(experiment=tmp_path / "experiment.toml", dataset="fake").experiment
    assert (fake.data.name, fake.data.like, fake.data.row.classes) == ("fake", "photographs", 7)


def test_fake_images_are_like_those_they_replace():
    by_option, by_key = resolve("nin", dataset="fake"), resolve("nin", overrides=["data.name=fake"])
    assert by_option.experiment.data == by_key.experiment.data
    assert by_key.experiment.data.like == "cifar10"


def test_experiments_with_by_name_are_never_chosen():
    assert load_experiment("short/lenet5_mnist_5k_irnet").by_name
    chosen = resolve("lenet5", scheme="irnet")
    assert chosen.note.startswith("no recipe for lenet5 with irnet; based on xnor_net/lenet5_mnist_5k")
    assert chosen.experiment.epochs == 60


@pytest.mark.parametrize(
    ("network", "choices", "expected"),
    [
        ("wrn_20_10", {"dataset": "cifar10"}, "binary_wide_resnet/wrn_20_10_cifar10"),
        ("wrn_20_10", {"scheme": "float"}, "binary_wide_resnet/wrn_20_10_cifar100_float"),
        ("wrn_20_10", {"scheme": "float", "dataset": "cifar10"}, "binary_wide_resnet/wrn_20_10_cifar10_float"),
        ("resnet20", {"dataset": "fashion_mnist"}, "ir_net/resnet20_fashion_mnist"),
        ("resnet20", {"dataset": "fashion_mnist", "scheme": "bireal"}, "bireal_net/resnet20_fashion_mnist"),
        ("xnornet", {"dataset": "imagenet2012", "optimizer": "bop"}, "rethinking_bnn/xnornet_imagenet2012"),
        ("birealnet18", {"optimizer": "bop"}, "rethinking_bnn/birealnet18_imagenet2012"),
        ("birealnet18", {"optimizer": "sgd"}, "bireal_net/birealnet18_imagenet2012_stepwise"),
    ],
)
def test_recipe_most_similar_to_the_default_is_chosen(network, choices, expected):
    resolution = resolve(network, **choices)
    assert (resolution.experiment.name, resolution.note) == (expected, None)


def test_name_that_another_reference_uses_is_noted():
    """`bnno train alexnet` of rethinking-bnn-optimization trains Binary AlexNet."""
    assert "is binary_alexnet" in resolve("alexnet").note
    assert resolve("alexnet", optimizer="bop").note.startswith("no recipe for alexnet with bop; based on ")
    assert resolve("alexnet", optimizer="bop").note.endswith("calls alexnet is binary_alexnet")
    assert resolve(experiment="xnor_net/alexnet_imagenet2012").note is None
