"""The sidecar `FILE.json`: describes an exported file and holds its checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pydantic

import bnn_keras
from bnn_keras import array_files, catalog, files
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export import trust
from bnn_keras.export.formats import files_of, format_of

SIDECAR_VERSION = 1
MAX_SIDECAR = 4 << 20  # bytes of a sidecar
MAX_RANK = 8  # dimensions of an input
MAX_BYTES = 4 << 30  # bytes of all files of an exported model


class _Fields(pydantic.BaseModel):
    """The fields of a sidecar that are read, with their types. Other fields are for people."""

    model_config = pydantic.ConfigDict(strict=True)

    sidecar_version: int
    format: str
    floats: str
    outputs: Literal["logits", "probabilities"]
    labels: list[str]
    network: str | None = None
    experiment: str | None = None
    input_shape: list[int] | None = pydantic.Field(None, max_length=MAX_RANK)
    arrays: str | None = None
    sha256: dict[str, str] = pydantic.Field(min_length=1)
    signature: str | None = None
    bytes: int | None = None
    binary_layers: int | None = None
    packed_layers: int | None = None
    computed_layers: int | None = None

    @pydantic.model_validator(mode="after")
    def _described(self) -> _Fields:
        if self.experiment is None and not (self.network and self.input_shape and min(self.input_shape) > 0):
            raise ValueError("it has no experiment; expected one, or `network` and `input_shape`")
        return self


def sidecar_path(file: Path) -> Path:
    """Return the path of the sidecar of an exported file."""
    return file.with_name(file.name + ".json")


def arrays_path(file: Path) -> Path:
    """Return the path of the arrays of the preprocessing of an exported file, in formats that do not hold them."""
    return file.with_name(file.name + ".arrays")


def write_arrays(file: Path, experiment: Experiment | None) -> dict[str, str]:
    """Write the arrays of the preprocessing beside an exported file.

    Returns:
        The field of the sidecar with their digest; nothing without arrays.
    """
    if experiment is None or not experiment.data.arrays:
        return {}
    return {"arrays": array_files.write(arrays_path(file), experiment.arrays)}


def read_arrays(file: Path, sidecar: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of the preprocessing beside an exported file.

    Raises:
        BnnError: They are missing, or do not match the digest in the sidecar.
    """
    path = arrays_path(file)
    try:
        return array_files.read(path, sidecar.get("arrays"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BnnError(
            f"cannot read {str(path)!r} ({reason}), which has the mean image or the whitening of {str(file)!r}; keep "
            "the files together, or export again"
        ) from error


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    checksum = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            checksum.update(chunk)
    return checksum.hexdigest()


def write_sidecar(file: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Write the sidecar of an exported file.

    Args:
        file: The exported file or folder.
        fields: What to record besides the sidecar's version, the size of the file, the versions of packages, and the
            checksums of the file and of the sidecar itself. If the file has code, a signature of its checksums is
            recorded too, by which `open_export` recognises an export of this machine.

    Returns:
        The sidecar.
    """
    parts = files_of(file)
    digests = {str(part.relative_to(file.parent)): sha256_of(part) for part in parts}
    sidecar = {
        "sidecar_version": SIDECAR_VERSION,
        **fields,
        "bytes": sum(part.stat().st_size for part in parts),
        "versions": _versions(),
        "sha256": digests,
        **(_signature(digests) if catalog.FORMATS[fields["format"]].code else {}),
    }
    sidecar = files.with_digest(sidecar)
    sidecar_path(file).write_text(files.to_json(sidecar), encoding="utf-8")
    return sidecar


def _signature(digests: dict[str, str]) -> dict[str, str]:
    """Return the field with the signature; nothing, with a warning, if there is no key."""
    try:
        return {"signature": trust.sign(digests)}
    except OSError as error:
        warnings.warn(
            f"cannot use the key {str(trust.key_file())!r} ({error.strerror or error}): opening this export will need "
            "--trust (trust=True in Python)",
            stacklevel=1,
        )
        return {}


def read_sidecar(file: Path) -> dict[str, Any]:
    """Return the sidecar of an exported file after verifying the file's checksums.

    Raises:
        BnnError: The sidecar is missing, damaged, of another version or of another file, or the file has changed.
    """
    sidecar = parse_sidecar(file)
    path = str(sidecar_path(file))
    row = format_of(file)
    if sidecar["format"] != row.name or sidecar["floats"] not in row.floats:
        raise BnnError(
            f"{path!r} describes a file of format {sidecar['format']!r:.80} with floats {sidecar['floats']!r:.80}; "
            f"expected format {row.name!r} with one of {', '.join(row.floats)}: restore the sidecar, or export again"
        )
    parts, expected = recorded_names(file, files_of(file), sidecar), sidecar["sha256"]
    different = sorted(parts.keys() ^ expected.keys())
    if different:
        raise BnnError(
            f"{path!r} has checksums of other files than those of {str(file)!r} ({different[0]!r:.200} is in one of "
            "them only); restore the missing file, remove a file that was added, or export again"
        )
    _check_sizes(file, parts.values())
    for name, part in parts.items():
        if _readable_sha256(part) != expected[name]:
            raise BnnError(f"{str(part)!r} does not match its checksum in {path!r}: it has changed; export again")
    return sidecar


def parse_sidecar(file: Path) -> dict[str, Any]:
    """Return the sidecar of an exported file. The file itself is not read and may be missing.

    Raises:
        BnnError: The sidecar is missing, damaged or of another version.
    """
    path = sidecar_path(file)
    if not path.is_file():
        raise BnnError(
            f"{str(file)!r} has no sidecar {path.name} beside it, which describes the exported model; keep the two "
            "files together, or export again"
        )
    try:
        size = path.stat().st_size
        if size > MAX_SIDECAR:
            raise ValueError(f"{size} bytes; expected at most {MAX_SIDECAR}")
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        version = sidecar.get("sidecar_version") if isinstance(sidecar, dict) else None
        if isinstance(version, int) and version != SIDECAR_VERSION:
            raise BnnError(f"{str(path)!r} has version {version}; expected {SIDECAR_VERSION}: export again")
        _Fields.model_validate(sidecar)
        sidecar = files.without_digest(sidecar)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise _damaged(path, f"{where:.80}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    except RecursionError:
        raise _damaged(path, "its values are nested too deeply") from None
    return sidecar


def recorded_names(file: Path, parts: Iterable[Path], sidecar: dict[str, Any]) -> dict[str, Path]:
    """Return the files of an exported model by the names that its sidecar records for them.

    A sidecar records the names at the time of export, such as `model.xml` and `model.bin`, or `model/saved_model.pb`.
    The exported model may have been renamed since.
    """
    first = next(iter(sidecar["sha256"]))
    if file.is_dir():
        return {f"{first.split('/')[0]}/{part.relative_to(file).as_posix()}": part for part in parts}
    return {PurePosixPath(first).stem + part.suffix: part for part in parts}


def _check_sizes(file: Path, parts: Iterable[Path]) -> None:
    """Verify that an exported model has only regular files, of a bounded size.

    A file may be a link to a regular file. A link inside of a folder may not: it leads out of the folder.
    """
    parts = list(parts)
    special = [part for part in parts if not part.is_file() or (file.is_dir() and part.is_symlink())]
    if special:
        raise BnnError(f"{str(special[0])!r} is not a regular file; replace it by a copy of the file, or export again")
    size = sum(part.stat().st_size for part in parts)
    if size > MAX_BYTES:
        raise BnnError(f"{str(file)!r} has {size} bytes; expected at most {MAX_BYTES}: export again")


def _readable_sha256(part: Path) -> str:
    try:
        return sha256_of(part)
    except OSError as error:
        raise BnnError(f"cannot read {str(part)!r} ({error.strerror}); fix its permissions, or export again") from error


def _damaged(path: Path, reason: str) -> BnnError:
    return BnnError(f"cannot read {str(path)!r} as a sidecar ({reason}); restore the file, or export again")


def _versions() -> dict[str, str]:
    """Return the versions of this package and of every installed package that a format depends on."""
    versions = {"bnn-keras": bnn_keras.__version__}
    packages = [name for row in catalog.FORMATS.values() for name in row.packages]
    for name in ["tensorflow", *packages]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
