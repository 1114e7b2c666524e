"""Collect the facts of a run as a typed document. Reads the run directory, its exports, and the test images."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from bnn_keras import catalog, runs
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.export.sidecar import parse_sidecar
from bnn_keras.location import DEFAULT_LOCATION, DataLocation
from bnn_keras.report.inspecting import Kernels, TestImages, inspect_network
from bnn_keras.report.intervals import Interval, wilson_interval
from bnn_keras.runs import Run, short_names
from bnn_keras.symptoms import symptoms_of

Status = Literal["finished", "training", "stopped", "imported"]


class Accuracy(pydantic.BaseModel):
    """An accuracy of a run in percent.

    Attributes:
        epoch: The epoch after which it was measured, from 1; None for imported weights.
        top1: Top-1 accuracy.
        top5: Top-5 accuracy; None if it was not recorded.
        on: The images: "test", or "validation" if they are held out of the training images.
        images: Their number; None if it is not recorded.
        interval: Wilson's confidence interval of `top1`; None without the number of images.
    """

    epoch: int | None
    top1: float
    top5: float | None = None
    on: Literal["test", "validation"]
    images: int | None = None
    interval: Interval | None = None


class Published(pydantic.BaseModel):
    """The published figure of a recipe, and the measured one of the same weights.

    Attributes:
        of: Whether it is of the "last" epoch, or of the "best" one.
        top1: Published top-1 accuracy in percent.
        deviation: Its standard deviation over `runs` trainings, if published.
        runs: Number of published trainings.
        measured: Measured top-1 accuracy of the same epoch; None before the training is finished.
    """

    of: Literal["best", "last"]
    top1: float
    deviation: float | None = None
    runs: int | None = None
    measured: float | None = None


class ExportedFile(pydantic.BaseModel):
    """An exported file of a run, as its sidecar describes it."""

    file: str
    format: str
    floats: str
    weights: str | None = None
    bytes: int | None = None
    binary_layers: int | None = None
    packed_layers: int | None = None
    computed_layers: int | None = None
    load_seconds: float | None = None
    verified_on: str | None = None
    agreement: float | None = None


class Latency(pydantic.BaseModel):
    """A row of a table that `bnnk benchmark` wrote."""

    file: str
    source: str
    engine: str
    threads: int
    latency_median_ms: float
    latency_p95_ms: float
    bytes: int
    memory_bytes: int | None = None


class Symptom(pydantic.BaseModel):
    """What looks wrong in a training, and what usually helps."""

    symptom: str
    finding: str
    advice: str
    source: str


class RunFacts(pydantic.BaseModel):
    """What is known of a run.

    Attributes:
        name: Its name in the report.
        directory: The run directory.
        status: Whether it is finished, training now, stopped before its last epoch, or imported and not trained.
        experiment: Name of the experiment.
        reconstructed: Whether the source does not give the whole recipe.
        paper: Title, authors, year and address of the paper, if the experiment names one.
        chosen: Network, dataset, scheme, bits and optimizer.
        seed: The seed.
        settings: All values that influence the training, by dotted key, without the seed.
        command: The command that started it, for a shell; None if it is not recorded.
        repeat: A command that trains the same again, from the run directory.
        epochs: Number of finished epochs.
        planned_epochs: Number of epochs of the experiment.
        seconds: Training time of the finished epochs.
        images_per_second: Images per second of the last epoch.
        last: Accuracy after the last finished epoch.
        best: Accuracy of the best epoch, and what it was chosen on.
        best_chosen_on: The images on which the best epoch is chosen.
        published: The published figure, if the recipe has one.
        counts: Parameters, operations and bytes (`counts.count`); empty if neither the result nor weights exist.
        curves: Values of metrics.jsonl by key, one per finished epoch; None where an epoch has no value.
        symptoms: What looks wrong.
        test: Predictions of the test images; None if they were not evaluated.
        kernels: Kernels of the first binary layer; None without weights or binary layers.
        exports: Exported files beside the run and in its folder.
        latencies: Their measured latencies, from tables of `bnnk benchmark` in the same folders.
        dataset: Name, version and numbers of images.
        labels: Names of the classes.
        hardware: Hardware that it was trained on.
        versions: Versions of this package, its commit, Python and other packages.
        changes: Changes by `bnnk train --continue`.
        absent: Why parts of this document are missing, by their names.
    """

    name: str
    directory: str
    status: Status
    experiment: str
    reconstructed: bool = False
    paper: dict[str, str | int] | None = None
    chosen: dict[str, str]
    seed: int
    settings: dict[str, Any]
    command: str | None = None
    repeat: str
    epochs: int
    planned_epochs: int
    seconds: float = 0
    images_per_second: float | None = None
    last: Accuracy | None = None
    best: Accuracy | None = None
    best_chosen_on: str
    published: Published | None = None
    counts: dict[str, int] = {}
    curves: dict[str, list[float | None]] = {}
    symptoms: list[Symptom] = []
    test: TestImages | None = None
    kernels: Kernels | None = None
    exports: list[ExportedFile] = []
    latencies: list[Latency] = []
    dataset: dict[str, Any] = {}
    labels: list[str] = []
    hardware: str | None = None
    versions: dict[str, str] = {}
    changes: list[str] = []
    absent: dict[str, str] = {}

    @property
    def per_layer(self) -> dict[str, dict[str, list[float | None]]]:
        """The measures of layers: measure → layer → values, from the keys "<measure>/<layer>" of `curves`."""
        measures: dict[str, dict[str, list[float | None]]] = {}
        for key, values in self.curves.items():
            measure, slash, layer = key.partition("/")
            if slash:
                measures.setdefault(measure, {})[layer] = values
        return measures


def collect(
    directory: str | Path,
    *,
    name: str | None = None,
    inspect: bool = True,
    location: DataLocation = DEFAULT_LOCATION,
) -> RunFacts:
    """Collect the facts of a run, finished or not.

    Args:
        directory: The run directory.
        name: Its name in the report. Default: the name of the folder.
        inspect: Load the network, for its kernels and its predictions of the test images.
        location: Where the test images are read from. Nothing is downloaded.

    Raises:
        BnnError: There is no run, or one of its text files cannot be read. Missing weights and images are no error:
            `absent` says why a part is missing.

    Example:
        >>> import tempfile
        >>> from bnn_keras import build_model, import_checkpoint, interop, resolve
        >>> import numpy as np
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     _ = import_checkpoint(f"{folder}/checkpoint.npz", f"{folder}/run", "lenet5", dataset="fake")
        ...     facts = collect(f"{folder}/run")
        >>> facts.status, facts.epochs, facts.counts["parameters"], facts.kernels.shape
        ('imported', 0, 431220, [5, 5, 20, 50])
    """
    run = Run.read(directory)
    experiment, rows = run.experiment, _complete_rows(run)
    environment = run.environment if (run / runs.ENVIRONMENT).exists() else {}
    result = run.result
    absent: dict[str, str] = {}
    network = inspect_network(run, experiment, location, absent) if inspect else None
    dataset = environment.get("dataset", {})
    accuracies = _accuracies(experiment, rows, result, dataset.get("test_examples"))
    if network and network.test and not accuracies:
        accuracies["last"] = _accuracy(None, network.test.top1, network.test.top5, "test", network.test.images)
    exports, latencies = _exports(run, experiment)
    return RunFacts(
        name=name or short_names([directory])[0],
        directory=str(directory),
        status=_status(run, rows, environment),
        experiment=experiment.name,
        reconstructed=experiment.reconstructed,
        paper=experiment.paper.model_dump() if experiment.paper else None,
        chosen=experiment.chosen,
        seed=experiment.seed,
        settings=_settings(experiment, environment),
        command=shlex.join(environment["command"]) if environment.get("command") else None,
        repeat=_repeat(run, experiment, environment),
        epochs=len(rows),
        planned_epochs=experiment.epochs,
        seconds=sum(row["seconds"] for row in rows),
        images_per_second=rows[-1]["images_per_second"] if rows else None,
        **accuracies,
        best_chosen_on=experiment.best_chosen_on,
        published=_published(experiment, result),
        counts=network.counts if network else _counts(result),
        curves=_curves(rows),
        symptoms=_symptoms(rows, experiment),
        test=network.test if network else None,
        kernels=network.kernels if network else None,
        exports=exports,
        latencies=latencies,
        dataset={key: value for key, value in dataset.items() if isinstance(value, (str, int))},
        labels=dataset.get("labels", []),
        hardware=environment.get("hardware"),
        versions=_versions(environment),
        changes=[_change(note) for note in environment.get("changes", [])],
        absent=absent,
    )


def collect_all(
    directories: Sequence[str | Path], *, inspect: bool = True, location: DataLocation = DEFAULT_LOCATION
) -> list[RunFacts]:
    """Collect the facts of several runs, each with a name of its own.

    Raises:
        BnnError: There is no run, a directory is given twice, or as `collect`.
    """
    if not directories:
        raise BnnError("no run to report; give one or more folders that `bnnk train` wrote")
    resolved = [Path(directory).resolve() for directory in directories]
    twice = [str(path) for path, real in zip(directories, resolved, strict=True) if resolved.count(real) > 1]
    if twice:
        raise BnnError(f"got {twice[0]!r} twice; expected each run once: leave one of them out")
    names = short_names(directories)
    return [
        collect(directory, name=name, inspect=inspect, location=location)
        for name, directory in zip(names, directories, strict=True)
    ]


def _status(run: Run, rows: Sequence[Any], environment: Mapping[str, Any]) -> Status:
    if run.result:
        return "finished"
    if run.in_use:
        return "training"
    return "imported" if "imported" in environment and not rows else "stopped"


def _complete_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without a last line that is being written."""
    if not (run / runs.METRICS).exists():
        return []
    return run.metrics_until((run / runs.METRICS).read_bytes().rfind(b"\n") + 1)


