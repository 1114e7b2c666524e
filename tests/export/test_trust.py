"""A SavedModel, which is a program, opens only if this machine exported it, or with trust."""

import json
import shutil
import stat
import threading

import numpy as np
import pytest
from helpers import error_line, export_trained, run_bnnk

from bnn_keras import evaluate, export_run, predict
from bnn_keras.benchmark import benchmark, comparing
from bnn_keras.errors import BnnError
from bnn_keras.export import formats, open_export, trust
from bnn_keras.export.sidecar import sha256_of, sidecar_path
from bnn_keras.files import with_digest

REFUSED = (
    r"'.*model' was not exported by you on this machine, and a file of format 'saved_model' is a program, which can "
    r"read and write your files; add --trust \(trust=True in Python\) if you trust the person who made it, or ask for "
    r"a packed file"
)
IMAGE = np.zeros((28, 28), np.uint8)


@pytest.fixture(scope="module")
def exported(trained, data_dir, tmp_path_factory):
    return export_trained(tmp_path_factory, trained, data_dir)


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of an export of this machine."""
    shutil.copyfile(exported / "model.json", tmp_path / "model.json")
    return shutil.copytree(exported / "model", tmp_path / "model")


@pytest.fixture
def other_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "bnn-keras" / "key"


@pytest.fixture
def unread(monkeypatch):
    """Fail if a file reaches the library of its format."""
    monkeypatch.setattr(formats, "format_module", lambda *_: pytest.fail("the file reached a library"))


def change(file, **fields):
    path = sidecar_path(file)
    sidecar = {**json.loads(path.read_text()), **fields, "digest": None}
    path.write_text(json.dumps(with_digest({key: value for key, value in sidecar.items() if value is not None})))


def test_own_exports_open_also_after_renaming(copy):
    assert predict(copy, IMAGE).logits.shape == (1, 10)
    (copy.parent / "model.json").rename(copy.parent / "other.json")
    copy.rename(copy.parent / "other")
    assert open_export(copy.parent / "other").format == "saved_model"


@pytest.mark.parametrize("signature", [None, "", "0" * 64, "ü"])
def test_export_without_a_valid_signature(copy, unread, signature):
    change(copy, signature=signature)
    for function in (open_export, evaluate, lambda source: predict(source, IMAGE), lambda source: benchmark([source])):
        with pytest.raises(BnnError, match=REFUSED):
            function(copy)


def test_signature_of_other_files(copy, unread):
    """Whoever changes a file can change its digest, and not the signature."""
    (copy / "saved_model.pb").write_bytes(b"another program")
    digests = json.loads(sidecar_path(copy).read_text())["sha256"]
    change(copy, sha256={**digests, "model/saved_model.pb": sha256_of(copy / "saved_model.pb")})
    with pytest.raises(BnnError, match=REFUSED):
        open_export(copy)
    (copy / "assets.extra").mkdir()
    (copy / "assets.extra" / "added").write_text("added")
    with pytest.raises(BnnError, match="has checksums of other files"):
        open_export(copy, trust=True)


def test_export_of_another_machine_opens_with_trust(copy, other_machine, data_dir, monkeypatch):
    for words in (("evaluate", "--model", copy), ("predict", "--model", copy, "x.png"), ("benchmark", copy)):
        assert "is a program" in error_line(*words)
    assert not other_machine.exists()  # only exports make a key
    assert predict(copy, IMAGE, trust=True).logits.shape == (1, 10)
    result = run_bnnk("evaluate", "--model", copy, "--trust", "--data-dir", data_dir, "--json")
    assert json.loads(result.stdout)["weights"] == "saved_model"
    measured = []
    monkeypatch.setattr(comparing, "_measure", lambda group, *_: measured.extend(group) or [])
    benchmark([copy], trust=True)
    assert [entrant.engine for entrant in measured] == ["saved_model"]


def test_formats_without_code_need_no_trust(exported, other_machine):
    for name in ("model.safetensors", "model.onnx"):
        assert "signature" not in json.loads(sidecar_path(exported / name).read_text())
        assert open_export(exported / name).description.labels


def test_key_is_private_and_made_once(other_machine):
    signatures = []
    threads = [threading.Thread(target=lambda: signatures.append(trust.sign({"a": "1"}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signatures) == 8
    assert len(set(signatures)) == 1
    assert len(other_machine.read_bytes()) == 32
    assert stat.S_IMODE(other_machine.stat().st_mode) == 0o600
    assert [path.name for path in other_machine.parent.iterdir()] == ["key"]
    assert trust.is_signed({"a": "1"}, signatures[0])
    assert not trust.is_signed({"a": "2"}, signatures[0])


def test_export_without_a_key_says_so(trained, data_dir, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot use the key '.*' \(.*\): opening this export will need --trust"):
        export_run(trained, "saved_model", tmp_path / "model", verify_images=1, data_dir=data_dir)
    with pytest.raises(BnnError, match=REFUSED):
        open_export(tmp_path / "model")
    assert open_export(tmp_path / "model", trust=True).format == "saved_model"


def test_key_is_in_the_home_folder(monkeypatch):
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        monkeypatch.setenv("HOME", "/home/user")
        assert str(trust.key_file()) == "/home/user/.local/share/bnn-keras/key"
