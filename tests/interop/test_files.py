"""Checkpoint files: what is read of them, what is refused, and that a damaged one is an error with a cure."""

import functools
import gc
import os
import pickle
import random
import re
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.numpy

from bnn_keras.errors import BnnError
from bnn_keras.interop import read_checkpoint

TORCH_SUFFIXES = (".pth", ".pth.tar", ".th", ".pt", ".PTH.TAR")
NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
REFUSED = "asks for more than tensors and numbers"
# PyTorch's word on pickles that torch.save did not write.
OTHER_PICKLES = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


def tensors():
    values = np.random.default_rng(0)
    return {
        "conv1.weight": values.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "bn1.running_var": np.linspace(0.5, 2, 4, dtype=np.float32),
        "bn1.num_batches_tracked": np.array(7, np.int64),
        "conv2": np.packbits(values.integers(0, 2, (4, 16, 3, 3), np.uint8), axis=1),
    }


def same(read, expected):
    assert list(read) == list(expected)
    for name, value in expected.items():
        assert isinstance(read[name], np.ndarray)
        assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
        assert np.array_equal(read[name], value)
    return True


def why_not(path):
    """The one line of the error that a file gives; None where it can be read."""
    try:
        read_checkpoint(path)
    except BnnError as error:
        return str(error)
    return None


def message(path):
    """The one line of the error that a file gives."""
    line = why_not(path)
    assert line
    assert "\n" not in line
    assert "arbitrary code" not in line  # PyTorch's advice to read it nevertheless
    return line


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def state(torch):
    """The tensors as a state dict."""
    return OrderedDict((name, torch.from_numpy(value)) for name, value in tensors().items())


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    """Whether PyTorch's files are of the kind that it wrote before 1.6."""
    return request.param


@pytest.fixture
def save(torch, tmp_path, legacy):
    """Writes a file as PyTorch does."""

    def run(content, name="checkpoint.pth.tar"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return run


# --- what is read ---


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz(tmp_path, writer):
    writer(tmp_path / "checkpoint.npz", **tensors())
    assert same(read_checkpoint(tmp_path / "checkpoint.npz"), tensors())
    assert same(read_checkpoint(str(tmp_path / "checkpoint.npz")), tensors())


def test_safetensors(tmp_path):
    safetensors.numpy.save_file(tensors(), tmp_path / "checkpoint.safetensors")
    read = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert same(dict(sorted(read.items())), dict(sorted(tensors().items())))


@pytest.mark.parametrize("suffix", TORCH_SUFFIXES)
def test_pytorch(save, state, suffix):
    assert same(read_checkpoint(save(state, f"model{suffix}")), tensors())
    assert same(read_checkpoint(save({"epoch": 1, "state_dict": state}, f"model{suffix}")), tensors())


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("module.conv1.weight", "conv1.weight"),  # the whole network in DataParallel
        ("features.module.0.weight", "features.0.weight"),  # XNOR-Net-PyTorch's AlexNet: its features alone
        ("module.features.module.0.weight", "features.0.weight"),
        ("module.conv0", "conv0"),
        ("submodule.modules.0.weight", "submodule.modules.0.weight"),
    ],
)
def test_module_is_taken_out_of_names(tmp_path, stored, name):
    value = np.ones(2, np.float32)
    np.savez(tmp_path / "x.npz", **{stored: value})
    safetensors.numpy.save_file({stored: value}, tmp_path / "x.safetensors")
    assert list(read_checkpoint(tmp_path / "x.npz")) == list(read_checkpoint(tmp_path / "x.safetensors")) == [name]
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {stored: torch.from_numpy(value)}}, tmp_path / "x.pth")
    assert list(read_checkpoint(tmp_path / "x.pth")) == [name]


def test_what_trainings_keep_beside_the_state_dict(torch, save, state):
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([parameter], lr=0.01, weight_decay=1e-5)
    parameter.sum().backward()
    adam.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=2)
    beside = {
        "epoch": 7,
        "arch": "resnet20",
        "acc": 98.5,
        "best_acc": np.float64(86.28),
        "best_prec1": torch.tensor(91.2),
        "best_top1_acc": np.float32(56.4),
        "optimizer": adam.state_dict(),
        "scheduler": scheduler.state_dict(),
        "args": {"lr": 0.1, "restarts": [2, 4], "cuda": None, "nesterov": False},
    }
    assert same(read_checkpoint(save({**beside, "state_dict": state})), tensors())


