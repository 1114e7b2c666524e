"""The sidecar `FILE.json`: describes an exported file and holds its checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import bnn_keras
from bnn_keras import catalog
from bnn_keras.errors import BnnError
from bnn_keras.export.formats import files_of

SIDECAR_VERSION = 1


def sidecar_path(file: Path) -> Path:
    """Return the path of the sidecar of an exported file."""
    return file.with_name(file.name + ".json")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_sidecar(file: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Write the sidecar of an exported file.

    Args:
        file: The exported file or folder.
        fields: What to record besides the sidecar's version, the size of the file, its checksums and the versions of
            packages.

    Returns:
        The sidecar.
    """
    parts = files_of(file)
    sidecar = {
        "sidecar_version": SIDECAR_VERSION,
        **fields,
        "bytes": sum(part.stat().st_size for part in parts),
        "versions": _versions(),
        "sha256": {str(part.relative_to(file.parent)): sha256_of(part) for part in parts},
    }
    sidecar_path(file).write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return sidecar


def read_sidecar(file: Path) -> dict[str, Any]:
    """Return the sidecar of an exported file after verifying the file's checksums.

    Raises:
        BnnError: The sidecar is missing, damaged or of another version, or the file has changed.
    """
    path = sidecar_path(file)
    if not path.is_file():
        raise BnnError(
            f"{str(file)!r} has no sidecar {path.name} beside it, which describes the exported model; keep the two "
            "files together, or export again"
        )
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        version, expected = sidecar["sidecar_version"], sidecar["sha256"]
        actual = {name: sha256_of(file.parent / name) for name in expected}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BnnError(f"cannot read {str(path)!r}, or a file listed in it ({error}); export again") from error
    if version != SIDECAR_VERSION:
        raise BnnError(f"{str(path)!r} has version {version}; expected {SIDECAR_VERSION}: export again")
    changed = [name for name in expected if actual[name] != expected[name]]
    if changed:
        raise BnnError(f"{changed[0]!r} does not match its checksum in {str(path)!r}: it has changed; export again")
    return sidecar


def _versions() -> dict[str, str]:
    """Return the versions of this package and of every installed package that a format depends on."""
    versions = {"bnn-keras": bnn_keras.__version__}
    packages = [name for row in catalog.FORMATS.values() for name in row.packages]
    for name in ["tensorflow", *packages]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
