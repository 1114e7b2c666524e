"""A sidecar is validated before anything it names is read: its types, its digests, and the files they are of."""

import json
import os
import re
import shutil

import pytest
from helpers import EXPORTED, error_line

from bnn_keras import catalog, resolve
from bnn_keras.errors import BnnError
from bnn_keras.export import formats, open_export, sidecar
from bnn_keras.export.sidecar import read_sidecar, sidecar_path, write_sidecar
from bnn_keras.files import with_digest

FORMATS = ("tflite", "openvino", "saved_model", "onnx")


@pytest.fixture
def unread(monkeypatch):
    """Fail if a file reaches the library of its format."""
    monkeypatch.setattr(formats, "format_module", lambda *_: pytest.fail("the file reached a library"))


def write_export(folder, to, stem="model"):
    """Write files like those of an export, which are not models, with their sidecar. Return the exported file."""
    row = catalog.FORMATS[to]
    file = folder / EXPORTED[to].replace("model", stem)
    parts = [file / "saved_model.pb", file / "variables" / "data"] if row.folder else [file]
    for part in (*parts, *(file.with_suffix(suffix) for suffix in row.companions)):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"content of {part.name}")
    experiment = resolve("lenet5").experiment.to_toml()
    fields = {"floats": "float32", "outputs": "logits", "labels": list("0123456789"), "experiment": experiment}
    write_sidecar(file, {"format": to, **fields})
    return file


def change(file, **fields):
    """Change fields of a sidecar, with a valid checksum."""
    path = sidecar_path(file)
    changed = {**json.loads(path.read_text()), **fields}
    del changed["digest"]
    path.write_text(json.dumps(with_digest(changed)))


def error_of(file):
    with pytest.raises(BnnError) as caught:
        open_export(file)
    return str(caught.value)


@pytest.mark.parametrize("to", FORMATS)
def test_digests_are_of_exactly_the_own_files(tmp_path, unread, to):
    file = write_export(tmp_path, to)
    (tmp_path / "other.bin").write_text("other")
    digests = read_sidecar(file)["sha256"]
    first = next(iter(digests))
    other = sidecar.sha256_of(tmp_path / "other.bin")
    for name in ("/dev/urandom", "../x", "other.bin", f"./{first}", f"x/../{first}", str(tmp_path / first), ""):
        for changed in ({**digests, name: other}, {name: digests[first]}, {name: digests[first], **digests}):
            change(file, sha256=changed)
            assert "has checksums of other files" in error_of(file)
    change(file, sha256={})
    assert "sha256: Dictionary should have at least 1 item" in error_of(file)
    change(file, sha256={**digests, first: other})
    assert "does not match its checksum" in error_of(file)


def test_format_of_a_plugin_that_is_not_loaded(tmp_path, unread):
    file = write_export(tmp_path, "onnx").rename(tmp_path / "model.lite")
    sidecar_path(tmp_path / "model.onnx").rename(sidecar_path(file))
    change(file, format="lite")
    assert re.search("unknown format 'lite'; .*; give the plugin that wrote it with --plugin", error_of(file))


def test_files_that_were_added_or_removed_are_errors(tmp_path, unread):
    folder, xml = write_export(tmp_path, "saved_model"), write_export(tmp_path, "openvino")
    (folder / "variables" / "added").write_text("")
    xml.with_suffix(".bin").unlink()
    assert "'model/variables/added' is in one of them only" in error_of(folder)
    assert "'model.bin' is in one of them only" in error_of(xml)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path, unread, monkeypatch):
    file = write_export(tmp_path, "tflite")
    size = file.stat().st_size
    for replace in (os.mkfifo, lambda path: path.symlink_to("/dev/urandom")):
        file.unlink()
        replace(file)
        assert "is not a regular file" in error_of(file)
    folder = write_export(tmp_path, "saved_model")
    shutil.move(folder / "variables", tmp_path / "elsewhere")
    (folder / "variables").symlink_to(tmp_path / "elsewhere")
    assert "has checksums of other files" in error_of(folder)
    folder = write_export(tmp_path, "saved_model", "linked")
    shutil.move(folder / "saved_model.pb", tmp_path / "saved_model.pb")
    (folder / "saved_model.pb").symlink_to(tmp_path / "saved_model.pb")
    assert "saved_model.pb' is not a regular file" in error_of(folder)
    file = write_export(tmp_path, "onnx")
    monkeypatch.setattr(sidecar, "MAX_BYTES", size - 5)
    assert "bytes; expected at most" in error_of(file)
    monkeypatch.setattr(sidecar, "MAX_SIDECAR", 10)
    assert "bytes; expected at most 10" in error_of(file)


