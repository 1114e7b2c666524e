"""Checkpoint files: supported files are read, unsafe ones refused, and damaged ones give one clear error."""

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

import h5py
import numpy as np
import pytest
import safetensors.numpy

from bnn_keras.errors import BnnError
from bnn_keras.interop import read_checkpoint

TORCH_SUFFIXES = (".pth", ".pth.tar", ".th", ".pt", ".PTH.TAR")
NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
REFUSED = "asks for more than tensors and numbers"
# PyTorch's warning about pickles that torch.save did not write.
OTHER_PICKLES = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


def tensors():
    random = np.random.default_rng(0)
    return {
        "conv1.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "bn1.running_var": np.linspace(0.5, 2, 4, dtype=np.float32),
        "bn1.num_batches_tracked": np.array(7, np.int64),
        "conv2": np.packbits(random.integers(0, 2, (4, 16, 3, 3), np.uint8), axis=1),
    }


def assert_same(read, expected):
    assert list(read) == list(expected)
    for name, value in expected.items():
        assert isinstance(read[name], np.ndarray)
        assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
        assert np.array_equal(read[name], value)


def error_of(path):
    """Return the error message of reading a file, or None if it can be read."""
    try:
        read_checkpoint(path)
    except BnnError as error:
        return str(error)
    return None


def one_line_error(path):
    """Return the error message of reading a file, which must be one line without PyTorch's unsafe advice."""
    message = error_of(path)
    assert message
    assert "\n" not in message
    assert "arbitrary code" not in message
    return message


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def state(torch):
    """Return the tensors as a state dict."""
    return OrderedDict((name, torch.from_numpy(value)) for name, value in tensors().items())


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    """Return whether PyTorch files have the format of before version 1.6."""
    return request.param


@pytest.fixture
def save(torch, tmp_path, legacy):
    """Return a function that writes a file with torch.save."""

    def run(content, name="checkpoint.pth.tar"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return run


# --- supported files ---


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_is_read(tmp_path, writer):
    writer(tmp_path / "checkpoint.npz", **tensors())
    assert_same(read_checkpoint(tmp_path / "checkpoint.npz"), tensors())
    assert_same(read_checkpoint(str(tmp_path / "checkpoint.npz")), tensors())


def test_safetensors_is_read(tmp_path):
    safetensors.numpy.save_file(tensors(), tmp_path / "checkpoint.safetensors")
    read = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert_same(dict(sorted(read.items())), dict(sorted(tensors().items())))


@pytest.mark.parametrize("suffix", TORCH_SUFFIXES)
def test_pytorch_file_is_read(save, state, suffix):
    assert_same(read_checkpoint(save(state, f"model{suffix}")), tensors())
    assert_same(read_checkpoint(save({"epoch": 1, "state_dict": state}, f"model{suffix}")), tensors())


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("module.conv1.weight", "conv1.weight"),  # a network in DataParallel
        (
            "features.module.0.weight",
            "features.0.weight",
        ),  # XNOR-Net-PyTorch's AlexNet: only its features are in DataParallel
        ("module.features.module.0.weight", "features.0.weight"),
        ("module.conv0", "conv0"),
        ("submodule.modules.0.weight", "submodule.modules.0.weight"),
    ],
)
def test_module_is_removed_from_names(tmp_path, stored, name):
    value = np.ones(2, np.float32)
    np.savez(tmp_path / "x.npz", **{stored: value})
    safetensors.numpy.save_file({stored: value}, tmp_path / "x.safetensors")
    assert list(read_checkpoint(tmp_path / "x.npz")) == list(read_checkpoint(tmp_path / "x.safetensors")) == [name]
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {stored: torch.from_numpy(value)}}, tmp_path / "x.pth")
    assert list(read_checkpoint(tmp_path / "x.pth")) == [name]


