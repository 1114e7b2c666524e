"""Export a run to a file, verify the file against the network, and describe it in a sidecar."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bnn_keras import catalog, files
from bnn_keras.counts import count
from bnn_keras.errors import BnnError
from bnn_keras.export import verify, worker
from bnn_keras.export.destination import check_destination
from bnn_keras.export.formats import format_module, installed, load_predictor
from bnn_keras.export.job import ExportJob
from bnn_keras.export.kernels import has_binary_inputs
from bnn_keras.export.predictors import with_keras
from bnn_keras.export.sidecar import sidecar_path, write_sidecar
from bnn_keras.location import DEFAULT_LOCATION, DataLocation
from bnn_keras.models import load_run
from bnn_keras.runs import Run


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of an export; `export_run` documents them."""

    best: bool = False
    floats: str | None = None
    softmax: bool = False
    batch_size: int | None = None
    allow_float: bool = False
    verify_on: str | None = None
    verify_images: int = 1000
    min_agreement: float | None = None
    tolerance: float | None = None
    location: DataLocation = DEFAULT_LOCATION


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
    """Export a run's network to a file, with a sidecar `FILE.json` beside it.

    The file is written under a temporary name, verified against the network, and renamed only if it passes.

    Args:
        directory: The run directory.
        to: The format, a name in `catalog.FORMATS`.
        file: The file or folder to write. It may replace an empty folder or an earlier export, and nothing else.
        best: Export the best weights instead of the last.
        floats: Type of all numbers that are not binary weights. Defaults to the format's first.
        softmax: Export a model that returns probabilities instead of logits.
        batch_size: Images per batch, for formats with a fixed batch size. Defaults to 1.
        allow_float: Accept binary layers that are float in the file.
        verify_on: Images to verify on: a folder, an image, a `.npy` file or a dataset. Defaults to the test images of
            the run's dataset, or to random images if it is not prepared.
        verify_images: Maximum number of images to verify on.
        min_agreement: Minimum top-1 agreement with the network, in percent. Defaults to `verify.AGREEMENT`.
        tolerance: Maximum median error of the logits. Defaults to `verify.TOLERANCE`.
        data_dir: Folder of prepared datasets. Defaults to TFDS's folder.
        manual_dir: Folder with the files that TFDS would download.

    Returns:
        The sidecar.

    Raises:
        BnnError: The run, the format or an option does not exist; `file` is neither new nor an earlier export; a
            package is not installed; the converter crashed; binary layers would be float; or the file does not pass
            verification. Nothing is written then.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from bnn_keras import build_model, export_run, import_checkpoint, interop, resolve
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     run, weights, keys = f"{folder}/run", f"{folder}/checkpoint.npz", ["data.examples=8"]
        ...     _ = import_checkpoint(weights, run, "lenet5", dataset="fake", overrides=keys)
        ...     sidecar = export_run(run, "packed", f"{folder}/lenet5.safetensors")
        >>> sidecar["agreement"], sidecar["packed_layers"]
        (100.0, 2)
        >>> export_run("runs/lenet5", "onxx", "lenet5.onnx")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        bnn_keras.errors.BnnError: unknown format 'onxx'; did you mean 'onnx'? ...
    """
    options = ExportOptions(
        best=best,
        floats=floats,
        softmax=softmax,
        batch_size=batch_size,
        allow_float=allow_float,
        verify_on=verify_on,
        verify_images=verify_images,
        min_agreement=min_agreement,
        tolerance=tolerance,
        location=DataLocation(data_dir, manual_dir),
    )
    return _export(directory, catalog.find("format", to), Path(file), options)


