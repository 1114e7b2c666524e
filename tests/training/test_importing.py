"""Importing a checkpoint of each reference: predictions equal the reference's, and the run can be trained further."""

import dataclasses
import shutil
from collections import OrderedDict

import numpy as np
import procedural
import pytest
from helpers import GOLDEN

from bnn_keras import (
    BnnError,
    catalog,
    checkpoints,
    evaluate,
    files,
    import_checkpoint,
    load_run,
    predict,
    resolve,
    train,
)
from bnn_keras.experiment import load_experiment
from bnn_keras.interop import to_reference
from bnn_keras.runs import Run

# Files as the repositories write them: the golden file with their weights, the prefix of DataParallel (which
# XNOR-Net-PyTorch removes), the name of the file, and what it holds beside the state dict.
CHECKPOINTS = {
    "XNOR-Net-PyTorch": ("xnor_nin", "", "nin.pth.tar", {"best_acc": 86.28}),
    "binary-wide-resnet": ("wrn_20_1_1bit_cifar100", "module.", "checkpoint.pth.tar", {"epoch": 254, "scheduler": {}}),
    "Bi-Real-net": ("birealnet18", "module.", "model_best.pth.tar", {"epoch": 255, "best_top1_acc": np.float32(56.4)}),
    "IR-Net": ("irnet_cifar_resnet20_1w1a", "module.", "model.th", {"best_prec1": np.float64(86.5)}),
    "ReActNet, ResNet, step 2": ("reactnet_resnet18", "module.", "model_best.pth.tar", {"best_top1_acc": 65.9}),
    "ReActNet, ResNet, step 1": ("reactnet_resnet18_step1", "module.", "checkpoint.pth.tar", {"epoch": 127}),
    "ReActNet, MobileNet, step 2": ("reactnet_a", "module.", "model_best.pth.tar", {"best_top1_acc": 69.5}),
    "ReActNet, MobileNet, step 1": ("reactnet_a_step1", "module.", "checkpoint.pth.tar", {"epoch": 127}),
    "torchvision": ("torchvision_resnet34", "", "resnet34-b627a593.pth", {}),
    "IR-Net 1/32": ("irnet_cifar_resnet20_1w32a", "module.", "checkpoint.th", {"best_prec1": np.float64(90.8)}),
}
# Arguments of the import.
ARGUMENTS = {
    "xnor_nin": ("nin", {}),
    "wrn_20_1_1bit_cifar100": ("wrn_20_1", {}),
    "birealnet18": ("birealnet18", {}),
    "irnet_cifar_resnet20_1w1a": ("resnet20", {}),
    "irnet_cifar_resnet20_1w32a": ("resnet20", {"bits": "1/32"}),
    "reactnet_resnet18": ("birealnet18", {"scheme": "reactnet"}),
    "reactnet_resnet18_step1": ("birealnet18", {"scheme": "reactnet", "bits": "32/1"}),
    "reactnet_a": ("reactnet_a", {}),
    "reactnet_a_step1": ("reactnet_a", {"bits": "32/1"}),
    "torchvision_resnet34": ("torchvision_resnet34", {}),
}
# Dataset, scheme, bits and structure of the run.
EXPERIMENTS = {
    "xnor_nin": ("cifar10", "xnor", "1/1", None),
    "wrn_20_1_1bit_cifar100": ("cifar100", "mcdonnell", "1/32", None),
    "birealnet18": ("imagenet2012", "bireal", "1/1", None),
    "irnet_cifar_resnet20_1w1a": ("cifar10", "irnet", "1/1", "bireal"),
    "irnet_cifar_resnet20_1w32a": ("cifar10", "irnet", "1/32", "normal"),
    **dict.fromkeys(("reactnet_resnet18", "reactnet_a"), ("imagenet2012", "reactnet", "1/1", None)),
    **dict.fromkeys(("reactnet_resnet18_step1", "reactnet_a_step1"), ("imagenet2012", "reactnet", "32/1", None)),
    "torchvision_resnet34": ("imagenet2012", "float", "32/32", "normal"),
}
QUICK = ("binary-wide-resnet",)
NIGHTLY = ("IR-Net 1/32", "ReActNet, ResNet, step 2", "ReActNet, MobileNet, step 1")
# A learning rate that leaves the weights nearly unchanged.
TINY = ("stages.0.optimizer.learning_rate=1e-9", "stages.0.epochs=1", "stages.0.batch_size=500")