def test_other_values_beside_the_state_dict_are_ignored(torch, save, state):
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([parameter], lr=0.01, weight_decay=1e-5)
    parameter.sum().backward()
    adam.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=2)
    training_state = {
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
    assert_same(read_checkpoint(save({**training_state, "state_dict": state})), tensors())


def rewrite_pickle(path, change):
    """Change the pickled part of a PyTorch file."""
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
def test_numpy_scalars_of_every_numpy_version_are_accepted(save, state, module, scalar):
    path = save({"state_dict": state, "best_acc": scalar})
    reference = f"c{module}\nscalar\n".encode()
    rewrite_pickle(path, lambda content: re.sub(rb"cnumpy\._?core\.multiarray\nscalar\n", reference, content))
    assert reference in path.read_bytes()
    assert_same(read_checkpoint(path), tensors())


def test_every_kind_of_tensor_is_read(torch, save):
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


def test_sparse_tensors_are_refused(torch, save):
    assert one_line_error(save({"weight": torch.eye(3).to_sparse()})).startswith("cannot read")


def test_allowed_globals_are_restored(torch, save, state):
    read_checkpoint(save({"state_dict": state, "best_acc": np.float64(1)}))
    assert not {np.dtype, type(np.dtype("f8"))} & set(torch.serialization.get_safe_globals())


# --- unsafe files ---


class Custom:
    """A class that PyTorch does not know."""


class CallsWhenUnpickled:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def marker(tmp_path):
    """Return the path of the file that an unsafe checkpoint would create."""
    return tmp_path / "executed"


class Main:
    """A class of the training script."""

    __module__ = "__main__"
    __qualname__ = "Main"


UNSAFE = {
    "posix.system": lambda marker: CallsWhenUnpickled(os.system, f"touch '{marker}'"),
    "functools.partial": lambda marker: functools.partial(print, "x"),
    "pathlib.PosixPath": lambda marker: marker,
    "numpy.dtypes.StrDType": lambda marker: np.str_("resnet20"),
    "__main__.Main": lambda marker: Main(),
    f"{__name__}.Custom": lambda marker: Custom(),
}


@pytest.mark.parametrize("position", ["beside", "inside", "alone"])
@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_files_are_refused_and_not_executed(torch, save, state, marker, monkeypatch, kind, position):
    monkeypatch.setattr(sys.modules["__main__"], "Main", Main, raising=False)
    value = UNSAFE[kind](marker)
    content = {
        "beside": {"state_dict": state, "best": value},
        "inside": {"state_dict": {**state, "x": value}},
        "alone": value,
    }
    path = save(content[position])
    assert one_line_error(path) == (
        f"refused to read {str(path)!r}: it {REFUSED} ({kind}), and could run any program; save its state dict alone "
        "with torch.save"
    )
    assert not marker.exists()
    if kind == "posix.system":  # verify that the file is unsafe
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_pickled_module_is_refused(torch, save):
    assert f"{REFUSED} (torch.nn.modules.linear.Linear)" in one_line_error(save(torch.nn.Linear(2, 2)))


def test_numpy_arrays_are_refused(save, state):
    assert re.search(
        rf"{REFUSED} \(numpy\._?core\.multiarray\._reconstruct\)", one_line_error(save({"x": np.zeros(3), **state}))
    )


@OTHER_PICKLES
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.usefixtures("torch")
def test_pickles_not_written_by_pytorch_are_refused(tmp_path, marker, protocol):
    (tmp_path / "x.pth").write_bytes(pickle.dumps(CallsWhenUnpickled(os.system, f"touch '{marker}'"), protocol))
    assert re.match("cannot read|refused to read", one_line_error(tmp_path / "x.pth"))
    assert not marker.exists()
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"state_dict": tensors()}, protocol))
    assert re.match("cannot read|refused to read", one_line_error(tmp_path / "x.pth"))


def test_objects_in_npz_are_refused_and_not_executed(tmp_path, marker):
    path = tmp_path / "x.npz"
    np.savez(path, **tensors(), objects=np.array([CallsWhenUnpickled(os.system, f"touch '{marker}'")], object))
    message = one_line_error(path)
    assert message.startswith(f"cannot read {str(path)!r} as a checkpoint (Object arrays cannot be loaded")
    assert message.endswith("; it is damaged or has another format: download it again")
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
    """Return an undamaged file of each format."""
    FILES[request.param](tmp_path / request.param)
    assert len(read_checkpoint(tmp_path / request.param)) == 4
    return tmp_path / request.param


def is_readable(path, content):
    """Return whether a file with this content can be read. If not, the error must be a `BnnError` of one line."""
    path.write_bytes(content)
    message = error_of(path)
    assert message is None or re.fullmatch("(cannot read|refused to read|.* holds no tensors).*", message)
    return message is None


@OTHER_PICKLES
def test_truncated_file_is_an_error(path):
    content = path.read_bytes()
    step = len(content) // 60
    for length in sorted({*range(0, len(content), step), *range(30), *range(len(content) - 30, len(content))}):
        assert not is_readable(path, content[:length]), length


