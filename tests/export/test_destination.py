"""An export replaces an empty folder or an earlier export, and nothing else; never files of a run."""

import hashlib
import json
import shutil

import pytest
from helpers import EXPORTED, error_line

from bnn_keras import catalog, export_run, runs
from bnn_keras.errors import BnnError
from bnn_keras.export import verify
from bnn_keras.export.destination import check_destination
from bnn_keras.export.sidecar import sidecar_path, write_sidecar
from bnn_keras.runs import Run

FIELDS = {"format": "", "floats": "float32", "outputs": "logits", "labels": [], "experiment": ""}
FILES = {row.name: EXPORTED.get(row.name, f"{row.name}{row.suffix or '.pth'}") for row in catalog.FORMATS.values()}


@pytest.fixture
def run(tmp_path):
    """A directory that looks like a run. Reading any of its files fails."""
    directory = tmp_path / "runs" / "run"
    directory.mkdir(parents=True)
    for name in runs.CONTENTS:
        (directory / name).write_text(f"content of {name}")
    for name in (runs.CHECKPOINTS, runs.TENSORBOARD):
        (directory / name).unlink()
        (directory / name / "epoch-00001").mkdir(parents=True)
        (directory / name / "epoch-00001" / "weights.h5").write_text("weights")
    return Run(directory)


def content(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def write_export(path, row):
    """Write files like those of an export, with their sidecar."""
    parts = [path / "saved_model.pb", path / "variables" / "data"] if row.folder else [path]
    for part in (*parts, *(path.with_suffix(suffix) for suffix in row.companions)):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("earlier")
    write_sidecar(path, {**FIELDS, "format": row.name})


def test_export_to_an_existing_folder_or_to_a_run_deletes_nothing(trained, data_dir, tmp_path):
    run = shutil.copytree(trained, tmp_path / "runs" / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo.jpg").write_text("photo")
    before = content(tmp_path)
    for folder in (tmp_path / "photos", run, run.parent, tmp_path, run / "checkpoints"):
        with pytest.raises(BnnError, match="choose another name"):
            export_run(run, "saved_model", folder, data_dir=data_dir)
    assert content(tmp_path) == before


@pytest.mark.parametrize(("to", "name"), [("packed", "model.safetensors"), ("packed", "other/model.safetensors.json")])
def test_file_that_appears_during_the_export_is_kept(trained, data_dir, tmp_path, monkeypatch, to, name):
    check = verify.check

    def check_later(*arguments):
        check(*arguments)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")

    monkeypatch.setattr(verify, "check", check_later)
    file = tmp_path / name.removesuffix(".json")
    with pytest.raises(BnnError, match=rf"'{tmp_path / name}' exists and is not an earlier export"):
        export_run(trained, to, file, verify_images=1, data_dir=data_dir)
    assert {path: text for path, text in content(tmp_path).items() if text} == {tmp_path / name: b"precious"}


@pytest.mark.parametrize("exists", [True, False])
def test_files_of_a_run_are_never_replaced(run, exists):
    """Also those that do not exist, such as the result of an unfinished run, and those that a sidecar would replace."""
    if not exists:
        shutil.rmtree(run.directory)
        run.directory.mkdir()
        (run / runs.EXPERIMENT).touch()
    before = content(run.directory)
    for name in (*runs.CONTENTS, ".weights.new.h5", "checkpoints/epoch-00001/weights.h5", "result"):
        for row in catalog.FORMATS.values():
            with pytest.raises(BnnError, match=r"belongs to the run|is not a file name of format"):
                check_destination(row, run / name, run)
        with pytest.raises(BnnError, match="belongs to the run"):
            export_run(run.directory, "packed", run / name)
    assert content(run.directory) == before


def test_links_to_a_run_are_not_replaced(run, tmp_path):
    row = catalog.FORMATS["saved_model"]
    for name, target in (
        ("link", run.directory),
        ("checkpoints", run / "checkpoints"),
        ("parent", run.directory.parent),
    ):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(BnnError, match=r"belongs to the run|contains the run"):
            check_destination(row, tmp_path / name, run)
    with pytest.raises(BnnError, match="belongs to the run"):
        check_destination(row, tmp_path / "link" / "checkpoints", run)


def test_other_runs_and_folders_above_the_run_are_not_replaced(run, tmp_path, monkeypatch):
    row = catalog.FORMATS["saved_model"]
    shutil.copytree(run.directory, tmp_path / "other")
    with pytest.raises(BnnError, match=r"belongs to the run '.*other'; choose another name"):
        check_destination(row, tmp_path / "other" / "tensorboard", run)
    with pytest.raises(BnnError, match=r"contains the run '.*run'; choose another name"):
        check_destination(row, tmp_path, run)
    monkeypatch.chdir(run.directory)
    for name in (".", "..", "../.."):
        assert "is a folder; choose another name" in error_line("export", ".", "--to", "saved_model", "-o", name)


def test_a_new_name_and_an_earlier_export_are_accepted(run, tmp_path):
    for row in catalog.FORMATS.values():
        name = FILES[row.name]
        for path in (tmp_path / name, run / name, tmp_path / "new" / name):
            check_destination(row, path, run)
            write_export(path, row)
            check_destination(row, path, run)
    (tmp_path / "empty").mkdir()
    check_destination(catalog.FORMATS["saved_model"], tmp_path / "empty", run)


@pytest.mark.parametrize("damage", ["no sidecar", "sidecar of another file", "not a sidecar", "link"])
def test_what_is_not_an_earlier_export_is_refused(run, tmp_path, damage):
    for row in catalog.FORMATS.values():
        path = tmp_path / FILES[row.name]
        write_export(path, row)
        sidecar = sidecar_path(path)
        value = json.loads(sidecar.read_text())
        value["sha256"] = {"model.png": hashlib.sha256().hexdigest()}
        if damage == "link":
            shutil.rmtree(path) if row.folder else path.unlink()
            path.symlink_to("nowhere")
        if damage in ("link", "no sidecar"):
            sidecar.unlink()
        else:
            sidecar.write_text(json.dumps(value if "another" in damage else {"model": 1}))
        before = content(tmp_path)
        with pytest.raises(BnnError, match=r"is not an earlier export|is a file; choose"):
            export_run(run.directory, row.name, path)
        assert content(tmp_path) == before


def test_a_file_added_to_an_earlier_export_is_kept(run, tmp_path):
    saved_model, openvino = catalog.FORMATS["saved_model"], catalog.FORMATS["openvino"]
    write_export(tmp_path / "model", saved_model)
    (tmp_path / "model" / "notes.txt").write_text("notes")
    with pytest.raises(BnnError, match="is not an earlier export"):
        check_destination(saved_model, tmp_path / "model", run)
    (tmp_path / "model.bin").write_text("of another program")
    with pytest.raises(BnnError, match=r"model.bin' exists and is not an earlier export"):
        check_destination(openvino, tmp_path / "model.xml", run)
    (tmp_path / "data.json").write_text("[1]")
    with pytest.raises(BnnError, match=r"data.json' exists and is not an earlier export"):
        check_destination(saved_model, tmp_path / "data", run)