def rewritten(path, change):
    """Changes the pickled part of a file of PyTorch."""
    if not zipfile.is_zipfile(path):
        path.write_bytes(change(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        parts = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in parts.items():
            archive.writestr(info.filename, change(content) if info.filename.endswith("data.pkl") else content)


@pytest.mark.parametrize("module", NUMPY_MODULES)
@pytest.mark.parametrize(
    "scalar",
    [*(np.dtype(kind).type(1) for kind in "efdbhilBHILQq?"), np.array(3, ">f8")[()]],
    ids=lambda scalar: type(scalar).__name__,
)
def test_numpy_scalars_of_every_version(save, state, module, scalar):
    path = save({"state_dict": state, "best_acc": scalar})
    asks = f"c{module}\nscalar\n".encode()
    rewritten(path, lambda content: re.sub(rb"cnumpy\._?core\.multiarray\nscalar\n", asks, content))
    assert asks in path.read_bytes()
    assert same(read_checkpoint(path), tensors())


def test_kinds_of_tensors(torch, save):
    values = torch.tensor([0.5, -2.0])
    read = read_checkpoint(
        save(
            {
                "double": values.double(),
                "half": values.half(),
                "bfloat16": values.bfloat16(),
                "parameter": torch.nn.Parameter(values),
                "view": torch.stack([values, values]).T[:, 0],
            }
        )
    )
    assert read["double"].dtype == np.float64
    for name, value in read.items():
        assert np.array_equal(value.astype(np.float64), [0.5, -2.0]), name


def test_tensors_that_are_no_arrays(torch, save):
    line = message(save({"weight": torch.eye(3).to_sparse()}))
    assert line.startswith("cannot read")


def test_nothing_stays_allowed(torch, save, state):
    read_checkpoint(save({"state_dict": state, "best_acc": np.float64(1)}))
    assert not {np.dtype, type(np.dtype("f8"))} & set(torch.serialization.get_safe_globals())


# --- what is refused ---


class Strange:
    """A class of one's own."""


class Runs:
    """What it is made of calls a function as soon as it is unpickled."""

    def __init__(self, function, *arguments):
        self.made_of = (function, arguments)

    def __reduce__(self):
        return self.made_of


@pytest.fixture
def marker(tmp_path):
    """A file that hostile ones would write."""
    return tmp_path / "executed"


class Main:
    """A class of the script that trained."""

    __module__ = "__main__"
    __qualname__ = "Main"


HOSTILE = {
    "posix.system": lambda marker: Runs(os.system, f"touch '{marker}'"),
    "functools.partial": lambda marker: functools.partial(print, "x"),
    "pathlib.PosixPath": lambda marker: marker,
    "numpy.dtypes.StrDType": lambda marker: np.str_("resnet20"),
    "__main__.Main": lambda marker: Main(),
    f"{__name__}.Strange": lambda marker: Strange(),
}


@pytest.mark.parametrize("place", ["beside", "inside", "alone"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_not_run(torch, save, state, marker, monkeypatch, kind, place):
    monkeypatch.setattr(sys.modules["__main__"], "Main", Main, raising=False)
    thing = HOSTILE[kind](marker)
    content = {
        "beside": {"state_dict": state, "best": thing},
        "inside": {"state_dict": {**state, "x": thing}},
        "alone": thing,
    }
    path = save(content[place])
    assert message(path) == (
        f"refused to read {str(path)!r}: it {REFUSED} ({kind}), and could run any program; save its state dict alone "
        "with torch.save"
    )
    assert not marker.exists()
    if kind == "posix.system":  # the file is as hostile as it shall be
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_whole_network_is_refused(torch, save):
    assert f"{REFUSED} (torch.nn.modules.linear.Linear)" in message(save(torch.nn.Linear(2, 2)))


def test_numpy_arrays_are_refused(save, state):
    assert re.search(
        rf"{REFUSED} \(numpy\._?core\.multiarray\._reconstruct\)", message(save({"x": np.zeros(3), **state}))
    )


@OTHER_PICKLES
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.usefixtures("torch")
def test_pickles_that_pytorch_did_not_write(tmp_path, marker, protocol):
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Runs(os.system, f"touch '{marker}'"), protocol))
    assert re.match("cannot read|refused to read", message(tmp_path / "x.pth"))
    assert not marker.exists()
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"state_dict": tensors()}, protocol))
    assert re.match("cannot read|refused to read", message(tmp_path / "x.pth"))


def test_objects_in_npz_are_refused_and_not_run(tmp_path, marker):
    path = tmp_path / "x.npz"
    np.savez(path, **tensors(), objects=np.array([Runs(os.system, f"touch '{marker}'")], object))
    line = message(path)
    assert line.startswith(f"cannot read {str(path)!r} as a checkpoint (Object arrays cannot be loaded")
    assert line.endswith("; it is damaged or of another kind: get it anew")
    assert not marker.exists()
    with np.load(path, allow_pickle=True) as arrays:
        assert arrays["objects"].shape == (1,)
    assert marker.exists()


# --- damaged files ---


def _npz(path):
    np.savez(path, **tensors())


def _npz_compressed(path):
    np.savez_compressed(path, **tensors())


def _safetensors(path):
    safetensors.numpy.save_file(tensors(), path)


