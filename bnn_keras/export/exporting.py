"""Export a run or a model to a file, verify the file against the network, and describe it in a sidecar."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog, files, interop, pretrained
from bnn_keras.counts import binary_variables, count
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export import verify, worker
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.destination import check_destination
from bnn_keras.export.formats import format_module, installed, load_predictor, measure, weights_module
from bnn_keras.export.job import ExportJob
from bnn_keras.export.logits import ends_in_softmax, without_softmax
from bnn_keras.export.predictors import Predictor, with_keras
from bnn_keras.export.progress import progress_of
from bnn_keras.export.sidecar import arrays_path, sidecar_path, write_arrays, write_sidecar
from bnn_keras.export.trained import load_trained
from bnn_keras.graphs import flat_copy
from bnn_keras.kernels import has_binary_inputs
from bnn_keras.location import DataLocation
from bnn_keras.models import load_run
from bnn_keras.runs import Run


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of an export; `export_run` documents them."""

    floats: str | None = None
    softmax: bool = False
    batch_size: int | None = None
    allow_float: bool = False
    min_agreement: float | None = None
    tolerance: float | None = None


def export_run(
    source: str | Path,
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
    """Export the network of a run or of a packed file to a file, with a sidecar `FILE.json` beside it.

    The file is written under a temporary name, verified against the network, and renamed only if it passes.

    Args:
        source: The run directory, a packed file, or the name of a model of the package.
        to: The format, a name in `catalog.FORMATS`.
        file: The file or folder to write. It may replace an empty folder or an earlier export, and nothing else.
        best: Export the best weights instead of the last.
        floats: Type of all numbers that are not binary weights. Defaults to the format's first.
        softmax: Export a model that returns probabilities instead of logits.
        batch_size: Images per batch, for formats with a fixed batch size. Defaults to 1.
        allow_float: Accept binary layers that are computed in float by a format that has binary layers.
        verify_on: Images to verify on: a folder, an image, a `.npy` file or a dataset. Defaults to the test images of
            the run's dataset, or to random images if it is not prepared.
        verify_images: Maximum number of images to verify on.
        min_agreement: Minimum top-1 agreement with the network, in percent. Defaults to `verify.AGREEMENT`.
        tolerance: Maximum median error of the logits. Defaults to `verify.TOLERANCE`. This argument and the three
            before do not apply to files for a reference's code: those are read back, and all tensors must be the same
            bit for bit.
        data_dir: Folder of prepared datasets. Defaults to TFDS's folder.
        manual_dir: Folder with the files that TFDS would download.

    Returns:
        The sidecar.

    Raises:
        BnnError: The run, the format or an option does not exist; `file` is neither new nor an earlier export; a
            package is not installed; the converter crashed; binary layers would be computed in float; or the file does
            not pass verification. Nothing is written then.

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
        floats=floats,
        softmax=softmax,
        batch_size=batch_size,
        allow_float=allow_float,
        min_agreement=min_agreement,
        tolerance=tolerance,
    )
    row, path, found = catalog.find("format", to), Path(file), pretrained.find(source)
    run = Run.read(found) if found.is_dir() else None
    _check_options(row, options)
    check = functools.partial(check_destination, row, path, run)
    check()
    if not row.opens:
        if (verify_on, min_agreement, tolerance) != (None, None, None):
            raise BnnError(
                f"format {row.name!r} is verified by reading its tensors back; leave --verify-on, --min-agreement and "
                "--tolerance out"
            )
        if run is None:
            raise BnnError(
                f"format {row.name!r} holds latent weights, which the packed file {str(source)!r} does not have; give "
                "a run, or choose another format"
            )
        return _export_weights(row, path, run, best, check)
    location = DataLocation(data_dir, manual_dir)
    trained = load_trained(source, best)
    experiment = trained.experiment
    if experiment is None:
        raise BnnError(
            f"{str(source)!r} is the export of a model without an experiment, which would define the images to verify "
            "on; export the model itself with export_model"
        )
    model, origin = trained.model, {"weights": trained.weights, "experiment": experiment.to_toml()}
    job = _job(model, experiment, trained.labels, row, options, lambda: verify.calibration(experiment, location))
    sample = verify.load_sample(experiment, verify_on, verify_images, location)
    return _export(row, path, job, model, sample, options, check, origin)


def export_model(
    model: tf.keras.Model,
    to: str,
    file: str | Path,
    *,
    verify_on: Any,
    labels: Sequence[str] | None = None,
    floats: str | None = None,
    softmax: bool | None = None,
    batch_size: int | None = None,
    allow_float: bool = False,
    min_agreement: float | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Export a Keras model with binary layers to a file, with a sidecar `FILE.json` beside it.

    This is `export_run` for a model without a run: one of `binarize`, of `build_model`, or any other with layers of
    this package or of Larq. The file is verified against the model before it gets its name. Models in mixed precision
    are exported in float32.

    Packed files hold the layers of the model, and therefore accept a fixed set of them
    (`bnn_keras.export.architecture`).

    Args:
        model: A functional or sequential classifier with one input of a fixed shape, and one output (batch, classes):
            logits, or the probabilities of a softmax in the last layer.
        to: The format, a name in `catalog.FORMATS`.
        file: The file or folder to write. It may replace an empty folder or an earlier export, and nothing else.
        verify_on: Inputs to verify the file on, (N, …), prepared as for the training. The first 64 also calibrate int8.
        labels: Class names, in the order of the outputs. Default: "0", "1", ….
        floats: As for `export_run`, and so are the other arguments.
        softmax: Export a model that returns probabilities instead of logits. Default: as the model does. Packed files
            always return logits.
        batch_size: Images per batch, for formats with a fixed batch size. Defaults to 1.
        allow_float: Accept binary layers that are computed in float by a format that has binary layers.
        min_agreement: Minimum top-1 agreement with the model, in percent. Defaults to `verify.AGREEMENT`.
        tolerance: Maximum median error of the logits. Defaults to `verify.TOLERANCE`.

    Returns:
        The sidecar.

    Raises:
        BnnError: The model is of another kind, or has a layer that cannot be exported; or as `export_run`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from bnn_keras import binarize
        >>> inputs = tf.keras.Input((16,))
        >>> outputs = tf.keras.layers.Dense(3)(tf.keras.layers.Dense(8)(inputs))
        >>> model = binarize(tf.keras.Model(inputs, outputs), "xnor", skip=["last"], verbose=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, images = f"{folder}/model.safetensors", np.random.default_rng(0).normal(size=(20, 16))
        ...     sidecar = export_model(model, "packed", path, verify_on=images, labels=["a", "b", "c"])
        >>> sidecar["agreement"], sidecar["packed_layers"]
        (100.0, 1)
    """
    row, path = catalog.find("format", to), Path(file)
    if not row.opens:
        raise BnnError(f"format {to!r} is for networks of the catalog; export a run with export_run")
    network = flat_copy(model, dtype="float32")
    _check_classifier(network)
    options = ExportOptions(
        floats=floats,
        softmax=row.softmax and ends_in_softmax(network) if softmax is None else softmax,
        batch_size=batch_size,
        allow_float=allow_float,
        min_agreement=min_agreement,
        tolerance=tolerance,
    )
    _check_options(row, options)
    check = functools.partial(check_destination, row, path)
    check()
    sample = verify.sample_of_array(verify_on, network.input_shape[1:])
    names = _labels(labels, network.output_shape[-1])
    job = _job(without_softmax(network), None, names, row, options, lambda: verify.calibration_of(sample))
    return _export(row, path, job, model, sample, options, check, {})


def _export_weights(
    row: catalog.FormatRow, path: Path, run: Run, best: bool, check: Callable[[], None]
) -> dict[str, Any]:
    """Write a file of latent weights, and verify that reading it returns the same tensors bit for bit.

    Args:
        row: A format without `opens`.
        path: The file.
        run: The run.
        best: Export the best weights instead of the last.
        check: Verifies that the file may be written.
    """
    experiment, model = load_run(run.directory, best, constrain=False)
    module = weights_module(row)
    expected = module.tensors(model)
    with _staged(path, check) as staged:
        with installed(row):
            module.write(staged, model, progress_of(run, best))
        written = interop.read_checkpoint(staged)
        if written.keys() != expected.keys() or not all(_identical(written[name], expected[name]) for name in expected):
            raise BnnError(
                f"reading {path.name!r} back does not return the tensors of the run; nothing was written: check the "
                "disk, and export again"
            )
        binary = [variable.name.split("/")[0] for variable in binary_variables(model)]
        packed = row.packs == "all"
        fields = {
            "format": row.name,
            "floats": row.floats[0],
            "outputs": "logits",
            "network": experiment.network.name,
            "input_shape": list(experiment.input_shape),
            "bytes_minimum": count(model)["bytes_minimum"],
            "binary_layers": len(binary),
            "packed_layers": len(binary) if packed else 0,
            "tensors": len(expected),
            "labels": run.environment["dataset"]["labels"],
            "weights": "best" if best else "last",
            "experiment": experiment.to_toml(),
        }
        return write_sidecar(staged, fields)


def _identical(array: np.ndarray, other: np.ndarray) -> bool:
    return array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes()


def _check_classifier(network: tf.keras.Model) -> None:
    """Check that a network has one input of a fixed shape, and one output with classes.

    Raises:
        BnnError: It has others.
    """
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise BnnError(
            f"model {network.name!r} has {len(network.inputs)} inputs and {len(network.outputs)} outputs; expected one "
            "of each: export a model of one input and one output"
        )
    (x,), (y,) = network.inputs, network.outputs
    if not x.shape[1:].is_fully_defined() or len(x.shape) < 2:
        raise BnnError(f"model {network.name!r} has inputs {x.shape}; expected a fixed shape, as (None, 28, 28, 1)")
    if len(y.shape) != 2 or (y.shape[-1] or 0) < 2:
        raise BnnError(
            f"model {network.name!r} has outputs {y.shape}; expected (batch, classes) with two classes or more"
        )


def _labels(labels: Sequence[str] | None, classes: int) -> list[str]:
    names = list(map(str, range(classes) if labels is None else labels))
    if len(names) != classes:
        raise BnnError(f"got {len(names)} labels for {classes} outputs of the model; give one for each")
    return names


def _export(
    row: catalog.FormatRow,
    path: Path,
    job: ExportJob,
    model: tf.keras.Model,
    sample: verify.Sample,
    options: ExportOptions,
    check: Callable[[], None],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write, verify and describe the file of a job.

    Args:
        row: The format.
        path: The file.
        job: The network to convert.
        model: The network to verify the file against.
        sample: What to verify on.
        options: The options of the export.
        check: Verifies that the file may be written.
        origin: Further fields of the sidecar: where the network comes from.
    """
    limits = verify.Limits.for_sample(sample, options.min_agreement, options.tolerance)
    network = with_keras(lambda images: tf.cast(model(images, training=False), tf.float32))
    probabilities = ends_in_softmax(model)
    if probabilities:
        network = verify.logits_of_probabilities(network)
    elif job.softmax:
        network = verify.log_softmax(network)
    with contextlib.closing(job), _staged(path, check) as staged:
        float_layers = _convert(row, job, staged)
        _check_float_layers(row, float_layers.computed, options.allow_float)
        exported, seconds = opened(row, staged, job)
        exported = verify.log_softmax(exported) if probabilities else exported
        measured = verify.compare(network, exported, sample.batches)
        verify.check(measured, sample, limits)
        description = job.description
        fields = {
            "format": row.name,
            "floats": job.floats,
            "outputs": "probabilities" if job.softmax else "logits",
            "batch_size": None if row.batch == "any" else job.batch_size,
            "network": description.name,
            "input_shape": list(description.input_shape),
            "bytes_minimum": job.counts["bytes_minimum"],
            "binary_layers": len(job.kernels),
            "packed_layers": len(job.kernels) - len(float_layers.stored),
            "computed_layers": len(job.kernels) - len(float_layers.computed),
            "float_layers": dict(float_layers.computed),
            "load_seconds": round(seconds, 4),
            **measure(row, staged),
            "verified_on": sample.name,
            **measured,
            "min_agreement": None if sample.name == verify.RANDOM else limits.agreement,
            "tolerance": limits.tolerance,
            "labels": description.labels,
            **origin,
            **({} if row.self_contained else write_arrays(staged, job.experiment)),
        }
        return write_sidecar(staged, fields)


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


def _job(
    model: tf.keras.Model,
    experiment: Experiment | None,
    labels: Sequence[str],
    row: catalog.FormatRow,
    options: ExportOptions,
    calibration: Callable[[], np.ndarray],
) -> ExportJob:
    return ExportJob(
        model,
        experiment,
        labels,
        options.floats or row.floats[0],
        options.softmax,
        options.batch_size or 1,
        calibration=calibration,
    )


def _convert(row: catalog.FormatRow, job: ExportJob, file: Path) -> FloatLayers:
    """Write the file; return the binary layers that are not stored or not computed in one bit."""
    with installed(row, job.floats):
        float_layers = format_module(row, job.floats).convert(job, file)
    if row.computes == "none":
        return float_layers
    computed = {
        name: reason if has_binary_inputs(job.model.get_layer(name)) else "its inputs are real"
        for name, reason in float_layers.computed.items()
    }
    return dataclasses.replace(float_layers, computed=computed)


def opened(row: catalog.FormatRow, file: Path, job: ExportJob) -> tuple[Predictor, float]:
    """Return a predictor that runs a file, and the seconds from opening it to its first prediction."""
    start = time.perf_counter()
    predict = load_predictor(row, file, job.floats, job.softmax)
    predict(np.zeros((1, *job.description.input_shape), np.float32))
    return predict, time.perf_counter() - start


def _check_float_layers(row: catalog.FormatRow, float_layers: Mapping[str, str], allowed: bool) -> None:
    """Check that a format with binary layers computes all of them in one bit.

    Raises:
        BnnError: Some are float and that is not allowed.
    """
    if float_layers and not allowed and row.computes != "none":
        named = ", ".join(f"{name} ({reason})" for name, reason in list(float_layers.items())[:3])
        more = f" and {len(float_layers) - 3} more" if len(float_layers) > 3 else ""
        raise BnnError(
            f"{row.name} would compute {len(float_layers)} binary layer(s) in float: {named}{more}; accept this with "
            "--allow-float"
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
                if not arrays_path(staged).exists():
                    files.remove(arrays_path(path))  # of an earlier export
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