def save(path, tensors, prefix="", **others):
    """Write a checkpoint as the references' trainers do."""
    torch = pytest.importorskip("torch")
    state = OrderedDict((prefix + name, torch.from_numpy(np.array(value))) for name, value in tensors.items())
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    torch.save({**others, "state_dict": state, "optimizer": adam.state_dict()}, path)
    return path


def distance(logits, expected):
    """Return the largest difference, relative to the largest logit."""
    return np.abs(logits - expected).max() / np.abs(expected).max()


def content(directory):
    """Return the content of every file below a directory, by path, without the lock file (it names a process)."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def load_golden(name):
    """Return a golden file's outputs, its weights in the reference's layout, and its images in NHWC."""
    file, _, _, weights, images, _ = procedural.load(GOLDEN / f"{name}.npz")
    with file:
        return file["eval_out"], weights, images.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def lenet5(trained):
    """The tensors of a trained LeNet-5 in XNOR-Net-PyTorch's layout."""
    _, model = load_run(trained)
    return {"bn_conv1.num_batches_tracked": np.array(64), **to_reference(model)}


@pytest.fixture
def checkpoint(lenet5, tmp_path):
    return save(tmp_path / "LeNet_5.best.pth.tar", lenet5, acc=91.0)


@pytest.fixture
def without_torch(lenet5, tmp_path):
    """The same tensors in a file that is read without PyTorch."""
    np.savez(tmp_path / "lenet5.npz", **lenet5)
    return tmp_path / "lenet5.npz"


# --- predictions ---


@pytest.mark.parametrize(
    "repository",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly if name in NIGHTLY else pytest.mark.slow)
        for name in CHECKPOINTS
    ],
)
def test_predictions_equal_those_of_the_reference(tmp_path, repository, monkeypatch):
    """On upright images, in float32; the reference computed in float64."""
    name, prefix, file, others = CHECKPOINTS[repository]
    expected, weights, images = load_golden(name)
    network, choices = ARGUMENTS[name]
    row = dataclasses.replace(catalog.NETWORKS[network], input_shape=images.shape[1:])
    monkeypatch.setitem(catalog.NETWORKS, network, row)  # some golden files have smaller images than the network
    resolution = import_checkpoint(
        save(tmp_path / file, weights, prefix, **others), tmp_path / "run", network, **choices
    )

    experiment, model = load_run(tmp_path / "run")
    assert experiment == resolution.experiment == Run(tmp_path / "run").experiment
    assert experiment.network.rotated
    scheme = experiment.scheme
    assert (experiment.data.name, scheme.name, scheme.bits, experiment.network.choices.get("structure")) == EXPERIMENTS[
        name
    ]
    assert distance(model(images, training=False), expected) <= 1e-5
    assert distance(model(images[:, ::-1, ::-1], training=False), expected) > 1e-2


def test_packed_checkpoint(tmp_path):
    """binary-wide-resnet publishes packed signs, and no dictionary around the state dict."""
    torch = pytest.importorskip("torch")
    expected, weights, images = load_golden("wrn_20_1_1bit_cifar100")
    binary = [name for name in weights if name.startswith("group") and weights[name].ndim == 4]
    assert len(binary) == 18
    weights |= {name: np.packbits(weights[name] > 0, axis=1) for name in binary}
    torch.save({f"module.{name}": torch.from_numpy(value) for name, value in weights.items()}, tmp_path / "x.pth.tar")
    import_checkpoint(tmp_path / "x.pth.tar", tmp_path / "run", "wrn_20_1")
    _, model = load_run(tmp_path / "run")
    assert distance(model(images, training=False), expected) <= 1e-5