@OTHER_PICKLES
def test_changed_byte_is_read_or_an_error(path):
    content, generator = path.read_bytes(), random.Random(1)
    outcomes = set()
    for offset in range(0, len(content), len(content) // 200):
        damaged = bytearray(content)
        damaged[offset] ^= generator.randrange(1, 256)
        outcomes.add(is_readable(path, damaged))
    assert False in outcomes


@OTHER_PICKLES
def test_random_bytes_are_an_error(path):
    generator = random.Random(1)
    for length in (1, 2, 3, 4, 8, 16, 64, 256, 4096) * 7:
        assert not is_readable(path, generator.randbytes(length))


def test_empty_file_is_an_error(path):
    path.write_bytes(b"")
    message = (
        rf"cannot read {str(path)!r} as a checkpoint \(.+\); it is damaged or has another format: download it again"
    )
    assert re.fullmatch(message, one_line_error(path))


@pytest.mark.parametrize("content", ["<!DOCTYPE html>", "version https://git-lfs.github.com/spec/v1", "Not found"])
def test_failed_download_is_reported_as_a_damaged_file(path, content):
    path.write_text(content)
    assert one_line_error(path).startswith(f"cannot read {str(path)!r} as a checkpoint")


def test_suffix_of_another_format_is_an_error(path, tmp_path):
    content = path.read_bytes()
    for suffix in {".npz", ".safetensors", ".pth"} - {path.suffix}:
        if suffix == ".pth":
            pytest.importorskip("torch")
        assert not is_readable(tmp_path / f"other{suffix}", content)


def test_npy_file_named_npz_is_an_error(tmp_path):
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert one_line_error(tmp_path / "x.npz").startswith("cannot read")


@pytest.mark.usefixtures("torch")
def test_archives_without_a_checkpoint_are_an_error(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x.txt")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.write(tmp_path / "x.txt", "x.txt")
    for name in ("x.tar", "x.pth"):
        assert one_line_error(tmp_path / name).startswith("cannot read"), name


def test_damaged_file_is_closed(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_readable(path, path.read_bytes()[:-30])
        gc.collect()
    assert [str(item.message) for item in caught if issubclass(item.category, ResourceWarning)] == []


# --- missing files and files without tensors ---


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.npz", "folder.npz"])
def test_missing_file_is_an_error(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    assert one_line_error(tmp_path / name) == (
        f"no file {str(tmp_path / name)!r}; give a checkpoint: .npz, .safetensors, .pth, .pth.tar, .th, .pt, .h5, or a "
        "checkpoint of TensorFlow"
    )


@pytest.mark.parametrize("name", ["model.ckpt", "checkpoint", "model.pth.gz"])
def test_other_suffix_is_an_error(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"x")
    assert one_line_error(path) == (
        f"{str(path)!r} ends in {path.suffix!r}; "
        "expected a checkpoint named .npz, .safetensors, .pth, .pth.tar, .th, .pt, .h5, or a checkpoint of TensorFlow"
    )


def test_file_without_tensors_is_an_error(tmp_path):
    np.savez(tmp_path / "x.npz")
    safetensors.numpy.save_file({}, tmp_path / "x.safetensors")
    for path in (tmp_path / "x.npz", tmp_path / "x.safetensors"):
        assert (
            one_line_error(path) == f"{str(path)!r} holds no tensors; expected the state dict of a network: save that"
        )


def test_pytorch_file_without_tensors_is_an_error(torch, save, state):
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
        assert "holds no tensors; expected the state dict of a network" in one_line_error(save(content))


# --- PyTorch is optional ---


def test_missing_pytorch_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    path = tmp_path / "x.pth"
    path.write_bytes(b"x")
    assert one_line_error(path) == (
        f"{str(path)!r} is a PyTorch file, and PyTorch is not installed; install it with "
        "`pip install 'bnn-keras[torch]'`, or save the tensors as .npz or .safetensors"
    )


def test_other_formats_need_no_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    _npz(tmp_path / "x.npz")
    _safetensors(tmp_path / "x.safetensors")
    assert len(read_checkpoint(tmp_path / "x.npz")) == len(read_checkpoint(tmp_path / "x.safetensors")) == 4


def test_data_outside_of_an_h5_file_is_not_read(tmp_path):
    """HDF5 can name other files whose bytes are the values of a dataset."""
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "x.h5", "w") as stream:
        stream.create_dataset("fc/fc/kernel:0", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(BnnError, match=r"cannot read .*x\.h5' as a checkpoint \(it has data in other files"):
        read_checkpoint(tmp_path / "x.h5")
