"""`bnnk import`: output, error lines and exit codes."""

import json
import os
from collections import OrderedDict

import numpy as np
import procedural
import pytest
from helpers import GOLDEN, error_line, run_bnnk

from bnn_keras import load_run
from bnn_keras.interop import to_reference
from bnn_keras.runs import Run

REPOSITORIES = ("XNOR-Net-PyTorch", "binary-wide-resnet", "Bi-Real-net", "IR-Net", "ReActNet", "torchvision")


@pytest.fixture(scope="module")
def tensors(trained):
    """The tensors of a trained LeNet-5 in XNOR-Net-PyTorch's layout."""
    _, model = load_run(trained)
    return to_reference(model)


@pytest.fixture
def file(tensors, tmp_path):
    np.savez(tmp_path / "lenet5.npz", **tensors)
    return tmp_path / "lenet5.npz"


def test_help():
    result = run_bnnk("import", "--help")
    assert result.exit_code == 0
    text = "".join(result.stdout.split())  # click breaks lines at hyphens too
    for part in (*REPOSITORIES, "--network", "--dataset", "--scheme", "--bits", "--set", "--run", ".pth", ".npz"):
        assert part in text
    assert "--json" not in text
    assert any(line.split()[:1] == ["import"] for line in run_bnnk("--help").stdout.splitlines())


@pytest.mark.usefixtures("eager")
def test_import_evaluate_train(file, trained, tmp_path, data_dir):
    """As the help of the command describes."""
    run = tmp_path / "run"
    keys = ("stages.0.epochs=1", "stages.0.batch_size=500", "stages.0.optimizer.learning_rate=1e-9")
    result = run_bnnk(
        "import", file, "--network", "lenet5", "--run", run, *(part for key in keys for part in ("--set", key))
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{file} → {run} (lenet5, xnor 1/1)\n"
    assert Run(run).environment["command"][0] == "bnnk"

    evaluated = json.loads(run_bnnk("evaluate", run, "--data-dir", data_dir, "--json").stdout)
    assert evaluated["top1"] == Run(trained).result["top1"] > 80

    training = [
        "train",
        "lenet5",
        "--experiment",
        run / "experiment.toml",
        "--run",
        run,
        "--data-dir",
        data_dir,
        "--json",
    ]
    result = run_bnnk(*training)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["top1"] > 80
    assert "epoch 1/1" in result.stderr


def test_pytorch_checkpoint(tensors, tmp_path):
    torch = pytest.importorskip("torch")
    state = OrderedDict((f"module.{name}", torch.from_numpy(value)) for name, value in tensors.items())
    torch.save({"state_dict": state, "acc": np.float64(99.23)}, tmp_path / "lenet5.pth.tar")
    result = run_bnnk("import", tmp_path / "lenet5.pth.tar", "--network", "lenet5", "--run", tmp_path / "run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'lenet5.pth.tar'} → {tmp_path / 'run'} (lenet5, xnor 1/1)\n"


def test_note_if_no_recipe_matches(tmp_path):
    golden, _, _, weights, _, _ = procedural.load(GOLDEN / "wrn_20_1_1bit_cifar100.npz")
    golden.close()
    np.savez(tmp_path / "wide.npz", **weights)
    result = run_bnnk("import", tmp_path / "wide.npz", "--network", "wrn_20_1", "--run", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'wide.npz'} → {tmp_path / 'run'} (wrn_20_1, mcdonnell 1/32)\n"
    assert result.stderr.startswith("Note: no recipe for wrn_20_1 with cifar100; based on ")
    assert len(result.stderr.splitlines()) == 1
    assert Run(tmp_path / "run").experiment.data.name == "cifar100"


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("none.pth", ["--network", "lenet5"], "no file '{file}'; give a checkpoint: .npz, .safetensors, .pth"),
        ("text.txt", ["--network", "lenet5"], "'{file}' ends in '.txt'; expected a checkpoint named .npz"),
        ("text.npz", ["--network", "lenet5"], "cannot read '{file}' as a checkpoint ("),
        ("lenet5.npz", ["--network", "lenet"], "unknown network 'lenet'; did you mean 'lenet5'?"),
        ("lenet5.npz", ["--network", "zoo/quicknet"], "network 'zoo/quicknet' has no reference to import"),
        ("lenet5.npz", ["--network", "nin"], "these are not the tensors of nin: xnor.0.weight is missing; xnor.0.bias"),
        (
            "lenet5.npz",
            ["--network", "lenet5", "--dataset", "cifar100"],
            "these are not the tensors of lenet5: conv1.w",
        ),
        ("lenet5.npz", ["--network", "lenet5", "--bits", "2/2"], "experiment xnor_net/lenet5_mnist_5k: scheme.bits:"),
        (
            "lenet5.npz",
            ["--network", "lenet5", "--set", "stage=1"],
            "experiment xnor_net/lenet5_mnist_5k: stage: unknown",
        ),
        ("lenet5.npz", ["--network", "lenet5", "--experiment", "none.toml"], "no experiment file 'none.toml'"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("file")
def test_error_is_one_line(tmp_path, name, choices, message):
    for text in ("text.txt", "text.npz"):
        (tmp_path / text).write_text("no checkpoint")
    line = error_line("import", tmp_path / name, *choices, "--run", tmp_path / "run")
    assert line.startswith(message.format(file=tmp_path / name))
    assert not (tmp_path / "run").exists()


class RunsCommand:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_malicious_checkpoint_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {}, "best": RunsCommand(tmp_path / "executed")}, tmp_path / "x.pth")
    line = error_line("import", tmp_path / "x.pth", "--network", "lenet5", "--run", tmp_path / "run")
    assert line.startswith(
        f"refused to read '{tmp_path / 'x.pth'}': it asks for more than tensors and numbers (posix.sys"
    )
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "run").exists()


def test_existing_run_is_refused(file, trained):
    before = (trained / "experiment.toml").read_bytes(), (trained / "weights.h5").read_bytes()
    assert error_line("import", file, "--network", "lenet5", "--run", trained) == (
        f"'{trained}' holds a run already; give another --run DIR"
    )
    assert before == ((trained / "experiment.toml").read_bytes(), (trained / "weights.h5").read_bytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import"], "Missing argument 'CHECKPOINT'."),
        (["import", "x.pth", "--run", "run"], "Missing option '--network'."),
        (["import", "x.pth", "--network", "lenet5"], "Missing option '--run'."),
        (["import", "x.pth", "--network", "lenet5", "--run", "run", "--json"], "No such option"),
        (["import", "x.pth", "lenet5", "--run", "run"], "Missing option '--network'."),
        (["improt"], "No such command 'improt'; did you mean 'import'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_arguments(arguments, message):
    assert error_line(*arguments, code=2).startswith(message)


def test_debug_shows_the_traceback(tmp_path):
    result = run_bnnk("--debug", "import", tmp_path / "none.pth", "--network", "lenet5", "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "BnnError"
