"""Where an export may be written: it replaces only an empty folder or an earlier export."""

from __future__ import annotations

import os
from pathlib import Path

from bnn_keras import catalog, files, runs
from bnn_keras.errors import BnnError
from bnn_keras.export.formats import files_of
from bnn_keras.export.sidecar import arrays_path, parse_sidecar, recorded_names, sidecar_path
from bnn_keras.runs import Run

_OF_A_RUN = {path.name for name in map(Path, runs.CONTENTS) for path in (name, files.temporary_name(name))}


def check_destination(row: catalog.FormatRow, path: Path, run: Run | None = None) -> None:
    """Verify that a network may be exported to a path. Only an empty folder or an earlier export may be replaced.

    Args:
        row: The format.
        path: The file or folder to write.
        run: The run to export; None for a model without a run.

    Raises:
        BnnError: The suffix is that of another format, or writing would replace something else, such as files of a run.
    """
    _check_name(row, path)
    written = [path, *(path.with_suffix(suffix) for suffix in row.companions), arrays_path(path), sidecar_path(path)]
    for file in written:
        if run:
            _refuse_folders_of_run(file, run)
        _refuse_files_of_runs(file)
    existing = [file for file in written if os.path.lexists(file)]
    for file in existing:
        if file.is_dir() != (row.folder and file == path):
            raise BnnError(f"{str(file)!r} is a {'folder' if file.is_dir() else 'file'}; choose another name")
    if existing and not _is_empty_folder(existing) and not _is_export(path, existing):
        raise BnnError(
            f"{str(existing[0])!r} exists and is not an earlier export, whose sidecar {sidecar_path(path).name} would "
            "list its files and no others; choose another name, or move it away"
        )


def _check_name(row: catalog.FormatRow, path: Path) -> None:
    if path.name in ("", ".."):
        raise BnnError(f"{str(path)!r} is a folder; choose another name")
    if row.suffix and path.suffix != row.suffix:
        expected = path.with_suffix(row.suffix).name
        raise BnnError(f"{str(path)!r} is not a file name of format {row.name!r}; name it {expected!r}")
    others = [other.name for other in catalog.FORMATS.values() if other.suffix == path.suffix != row.suffix]
    if others:
        raise BnnError(
            f"{str(path)!r} has the suffix of format {others[0]!r}; choose a name with another suffix for {row.name!r}"
        )


def _locations(path: Path) -> tuple[Path, Path]:
    """Return where a path is, and where it leads if it is a link."""
    return Path(os.path.realpath(path.parent), path.name), Path(os.path.realpath(path))


def _refuse_folders_of_run(path: Path, run: Run) -> None:
    """Refuse the directory of a run, and the folders that it is in."""
    directory = Path(os.path.realpath(run.directory))
    if not {directory, *directory.parents}.isdisjoint(_locations(path)):
        raise BnnError(f"{str(path)!r} contains the run {str(run.directory)!r}; choose another name")


def _refuse_files_of_runs(path: Path) -> None:
    """Refuse run directories, and what a run writes in its directory."""
    for location in _locations(path):
        for folder in (location, *location.parents):
            inside = location.relative_to(folder).parts
            if Run(folder).begun and (not inside or inside[0] in _OF_A_RUN):
                raise BnnError(f"{str(path)!r} belongs to the run {str(folder)!r}; choose another name")


def _is_empty_folder(existing: list[Path]) -> bool:
    return existing[0].is_dir() and existing[1:] == [] and not any(existing[0].iterdir())


def _is_export(path: Path, existing: list[Path]) -> bool:
    """Return whether the sidecar of `path` lists all files that exist."""
    try:
        sidecar = parse_sidecar(path)
    except BnnError:
        return False
    if arrays_path(path) in existing and not sidecar.get("arrays"):
        return False
    beside = (sidecar_path(path), arrays_path(path))
    parts = files_of(path) if path in existing else [file for file in existing if file not in beside]
    return recorded_names(path, parts, sidecar).keys() <= sidecar["sha256"].keys()