def _accuracy(epoch: int | None, top1: float, top5: float | None, on: Any, images: int | None) -> Accuracy:
    interval = None
    if images:
        share = wilson_interval(top1 / 100 * images, images)
        interval = Interval(low=100 * share.low, high=100 * share.high)
    return Accuracy(epoch=epoch, top1=top1, top5=top5, on=on, images=images, interval=interval)


def _accuracies(
    experiment: Experiment, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any] | None, images: int | None
) -> dict[str, Accuracy]:
    """Return the accuracies after the last and of the best epoch: on the test images if they are known."""
    if not rows:
        return {}
    on = experiment.best_chosen_on
    best = max(rows, key=lambda row: row["val_top1"])
    if result:
        accuracies = {"last": _accuracy(rows[-1]["epoch"], result["top1"], result["top5"], "test", images)}
        if result["best_top1"] is not None:
            accuracies["best"] = _accuracy(best["epoch"], result["best_top1"], None, "test", images)
        return accuracies
    counted = images if on == "test" else None
    return {
        name: _accuracy(row["epoch"], row["val_top1"], row["val_top5"], on, counted)
        for name, row in (("last", rows[-1]), ("best", best))
    }


def _published(experiment: Experiment, result: Mapping[str, Any] | None) -> Published | None:
    figure = experiment.published
    if figure is None:
        return None
    measured = result["best_top1" if figure.of == "best" else "top1"] if result else None
    return Published(
        of=figure.of, top1=figure.top1, deviation=figure.top1_deviation, runs=figure.runs, measured=measured
    )