def _pytorch(path, legacy=False):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in tensors().items()}
    content = {"state_dict": state, "best": np.float64(1), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


FILES = {
    "x.npz": _npz,
    "compressed.npz": _npz_compressed,
    "x.safetensors": _safetensors,
    "x.pth": _pytorch,
    "legacy.pth": functools.partial(_pytorch, legacy=True),
}


@pytest.fixture(params=FILES, ids=str)
def path(request, tmp_path):
    """An undamaged file of each kind."""
    FILES[request.param](tmp_path / request.param)
    assert len(read_checkpoint(tmp_path / request.param)) == 4
    return tmp_path / request.param


def reads(path, content):
    """Whether a file with this content can be read; nothing but a `BnnError` of one line says that it cannot."""
    path.write_bytes(content)
    line = why_not(path)
    assert line is None or re.fullmatch("(cannot read|refused to read|.* holds no tensors).*", line)
    return line is None


@OTHER_PICKLES
def test_truncated(path):
    content = path.read_bytes()
    step = len(content) // 60
    for length in sorted({*range(0, len(content), step), *range(30), *range(len(content) - 30, len(content))}):
        assert not reads(path, content[:length]), length


@OTHER_PICKLES
def test_one_byte_is_another(path):
    content, chance = path.read_bytes(), random.Random(1)
    outcomes = set()
    for place in range(0, len(content), len(content) // 200):
        damaged = bytearray(content)
        damaged[place] ^= chance.randrange(1, 256)
        outcomes.add(reads(path, damaged))
    assert False in outcomes


@OTHER_PICKLES
def test_random_bytes(path):
    chance = random.Random(1)
    for length in (1, 2, 3, 4, 8, 16, 64, 256, 4096) * 7:
        assert not reads(path, chance.randbytes(length))


def test_empty(path):
    path.write_bytes(b"")
    line = message(path)
    assert re.fullmatch(rf"cannot read {str(path)!r} as a checkpoint \(.+\); it is damaged or of another .*anew", line)


@pytest.mark.parametrize("content", ["<!DOCTYPE html>", "version https://git-lfs.github.com/spec/v1", "Not found"])
def test_a_page_instead_of_the_file(path, content):
    """A failed download is not called an attack."""
    path.write_text(content)
    assert message(path).startswith(f"cannot read {str(path)!r} as a checkpoint")


def test_files_of_other_kinds(path, tmp_path):
    """A file under a name that belongs to another kind."""
    content = path.read_bytes()
    for suffix in {".npz", ".safetensors", ".pth"} - {path.suffix}:
        if suffix == ".pth":
            pytest.importorskip("torch")
        assert not reads(tmp_path / f"other{suffix}", content)


def test_array_under_the_name_of_an_archive(tmp_path):
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert message(tmp_path / "x.npz").startswith("cannot read")


@pytest.mark.usefixtures("torch")
def test_archives_that_hold_something_else(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x.txt")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.write(tmp_path / "x.txt", "x.txt")
    for name in ("x.tar", "x.pth"):
        assert message(tmp_path / name).startswith("cannot read"), name


def test_a_damaged_file_is_closed(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reads(path, path.read_bytes()[:-30])
        gc.collect()
    assert [str(one.message) for one in caught if issubclass(one.category, ResourceWarning)] == []


# --- files that are none ---


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.npz", "folder.npz"])
def test_no_file(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    assert message(tmp_path / name) == (
        f"no file {str(tmp_path / name)!r}; give a checkpoint: .npz, .safetensors, .pth, .pth.tar, .th or .pt"
    )


@pytest.mark.parametrize("name", ["weights.h5", "model.ckpt", "checkpoint", "model.pth.gz"])
def test_other_suffixes(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"x")
    assert message(path) == (
        f"{str(path)!r} ends in {path.suffix!r}; "
        "expected a checkpoint named .npz, .safetensors, .pth, .pth.tar, .th or .pt"
    )


def test_no_tensors(tmp_path):
    np.savez(tmp_path / "x.npz")
    safetensors.numpy.save_file({}, tmp_path / "x.safetensors")
    for path in (tmp_path / "x.npz", tmp_path / "x.safetensors"):
        assert message(path) == f"{str(path)!r} holds no tensors; expected the state dict of a network"


def test_no_tensors_in_a_file_of_pytorch(torch, save, state):
    contents = [
        {},
        [1, 2],
        torch.zeros(3),
        {"epoch": 3},
        {"epoch": 3, "state_dict": {}},
        {"state_dict": {"lr": 0.1}, "weight": torch.zeros(3)},
        {0: torch.zeros(3)},
        {"net": state},
    ]
    for content in contents:
        assert "holds no tensors; expected the state dict of a network" in message(save(content))


# --- PyTorch is an extra ---


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import finds no module in
    path = tmp_path / "x.pth"
    path.write_bytes(b"x")
    assert message(path) == (
        f"{str(path)!r} is a file of PyTorch, which is not installed; install it with "
        "`pip install 'bnn-keras[torch]'`, or save the tensors as .npz or .safetensors"
    )


def test_what_needs_no_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    _npz(tmp_path / "x.npz")
    _safetensors(tmp_path / "x.safetensors")
    assert len(read_checkpoint(tmp_path / "x.npz")) == len(read_checkpoint(tmp_path / "x.safetensors")) == 4