def test_imported_latents_are_constrained(tmp_path):
    """XNOR-Net stores latent weights that are not centred and clipped yet."""
    expected, weights, images = load_golden("xnor_lenet5_clip")
    import_checkpoint(save(tmp_path / "x.pth.tar", weights), tmp_path / "run", "lenet5")
    experiment, model = load_run(tmp_path / "run")
    assert not experiment.network.rotated
    assert distance(model(images, training=False), expected) <= 1e-5


# --- the imported run ---


def test_run_directory(checkpoint, lenet5, tmp_path):
    resolution = import_checkpoint(checkpoint, tmp_path / "run", "lenet5", command=["bnnk", "import"])
    assert resolution.note is None
    run = Run.read(tmp_path / "run")
    assert {path.name for path in run.directory.iterdir()} == {
        *("experiment.toml", "environment.json", "checkpoints", "weights.h5", "weights_best.h5", ".lock"),
    }
    assert run.experiment == resolve("lenet5").experiment
    assert (run.environment["command"], run.environment["dataset"]["name"]) == (["bnnk", "import"], "mnist_5k")
    assert (run.metrics, run.result) == ([], None)
    _, model = load_run(run.directory)
    for name, value in to_reference(model).items():
        np.testing.assert_allclose(value, lenet5[name], atol=1e-6, err_msg=name)


