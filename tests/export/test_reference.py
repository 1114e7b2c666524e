"""Files for the references' code: reference file → run → reference file has the same latent weights bit for bit."""

import dataclasses
import json

import numpy as np
import procedural
import pytest
from helpers import GOLDEN, error_line, run_bnnk

from bnn_keras import BnnError, catalog, evaluate, export_model, export_run, import_checkpoint, load_run, train
from bnn_keras.build import build_model
from bnn_keras.experiment import resolve
from bnn_keras.interop import files, to_reference
from bnn_keras.interop.writing import state_dict
from bnn_keras.runs import Run

# Golden weights of each repository: network, arguments. `xnor_lenet5_clip` has latent weights that are not clipped.
REPOSITORIES = {
    "xnor_lenet5_clip": ("lenet5", {}),
    "xnor_nin": ("nin", {}),
    "wrn_20_1_1bit_cifar10": ("wrn_20_1", {}),
    "birealnet18": ("birealnet18", {}),
    "birealnet50": ("birealnet50", {}),
    "irnet_cifar_resnet20_1w1a": ("resnet20", {}),
    "irnet_imagenet_resnet18_1w1a": ("resnet18", {}),
    "reactnet_resnet18": ("birealnet18", {"scheme": "reactnet"}),
}
QUICK, NIGHTLY = ("xnor_lenet5_clip", "wrn_20_1_1bit_cifar10"), ("birealnet50",)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def import_golden(torch, folder, name, monkeypatch, change=lambda tensors: tensors):
    """Import golden weights from a file as the reference writes it; return the run and the weights."""
    _, _, _, weights, images, _ = procedural.load(GOLDEN / f"{name}.npz")
    weights = change(weights)
    network, choices = REPOSITORIES[name]
    row = dataclasses.replace(catalog.NETWORKS[network], input_shape=(*images.shape[2:], images.shape[1]))
    monkeypatch.setitem(catalog.NETWORKS, network, row)  # some golden files have smaller images than the network
    state = {f"module.{key}": torch.from_numpy(np.array(value)) for key, value in weights.items()}
    torch.save({"state_dict": state}, folder / "given.pth.tar")
    import_checkpoint(folder / "given.pth.tar", folder / "run", network, **choices)
    return folder / "run", weights


def assert_identical(written, given):
    given = {name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}
    assert written.keys() == given.keys()
    for name, value in given.items():
        assert (written[name].dtype, written[name].shape) == (value.dtype, value.shape), name
        assert written[name].tobytes() == value.tobytes(), name


def marks(name):
    return () if name in QUICK else pytest.mark.nightly if name in NIGHTLY else pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in REPOSITORIES])
def test_round_trip_is_exact(torch, tmp_path, name, monkeypatch):
    run, weights = import_golden(torch, tmp_path, name, monkeypatch)
    sidecar = export_run(run, "reference", tmp_path / "written.pth.tar")
    written = files.read_checkpoint(tmp_path / "written.pth.tar")
    unused = catalog.NETWORKS[REPOSITORIES[name][0]].reference.unused
    for key, (_, value) in unused.items():
        assert np.all(written[key] == value)
        weights[key] = written[key]
    assert_identical(written, weights)
    assert sidecar["tensors"] == len(written)
    torch.load(tmp_path / "written.pth.tar", weights_only=True)


@pytest.mark.parametrize(
    ("name", "change", "to"),
    [
        ("wrn_20_1_1bit_cifar10", lambda key, value: np.packbits(value > 0, axis=1), "reference_packed"),
        pytest.param(
            "reactnet_resnet18",
            lambda key, value: np.where(value < 0, -1, 1).astype(np.float32),
            "reference",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_round_trip_of_published_signs_is_exact(torch, tmp_path, name, change, to, monkeypatch):
    """binary-wide-resnet publishes eight signs to a byte, ReActNet kernels of ±1."""

    def signs(tensors):
        binary = [key for key in tensors if ".conv" in key or "binary_conv.weight" in key]
        return tensors | {key: change(key, tensors[key]) for key in binary}

    run, weights = import_golden(torch, tmp_path, name, monkeypatch, signs)
    sidecar = export_run(run, to, tmp_path / "written.pth.tar")
    assert_identical(files.read_checkpoint(tmp_path / "written.pth.tar"), weights)
    assert sidecar["packed_layers"] == (18 if to == "reference_packed" else 0)


@pytest.mark.slow
def test_imported_latents_are_constrained_for_evaluation_and_training(torch, tmp_path, monkeypatch, data_dir):
    """The run keeps the latent weights of the file; whatever computes with them has them centred and clipped."""
    run, weights = import_golden(torch, tmp_path, "xnor_lenet5_clip", monkeypatch)
    name = "bin_conv2.conv.weight"
    assert np.abs(weights[name]).max() > 1
    for best in (False, True):
        _, raw = load_run(run, best, constrain=False)
        assert np.array_equal(to_reference(raw)[name], weights[name])
        _, model = load_run(run, best)
        assert np.abs(to_reference(model)[name]).max() == 1
    experiment = Run(run).experiment
    assert evaluate(run, data_dir=data_dir)["images"] == 1000
    stage = experiment.stages[0].model_copy(update={"epochs": 1, "batch_size": 2000})
    other = experiment.model_copy(update={"stages": [stage]})
    train(other, tmp_path / "other", start_from=run, data_dir=data_dir)
    export_run(tmp_path / "other", "reference", tmp_path / "trained.pth.tar")
    written = files.read_content(tmp_path / "trained.pth.tar")
    assert_identical(written.tensors, state_dict(load_run(tmp_path / "other")[1]))
    assert written.entries == {"acc": Run(tmp_path / "other").result["best_top1"]}


# --- the command, and files that are refused ---


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    pytest.importorskip("torch")
    file = tmp_path_factory.mktemp("written") / "lenet5.pth.tar"
    return run_bnnk("export", trained, "--to", "reference", "-o", file), file


def test_command(written):
    result, file = written
    assert (result.exit_code, result.stderr) == (0, "")
    assert "18, read back bit for bit" in result.stdout
    sidecar = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert (sidecar["format"], sidecar["weights"], sidecar["tensors"]) == ("reference", "last", 18)


def test_a_file_for_a_reference_is_not_opened(written):
    assert "holds weights for the reference's code and no network; read it with `bnnk import`" in error_line(
        "evaluate", "--model", written[1]
    )


def test_an_earlier_export_is_replaced_and_other_files_are_kept(written, trained, tmp_path):
    export_run(trained, "reference", written[1], best=True)
    (tmp_path / "mine.pth.tar").write_text("mine")
    with pytest.raises(BnnError, match="exists and is not an earlier export"):
        export_run(trained, "reference", tmp_path / "mine.pth.tar")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify_on": "mnist_5k"}, "is verified by reading its tensors back; leave --verify-on"),
        ({"softmax": True}, "leave --softmax out"),
        ({"batch_size": 2}, "leave --batch-size out"),
    ],
)
def test_options_of_files_for_inference(trained, tmp_path, options, message):
    with pytest.raises(BnnError, match=message):
        export_run(trained, "reference", tmp_path / "x.pth.tar", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_run(tmp_path):
    with pytest.raises(BnnError, match="format 'reference' is for networks of the catalog; export a run"):
        export_model(
            build_model(resolve("lenet5").experiment),
            "reference",
            tmp_path / "x.pth",
            verify_on=np.zeros((1, 28, 28, 1)),
        )