def _counts(result: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the counts of a result; nothing if it is of an earlier version, which had fewer of them."""
    counts = {key: result[key] for key in _COUNTED if key in result} if result else {}
    return counts if len(counts) == len(_COUNTED) else {}


_COUNTED = (
    "parameters",
    "binary_parameters",
    "macs",
    "binary_macs",
    "binary_weight_macs",
    "operations",
    "bytes_float32",
    "bytes_minimum",
)


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, bool))
    return {key: [row.get(key) for row in rows] for key in keys}


def _settings(experiment: Experiment, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that distinguishes trainings, apart from the seed."""
    settings = experiment.flat({"network", "scheme", "data", "stages"})
    start = environment.get("start_from")
    return {
        **settings,
        **({"start_from": start.get("sha256")} if isinstance(start, dict) else {}),
        **({"precision": precision} if (precision := environment.get("precision", "float32")) != "float32" else {}),
    }


def _repeat(run: Run, experiment: Experiment, environment: Mapping[str, Any]) -> str:
    """Return a command that trains the same experiment anew."""
    if "imported" in environment and environment.get("command"):
        return shlex.join(environment["command"])
    start = environment.get("start_from")
    words = ["bnnk", "train", experiment.network.name, "--experiment", str(run / runs.EXPERIMENT)]
    words += ["--from", str(start["path"])] if isinstance(start, dict) and "path" in start else []
    for option, default in (("strategy", "single"), ("precision", "float32")):
        value = environment.get(option, default)
        words += [f"--{option}", str(value)] if value != default else []
    words += ["--jit"] if environment.get("jit") else []
    return shlex.join([*words, "--run", f"{run.directory}-again"])


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    names = {"bnn_keras": "bnn-keras", "git_commit": "git commit", "python": "Python", "platform": "platform"}
    own = {title: str(environment[key]) for key, title in names.items() if environment.get(key)}
    return {**own, **{str(name): str(value) for name, value in environment.get("packages", {}).items()}}


def _change(note: Any) -> str:
    return "; ".join(f"{key}: {value}" for key, value in note.items()) if isinstance(note, dict) else str(note)


def _symptoms(rows: Sequence[Mapping[str, Any]], experiment: Experiment) -> list[Symptom]:
    found = symptoms_of(rows, experiment) if rows else []
    return [Symptom.model_validate(symptom.to_document()) for symptom in found]


def _exports(run: Run, experiment: Experiment) -> tuple[list[ExportedFile], list[Latency]]:
    """Return the exported files and latencies of a run, from the JSON files in its folder and beside it."""
    exports: list[ExportedFile] = []
    latencies: list[Latency] = []
    for path in _json_files(run):
        exported = path.with_suffix("")
        sidecar = _sidecar(exported)
        if sidecar is not None:
            if sidecar.get("experiment") == experiment.to_toml():
                exports.append(ExportedFile.model_validate({"file": exported.name, **sidecar}))
        else:
            latencies += _latencies(path, run)
    return exports, latencies


def _json_files(run: Run) -> Iterator[Path]:
    for folder in (run.directory, run.directory.resolve().parent):
        yield from sorted(path for path in folder.glob("*.json") if path.name not in runs.CONTENTS)


def _sidecar(exported: Path) -> dict[str, Any] | None:
    """Return the sidecar of an exported file; None if the JSON file is something else."""
    with contextlib.suppress(BnnError, pydantic.ValidationError):
        return parse_sidecar(exported) if exported.exists() else None
    return None


def _latencies(path: Path, run: Run) -> Iterator[Latency]:
    """Yield the rows of a table of `bnnk benchmark` that measured a run or its exports."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        measured = [Latency.model_validate({"file": path.name, **row}) for row in rows if isinstance(row, dict)]
    except (OSError, ValueError, RecursionError, TypeError):
        return
    for row in measured:
        source = Path(row.source)
        if row.source not in catalog.NETWORKS and (
            source.resolve() == run.directory.resolve() or source.name == run.directory.resolve().name
        ):
            yield row