def _export(directory: str | Path, row: catalog.FormatRow, path: Path, options: ExportOptions) -> dict[str, Any]:
    run = Run.read(directory)
    _check_options(row, options)
    check = functools.partial(check_destination, row, path, run)
    check()
    job = _job(run, row, options)
    sample = verify.load_sample(job.experiment, options.verify_on, options.verify_images, options.location)
    limits = verify.Limits.for_sample(sample, options.min_agreement, options.tolerance)
    network = with_keras(lambda images: job.model(images, training=False))
    with contextlib.closing(job), _staged(path, check) as staged:
        float_layers = _convert(row, job, staged)
        _check_float_layers(row, float_layers, options.allow_float)
        exported = load_predictor(row, staged, job.floats, job.softmax)
        measured = verify.compare(verify.log_softmax(network) if job.softmax else network, exported, sample.batches)
        verify.check(measured, sample, limits)
        description = {
            "format": row.name,
            "floats": job.floats,
            "outputs": "probabilities" if job.softmax else "logits",
            "batch_size": None if row.batch == "any" else job.batch_size,
            "network": job.experiment.network.name,
            "weights": "best" if options.best else "last",
            "bytes_minimum": count(job.model)["bytes_minimum"],
            "binary_layers": len(job.kernels),
            "packed_layers": len(job.kernels) - len(float_layers),
            "float_layers": float_layers,
            "verified_on": sample.name,
            **measured,
            "min_agreement": None if sample.name == verify.RANDOM else limits.agreement,
            "tolerance": limits.tolerance,
            "labels": list(job.labels),
            "experiment": job.experiment.to_toml(),
        }
        return write_sidecar(staged, description)


def _check_options(row: catalog.FormatRow, options: ExportOptions) -> None:
    """Check the options against the format.

    Raises:
        BnnError: The format does not support the floats, probabilities or a fixed batch size.
    """
    if options.floats not in (None, *row.floats):
        raise BnnError(f"format {row.name!r} has no floats {options.floats!r}; expected one of {', '.join(row.floats)}")
    if options.softmax and not row.softmax:
        raise BnnError(f"format {row.name!r} stores a network that returns logits; leave --softmax out")
    if options.batch_size not in (None, 1) and row.batch != "fixed":
        raise BnnError(f"format {row.name!r} has no fixed batch size, got {options.batch_size}; leave --batch-size out")


def _job(run: Run, row: catalog.FormatRow, options: ExportOptions) -> ExportJob:
    """Load the run's network; return its export job."""
    experiment, model = load_run(run.directory, options.best)
    return ExportJob(
        model,
        experiment,
        run.environment["dataset"]["labels"],
        options.floats or row.floats[0],
        options.softmax,
        options.batch_size or 1,
        calibration=lambda: verify.calibration(experiment, options.location),
    )


def _convert(row: catalog.FormatRow, job: ExportJob, file: Path) -> dict[str, str]:
    """Write the file; return the binary layers that are float in it, and why."""
    with installed(row, job.floats):
        float_layers = format_module(row, job.floats).convert(job, file)
    if row.packs == "none":
        return float_layers
    return {
        name: reason if has_binary_inputs(job.model.get_layer(name)) else "its inputs are real"
        for name, reason in float_layers.items()
    }


def _check_float_layers(row: catalog.FormatRow, float_layers: dict[str, str], allowed: bool) -> None:
    """Check that a format with binary layers holds all of them in one bit per weight.

    Raises:
        BnnError: Some are float and that is not allowed.
    """
    if float_layers and not allowed and row.packs != "none":
        named = ", ".join(f"{name} ({reason})" for name, reason in list(float_layers.items())[:3])
        more = f" and {len(float_layers) - 3} more" if len(float_layers) > 3 else ""
        packing = [other.name for other in catalog.FORMATS.values() if other.packs == "all"]
        raise BnnError(
            f"{len(float_layers)} binary layer(s) would be float in {row.name}: {named}{more}; accept this with "
            f"--allow-float, or export to {' or '.join(packing)}, which stores every binary layer in one bit per weight"
        )


@contextlib.contextmanager
def _staged(path: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Yield a path with the same name in a temporary folder beside `path`; on success, move its files to `path`.

    Right before, `check` verifies again that they may replace what is there. The sidecar moves last. After an error,
    also Ctrl-C or SIGTERM, `path` is unchanged and nothing is left beside it.
    """
    created = [folder for folder in path.parents if not folder.exists()]
    with files.writing(path), files.exiting_on_signals():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                staged = Path(folder) / path.name
                with _converters_ended_on_exit():
                    yield staged
                check()
                for part in sorted(Path(folder).iterdir(), key=lambda part: part == sidecar_path(staged)):
                    files.replace(part, path.parent / part.name)
        finally:
            for parent in created:
                with contextlib.suppress(OSError):  # it is not empty, or does not exist
                    parent.rmdir()


@contextlib.contextmanager
def _converters_ended_on_exit() -> Iterator[None]:
    """End a converter in the second process after Ctrl-C or SIGTERM, or it would write its files later."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        worker.close()
        raise