def test_run_evaluates_and_predicts(checkpoint, trained, tmp_path, data_dir):
    import_checkpoint(checkpoint, tmp_path / "run", "lenet5")
    expected = Run(trained).metrics[-1]
    for best in (False, True):
        measured = evaluate(tmp_path / "run", best=best, data_dir=data_dir)
        assert (measured["top1"], measured["images"]) == (expected["val_top1"], 1000)
        assert measured["loss"] == pytest.approx(expected["val_loss"], rel=1e-4)
    assert measured["top1"] > 80
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8))
    logits = [predict(run, tmp_path / "x.npy").logits for run in (tmp_path / "run", trained)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("eager")
def test_imported_run_can_be_trained_further(checkpoint, lenet5, tmp_path, data_dir):
    """The tiny learning rate proves that the training starts from the imported weights."""
    import_checkpoint(checkpoint, tmp_path / "run", "lenet5", dataset="mnist_5k", overrides=TINY)
    experiment = Run(tmp_path / "run").experiment
    assert (experiment.epochs, experiment.data.name) == (1, "mnist_5k")
    result = train(experiment, tmp_path / "run", data_dir=data_dir)
    assert (result["epochs"], len(Run(tmp_path / "run").metrics)) == (1, 1)
    assert checkpoints.latest(Run(tmp_path / "run")).state.step == 8
    _, model = load_run(tmp_path / "run")
    after = to_reference(model)
    statistics = [name for name in after if "running" in name]
    for name in set(after) - set(statistics):
        np.testing.assert_allclose(after[name], lenet5[name], atol=1e-6, err_msg=name)
    assert all(np.abs(after[name] - lenet5[name]).max() > 1e-3 for name in statistics)  # it was trained
    assert Run(tmp_path / "run").metrics[0]["flip_ratio"] < 1e-4
    assert result["top1"] > 80


def test_another_experiment_is_refused_in_the_imported_run(without_torch, tmp_path, data_dir):
    import_checkpoint(without_torch, tmp_path / "run", "lenet5", overrides=TINY)
    before = content(tmp_path / "run")
    with pytest.raises(BnnError, match="holds a run of another experiment"):
        train(resolve("lenet5", epochs=1).experiment, tmp_path / "run", data_dir=data_dir)
    assert content(tmp_path / "run") == before


TWO_STAGES = """
scheme = {name = "bireal", bits = "1/1"}
network = {name = "lenet5"}
data = {name = "mnist_5k", mean = [0.1307], std = [0.3081]}

[[stages]]
epochs = 3
batch_size = 500
scheme = {name = "bireal", bits = "32/1"}
optimizer = {name = "adam", learning_rate = 0.01}

[[stages]]
epochs = 1
batch_size = 500
optimizer = {name = "adam", learning_rate = 1e-9}
"""


@pytest.mark.usefixtures("eager")
def test_stages_before_the_imported_scheme_are_left_out(lenet5, without_torch, tmp_path, data_dir):
    (tmp_path / "stages.toml").write_text(TWO_STAGES)
    resolution = import_checkpoint(without_torch, tmp_path / "run", "lenet5", experiment=tmp_path / "stages.toml")
    experiment = Run(tmp_path / "run").experiment
    assert experiment == resolution.experiment
    assert [(experiment.scheme_of(stage).bits, stage.epochs) for stage in experiment.stages] == [("1/1", 1)]
    assert (
        train(load_experiment(tmp_path / "run" / "experiment.toml"), tmp_path / "run", data_dir=data_dir)["epochs"] == 1
    )
    _, model = load_run(tmp_path / "run")
    np.testing.assert_allclose(to_reference(model)["ip2.weight"], lenet5["ip2.weight"], atol=1e-6)


# --- choice of the experiment ---


def test_requested_dataset_is_used(tmp_path):
    """A requested dataset with another number of classes is an error."""
    _, weights, _ = load_golden("wrn_20_1_1bit_cifar100")
    np.savez(tmp_path / "x.npz", **weights)
    with pytest.raises(BnnError, match=r"conv_last has shape \(100, 64, 1, 1\), expected \(10, 64, 1, 1\)"):
        import_checkpoint(tmp_path / "x.npz", tmp_path / "run", "wrn_20_1", dataset="cifar10")
    assert not (tmp_path / "run").exists()


def test_dataset_follows_the_number_of_classes(tmp_path):
    """The recipe of wrn_20_10 is for CIFAR-100; a checkpoint with ten classes selects CIFAR-10."""
    _, weights, _ = load_golden("wrn_20_1_1bit_cifar10")
    np.savez(tmp_path / "x.npz", **weights)
    import_checkpoint(tmp_path / "x.npz", tmp_path / "run", "wrn_20_10", overrides=["network.width=1"])
    assert Run(tmp_path / "run").experiment.data.name == "cifar10"


def test_requested_scheme_is_used(tmp_path):
    expected, weights, images = load_golden("wrn_20_1_float_cifar10")
    np.savez(tmp_path / "x.npz", **weights)
    import_checkpoint(tmp_path / "x.npz", tmp_path / "run", "wrn_20_1", scheme="float")
    experiment, model = load_run(tmp_path / "run")
    assert (experiment.scheme.name, experiment.scheme.bits) == ("float", "32/32")
    assert distance(model(images, training=False), expected) <= 1e-5


def test_number_of_classes_without_a_dataset(lenet5, tmp_path):
    tensors = {**lenet5, "ip2.weight": np.zeros((7, 500), np.float32), "ip2.bias": np.zeros(7, np.float32)}
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(BnnError) as caught:
        import_checkpoint(tmp_path / "x.npz", tmp_path / "runs" / "x", "lenet5")
    assert str(caught.value) == (
        "the checkpoint has 7 classes, but no dataset with images of the shape of 'mnist_5k' does; "
        "choose a dataset with --dataset"
    )
    assert not (tmp_path / "runs").exists()


# --- failed imports leave no files ---


def test_network_without_a_reference(without_torch, tmp_path):
    with pytest.raises(
        BnnError, match=r"network 'zoo/quicknet' has no reference to import from; .* have one: lenet5, nin"
    ):
        import_checkpoint(without_torch, tmp_path / "run", "zoo/quicknet")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "network", "choices", "message"),
    [
        ("nowhere.pth", "lenet5", {}, "no file"),
        ("weights.h5", "lenet5", {}, "cannot read .*weights.h5' as a checkpoint"),
        ("model.pb", "lenet5", {}, r"ends in '\.pb'"),
        ("damaged.npz", "lenet5", {}, "cannot read"),
        ("lenet5.npz", "lenet", {}, "unknown network 'lenet'; did you mean 'lenet5'"),
        ("lenet5.npz", "lenet5", {"scheme": "xnr"}, "unknown scheme 'xnr'"),
        ("lenet5.npz", "lenet5", {"overrides": ["stages.0.epoch=1"]}, "stages.0.epoch: unknown key"),
        ("lenet5.npz", "nin", {}, r"not the tensors of nin: xnor\.0\.weight is missing; .* and \d+ more; choose the"),
        (
            "partial.npz",
            "lenet5",
            {},
            "not the tensors of lenet5: bin_conv2.conv.weight is missing; choose the network",
        ),
        ("wrong.npz", "lenet5", {}, r"ip2\.weight has shape \(10, 499\), expected \(10, 500\); choose the network"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_checkpoint_that_cannot_be_imported(lenet5, without_torch, tmp_path, file, network, choices, message):
    (tmp_path / "weights.h5").write_bytes(b"x")
    (tmp_path / "model.pb").write_bytes(b"x")
    (tmp_path / "damaged.npz").write_bytes(without_torch.read_bytes()[:-1])
    np.savez(tmp_path / "partial.npz", **{name: value for name, value in lenet5.items() if "conv2.conv.w" not in name})
    np.savez(tmp_path / "wrong.npz", **{**lenet5, "ip2.weight": lenet5["ip2.weight"][:, :-1]})
    with pytest.raises(BnnError, match=message):
        import_checkpoint(tmp_path / file, tmp_path / "runs" / "a" / "run", network, **choices)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [BnnError("no space"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_failed_write_removes_the_run(without_torch, tmp_path, monkeypatch, error):
    names = []

    def fail(path, value):
        names.extend(path.name for path in (tmp_path / "runs" / "run").iterdir())
        raise error

    monkeypatch.setattr(files, "write_text", fail)
    with pytest.raises(type(error)):
        import_checkpoint(without_torch, tmp_path / "runs" / "run", "lenet5")
    assert "weights.h5" in names
    assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    import_checkpoint(without_torch, tmp_path / "runs" / "run", "lenet5")
    assert Run(tmp_path / "runs" / "run").begun


def test_failed_write_keeps_an_existing_folder(without_torch, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(files, "write_text", lambda path, value: (tmp_path / "nowhere" / "x").touch())
    with pytest.raises(OSError, match="nowhere"):
        import_checkpoint(without_torch, tmp_path / "run", "lenet5")
    assert set(content(tmp_path / "run")) <= {".lock"}


def test_existing_run_is_refused(without_torch, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    before = content(copy)
    with pytest.raises(BnnError, match=r"copy' holds a run already; give another --run DIR"):
        import_checkpoint(without_torch, copy, "lenet5")
    assert content(copy) == before
    import_checkpoint(without_torch, tmp_path / "run", "lenet5")
    before = content(tmp_path / "run")
    with pytest.raises(BnnError, match="holds a run already"):
        import_checkpoint(without_torch, tmp_path / "run", "lenet5")
    assert content(tmp_path / "run") == before


def test_folder_with_other_files_is_refused(without_torch, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all of it")
    with pytest.raises(BnnError, match=r"thesis' holds other files \(thesis.tex\) and no run; give a new --run DIR"):
        import_checkpoint(without_torch, tmp_path / "thesis", "lenet5")
    assert content(tmp_path / "thesis") == {"thesis.tex": b"all of it"}


def test_run_in_use_is_refused(without_torch, tmp_path):
    with Run(tmp_path / "run").owned(), pytest.raises(BnnError, match="is in use by process"):
        import_checkpoint(without_torch, tmp_path / "run", "lenet5")
    assert not (tmp_path / "run").exists()


def test_file_at_the_path_of_the_directory(without_torch, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(BnnError, match="cannot write"):
        import_checkpoint(without_torch, tmp_path / "run", "lenet5")
    assert (tmp_path / "run").read_text() == "mine"