@pytest.mark.parametrize("to", FORMATS)
def test_renamed_and_moved_exports_open(tmp_path, to):
    """The file, its companion and its sidecar have a new name, or a new folder."""
    file = write_export(tmp_path, to, "model.v1")
    (tmp_path / "new").mkdir()
    renamed = tmp_path / "new" / EXPORTED[to].replace("model", "other.name")
    for part in list(tmp_path.glob("model.v1*")):
        part.rename(renamed.with_name(part.name.replace("model.v1", "other.name")))
    assert not file.exists()
    assert read_sidecar(renamed)["format"] == to
    link = tmp_path / "new" / EXPORTED[to]
    for part in list(renamed.parent.glob("other.name*")):
        part.with_name(part.name.replace("other.name", "model")).symlink_to(part)
    assert read_sidecar(link)["format"] == to


@pytest.mark.parametrize("key", ["sidecar_version", "format", "floats", "outputs", "labels", "sha256"])
def test_incomplete_sidecars_are_one_error(tmp_path, unread, key):
    file = write_export(tmp_path, "tflite")
    complete = json.loads(sidecar_path(file).read_text())
    sidecar_path(file).write_text(json.dumps({name: value for name, value in complete.items() if name != key}))
    assert f"as a sidecar ({key}: Field required); restore the file, or export again" in error_of(file)
    for value in (None, 1.5, [1], {"a": {}}, [[]]):
        sidecar_path(file).write_text(json.dumps({**complete, key: value}))
        assert f"as a sidecar ({key}" in error_of(file)


def test_a_sidecar_without_experiment_describes_its_inputs(tmp_path, unread):
    file = write_export(tmp_path, "tflite")
    fields = json.loads(sidecar_path(file).read_text())
    good = {"experiment": None, "network": "mine", "input_shape": [28, 28, 1]}
    for changes, reason in [
        ({"experiment": None}, "the whole file: Value error, it has no experiment; expected one, or `network` and"),
        ({**good, "network": None}, "it has no experiment"),
        ({**good, "network": 7}, "network: Input should be a valid string"),
        ({**good, "input_shape": [28, 0]}, "it has no experiment"),
        ({**good, "input_shape": []}, "it has no experiment"),
        ({**good, "input_shape": [28, "1"]}, "input_shape.1: Input should be a valid integer"),
        ({**good, "input_shape": [1] * 9}, "input_shape: List should have at most 8 items"),
        ({"experiment": 1.5}, "experiment: Input should be a valid string"),
    ]:
        sidecar_path(file).write_text(json.dumps({**fields, **changes}))
        assert reason in error_of(file)
    change(file, **good)
    assert read_sidecar(file)["network"] == "mine"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "its values are nested too deeply"),
        ('{"labels": ' * 100_000, "its values are nested too deeply"),
        ("[]", "the whole file: Input should be a valid dictionary"),
        ("null", "the whole file: Input should be a valid dictionary"),
        ('"text"', "the whole file: Input should be a valid dictionary"),
        ("{}", "sidecar_version: Field required"),
        ("", "Expecting value"),
        ("\x00\n\n", "Expecting value"),
        ("1" * 5000, "Exceeds the limit"),
    ],
)
def test_damaged_sidecars_are_one_error_line(tmp_path, text, reason):
    file = write_export(tmp_path, "tflite")
    sidecar_path(file).write_text(text)
    line = error_line("evaluate", "--model", file)
    assert f"cannot read '{sidecar_path(file)}' as a sidecar ({reason}" in line
    assert len(line) < 500


@pytest.mark.parametrize("to", FORMATS)
def test_a_sidecar_that_has_changed_is_an_error(tmp_path, unread, to):
    """Else another mean or other labels would change predictions without a word."""
    file = write_export(tmp_path, to)
    text = sidecar_path(file).read_text()
    for old, new in (("0.1307", "0.1308"), ('"0"', '"1"'), ("logits", "probabilities")):
        assert old in text
        sidecar_path(file).write_text(text.replace(old, new))
        assert "as a sidecar (its content does not match its digest); restore" in error_of(file)
    earlier = {name: value for name, value in json.loads(text).items() if name != "digest"}
    sidecar_path(file).write_text(json.dumps(earlier))
    assert read_sidecar(file) == earlier


def test_values_of_a_sidecar_must_fit_the_file(tmp_path, unread):
    file = write_export(tmp_path, "tflite")
    for fields, message in (
        ({"format": "saved_model"}, "of format 'saved_model' with floats 'float32'; expected format 'tflite' with one"),
        ({"format": "nothing"}, "of format 'nothing'"),
        ({"floats": "float8"}, "with floats 'float8'; expected format 'tflite' with one of float32, int8"),
        ({"labels": ["a", "b"]}, "has 2 labels for 10 classes"),
        ({"experiment": "a = " + "[" * 50_000}, "not TOML: maximum recursion depth"),
        ({"experiment": "a = 'x'"}, "unknown"),
        ({"bytes": "x"}, "bytes: Input should be a valid integer"),
    ):
        before = sidecar_path(file).read_text()
        change(file, **fields)
        assert message in error_of(file), fields
        sidecar_path(file).write_text(before)
