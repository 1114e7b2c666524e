"""From a run to a file that was checked to predict the same, with a sidecar that says so."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import bnn_keras
from bnn_keras import catalog, files
from bnn_keras.counts import count
from bnn_keras.errors import BnnError
from bnn_keras.export import verify
from bnn_keras.export.freeze import has_binary_inputs
from bnn_keras.export.graphs import Predictor, Source, with_keras
from bnn_keras.location import DataLocation
from bnn_keras.models import load_run
from bnn_keras.runs import Run

SIDECAR_VERSION = 1
_PACKAGES = ("tensorflow", "larq-compute-engine", "openvino", "nncf", "tf2onnx")


def sidecar_of(file: Path) -> Path:
    """The JSON beside an exported file."""
    return file.with_name(file.name + ".json")


def export_run(
    directory: str | Path,
    to: str,
    file: str | Path,
    *,
    best: bool = False,
    floats: str | None = None,
    softmax: bool = False,
    batch_size: int | None = None,
    allow_float: bool = False,
    verify_on: str | None = None,
    verify_images: int = 1000,
    min_agreement: float | None = None,
    tolerance: float | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> dict[str, Any]:
    """Writes a run's network as a file, and beside it `FILE.json`, its sidecar.

    The file is run on images and compared with the network; only then it gets its name.

    Args:
        directory: The run directory.
        to: The format (`catalog.FORMATS`).
        file: The file, or folder, to write.
        best: Take the best weights instead of the last.
        floats: Type of what is not binary; the format's first where absent.
        softmax: Give probabilities instead of logits.
        batch_size: Images of a batch, for a format that settles that; 1 where absent.
        allow_float: Accept binary layers that the file has in float.
        verify_on: Images to compare on (`verify.sample`).
        verify_images: How many of them at the most.
        min_agreement: Least agreement in percent (`verify.Limits`).
        tolerance: Largest median error of logits.
        data_dir: Where prepared datasets are.
        manual_dir: A folder with the files that TFDS would download.

    Returns:
        The sidecar.

    Raises:
        BnnError: There is no such run, format or option; what it needs is not installed; the converter crashed; binary
            layers stayed float; or the file does not predict what the network predicts. Nothing is left behind then.
    """
    row, path, location = catalog.find("format", to), Path(file), DataLocation(data_dir, manual_dir)
    source = _source(Run.read(directory), row, best, floats, softmax, batch_size, path, location)
    of = verify.sample(source.experiment, verify_on, verify_images, location)
    limits = verify.Limits.of(of, min_agreement, tolerance)
    network = with_keras(lambda images: source.model(images, training=False))
    with _staged(path) as staged:
        left = _convert(row, source, staged)
        _refuse_float(row, left, allow_float)
        found = load(row, staged, source.floats, softmax)
        measured = verify.compare(verify.log_softmax(network) if softmax else network, found, of.images)
        verify.check(measured, of, limits)
        sidecar = {
            "sidecar_version": SIDECAR_VERSION,
            "format": row.name,
            "floats": source.floats,
            "outputs": "probabilities" if softmax else "logits",
            "batch_size": source.batch_size if row.fixed_batch or row.name == "tflite" else None,
            "network": source.experiment.network.name,
            "weights": "best" if best else "last",
            "bytes": sum(part.stat().st_size for part in files_of(staged)),
            "bytes_minimum": count(source.model)["bytes_minimum"],
            "binary_layers": len(source.kernels),
            "packed_layers": len(source.kernels) - len(left),
            "float_layers": left,
            "verified_on": of.name,
            **measured,
            "min_agreement": None if of.name == verify.RANDOM else limits.agreement,
            "tolerance": limits.tolerance,
            "versions": _versions(),
            "sha256": {str(part.relative_to(staged.parent)): digest_of(part) for part in files_of(staged)},
            "labels": list(source.labels),
            "experiment": source.experiment.to_toml(),
        }
        sidecar_of(staged).write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return sidecar


def _source(
    run: Run,
    row: catalog.FormatRow,
    best: bool,
    floats: str | None,
    softmax: bool,
    batch_size: int | None,
    path: Path,
    location: DataLocation,
) -> Source:
    """What is exported; everything that can be refused before hours of work is refused here."""
    if row.suffix and path.suffix != row.suffix:
        raise BnnError(f"{str(path)!r} is no name for {row.name}; name it {path.with_suffix(row.suffix).name!r}")
    own = [
        other.name for other in catalog.FORMATS.values() if other.suffix == path.suffix != row.suffix and path.suffix
    ]
    if own:
        raise BnnError(f"{str(path)!r} is the name of another format ({own[0]}); choose a name for {row.name}")
    floats = floats or row.floats[0]
    if floats not in row.floats:
        raise BnnError(f"format {row.name!r} has no floats {floats!r}; it has {', '.join(row.floats)}")
    if softmax and row.packs == "all":
        raise BnnError(f"format {row.name!r} holds the network, which gives logits; leave --softmax out")
    if batch_size not in (None, 1) and not row.fixed_batch:
        raise BnnError(f"format {row.name!r} does not settle the size of a batch; leave --batch-size out")
    if path.exists() and path.is_dir() != (row.name == "saved_model"):
        raise BnnError(f"{str(path)!r} is a {'folder' if path.is_dir() else 'file'}; choose another name")
    experiment, model = load_run(run.directory, best)
    return Source(
        model,
        experiment,
        run.environment["dataset"]["labels"],
        floats,
        softmax,
        batch_size or 1,
        calibration=lambda: verify.calibration(experiment, location),
    )


def _module(row: catalog.FormatRow) -> ModuleType:
    with installed(row):
        return importlib.import_module(row.module)


@contextlib.contextmanager
def installed(row: catalog.FormatRow) -> Iterator[None]:
    """Turns a package that is missing into an error with a cure."""
    try:
        yield
    except ImportError as error:
        extra = "int8" if error.name == "nncf" else row.extra
        raise BnnError(
            f"format {row.name!r} needs {error.name!r}, which is not installed ({error}); install it with "
            f"`pip install 'bnn-keras[{extra}]'`"
        ) from error


def _convert(row: catalog.FormatRow, source: Source, file: Path) -> dict[str, str]:
    """Writes the file; binary layers that stayed float, and why."""
    with installed(row):
        left = _module(row).convert(source, file)
    real = {name for name in left if not has_binary_inputs(source.model.get_layer(name))}
    return {name: "its inputs are real" if name in real and row.packs != "none" else left[name] for name in left}


def _refuse_float(row: catalog.FormatRow, left: dict[str, str], allowed: bool) -> None:
    if left and not allowed and row.packs != "none":
        some = ", ".join(f"{name} ({reason})" for name, reason in list(left.items())[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise BnnError(
            f"{len(left)} binary layer(s) would be float in {row.name}: {some}{more}; accept it with --allow-float, or "
            "export to packed, which holds them all in one bit"
        )


def load(
    row: catalog.FormatRow,
    file: Path,
    floats: str,
    softmax: bool,
    batch_size: int | None = None,
    threads: int | None = None,
) -> Predictor:
    """Predicts logits with a file.

    Args:
        row: Its format.
        file: The file.
        floats: Type of what is not binary in it.
        softmax: Whether it gives probabilities.
        batch_size: Images of a batch, where the file settles that.
        threads: Threads to compute with; what the library thinks best where absent.

    Raises:
        BnnError: The file cannot be read, takes other batches, or needs a package that is not installed.
    """
    with installed(row):
        predict = _module(row).load(file, floats, batch_size, threads)
    return verify.logits_of_probabilities(predict) if softmax else predict


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """The same name in a folder beside `path`: what stands there at the end moves to where `path` is, or nothing."""
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            yield Path(folder) / path.name
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix == ".json"):
                if part.is_dir():
                    files.remove(path)
                os.replace(part, path.parent / part.name)


def files_of(file: Path) -> list[Path]:
    """The files that an exported one consists of."""
    if file.is_dir():
        return sorted(part for part in file.rglob("*") if part.is_file())
    weights = file.with_suffix(".bin")
    return [file, weights] if file.suffix == ".xml" and weights.is_file() else [file]


def digest_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"bnn-keras": bnn_keras.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
