"""How fast, how large and how binary a network is in each engine: all take turns in one process.

Engines run in processes of their own (`export.worker`): a crash of one is an error, TensorFlow's threads are settled
anew, and what is measured is not what wrote the files. This machine's CPU is measured, whatever else it has.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import importlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog, plots, runs
from bnn_keras.counts import count
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import resolve
from bnn_keras.export import open_export, tflite, worker
from bnn_keras.export.exporting import files_of, installed
from bnn_keras.export.graphs import Source, limit_threads, save_graph
from bnn_keras.export.opening import read_sidecar
from bnn_keras.export.trial import look_trained
from bnn_keras.models import build_empty, load_run
from bnn_keras.runs import Run

BATCH_SIZES = (1, 32)
# Inferences, and images of each, that shares of time are of: OpenVINO counts in whole microseconds.
_PROFILED, _PROFILED_BATCH = 20, 16

Infer = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A library that runs files.

    Attributes:
        library: What to import for it.
        open: (file, floats, threads, batch size) → images → outputs.
        batches: Whether it takes several images at a time.
        binary_share: (file, floats, threads, images) → share of the time that it computes binary layers; None where
            the library does not tell.
    """

    library: str
    open: Callable[[str, str, int, int], Infer]
    batches: bool = True
    binary_share: Callable[[str, str, int, np.ndarray], float] | None = None


def _open_format(name: str, file: str, floats: str, threads: int, batch_size: int) -> Infer:
    return importlib.import_module(catalog.FORMATS[name].module).load(Path(file), floats, None, threads)


def _open_tflite_float(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    interpreter = tf.lite.Interpreter(file, num_threads=threads)
    (images,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(images["index"], [batch_size, *images["shape"][1:]])
    interpreter.allocate_tensors()

    def infer(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    return infer


def _open_tflite(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    return tflite.interpreter(file, threads).predict


def _open_openvino(file: str, floats: str, threads: int, batch_size: int) -> Infer:
    compiled = _openvino(file, floats, threads, batch_size)
    return lambda images: compiled(images)[0]


def _openvino(file: str, floats: str, threads: int, batch_size: int, **properties: Any) -> Any:
    """A compiled model; it takes batches of this size, whatever the file has settled."""
    import openvino as ov

    from bnn_keras.export.openvino import compiled_model

    model = ov.Core().read_model(file)
    model.reshape([batch_size, *list(model.inputs[0].partial_shape)[1:]])
    return compiled_model(model, threads, floats, **properties)


def _binary_share_of_openvino(file: str, floats: str, threads: int, images: np.ndarray) -> float:
    """The share of convolutions with one-bit kernels and inputs; making their inputs' signs is not in it."""
    import openvino as ov

    from bnn_keras.export.openvino import is_sign_convolution

    model = ov.Core().read_model(file)
    binary = {
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "BinaryConvolution" or is_sign_convolution(node)
    }
    compiled = _openvino(file, floats, threads, len(images), PERF_COUNT=True)
    # What runs as one node is named as one of the layers that are in it; the runtime's graph knows them all.
    merged = {
        node.get_friendly_name(): set(node.get_rt_info()["originalLayersNames"].astype(str).split(","))
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()

    def binary_and_all(inferences: int) -> np.ndarray:
        for _ in range(inferences):
            request.infer([images])
        took = {node.node_name: node.real_time.total_seconds() for node in request.get_profiling_info()}
        return np.array([sum(took[name] for name in took if merged.get(name, {name}) & binary), sum(took.values())])

    first = binary_and_all(1)
    # What it gives are means since the beginning; the first inference is no measure of the others.
    seconds = _PROFILED * binary_and_all(_PROFILED - 1) - first
    return float(seconds[0] / seconds[1])


RUNTIMES = {
    "saved_model": Runtime("tensorflow", functools.partial(_open_format, "saved_model")),
    "packed": Runtime("tensorflow", functools.partial(_open_format, "packed")),
    "onnx": Runtime("onnxruntime", functools.partial(_open_format, "onnx")),
    "tflite_float": Runtime("tensorflow.lite", _open_tflite_float),
    "tflite": Runtime("larq_compute_engine.tflite.python.interpreter", _open_tflite, batches=False),
    "openvino": Runtime("bnn_keras.export.openvino", _open_openvino, binary_share=_binary_share_of_openvino),
}


@dataclasses.dataclass(frozen=True)
class Engine:
    """A way to run a trained network.

    Attributes:
        runtime: What runs its file (`RUNTIMES`).
        file: The file's name.
        write: Writes the file; the binary layers that are float in it.
        format: The format whose packages it needs.
    """

    runtime: str
    file: str
    write: Callable[[Source, Path], Collection[str]]
    format: str


def _write_keras(source: Source, file: Path) -> Collection[str]:
    save_graph(source.model, file)
    return list(source.kernels)


def _write_tflite_float(source: Source, file: Path) -> Collection[str]:
    worker.call("bnn_keras.export.tflite:convert_float", source.graph, file)
    return list(source.kernels)


def _write_openvino_float(source: Source, file: Path) -> Collection[str]:
    worker.call("bnn_keras.export.openvino:write", str(source.graph), str(file), 1, None, False)
    return list(source.kernels)


def _write_openvino(source: Source, file: Path) -> Collection[str]:
    return importlib.import_module(catalog.FORMATS["openvino"].module).convert(source, file)


ENGINES = {
    "keras": Engine("saved_model", "keras", _write_keras, "saved_model"),
    "tflite_float": Engine("tflite_float", "float.tflite", _write_tflite_float, "saved_model"),
    "tflite_lce": Engine("tflite", "lce.tflite", tflite.convert, "tflite"),
    "openvino_float": Engine("openvino", "float.xml", _write_openvino_float, "openvino"),
    "openvino_binary": Engine("openvino", "binary.xml", _write_openvino, "openvino"),
}


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A file that takes part.

    Attributes:
        source: What the user called it.
        weights: "last" or "best" of a run, "file", or "random".
        network: Its network; files of one network are compared with each other.
        engine: What runs it: one of `ENGINES`, or a format.
        runtime: The library that does.
        file: Where it is.
        floats: Type of what is not binary.
        bytes: Its size; for Keras that of all numbers in float32.
        shape: Height, width, channels of its images.
        binary_layers: How many binary layers the network has.
        packed_layers: How many of them the engine computes in one bit.
    """

    source: str
    weights: str
    network: str
    engine: str
    runtime: str
    file: str
    floats: str
    bytes: int
    shape: tuple[int, ...]
    binary_layers: int | None = None
    packed_layers: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of a file with a number of threads.

    Attributes:
        entrant: The file.
        threads: Threads that it computed with.
        rounds: Seconds of single images, of each inference, of each round.
        faster: Times as fast as each file of its network, in their order: the median, over the rounds, of the ratio of
            medians.
        throughput: Images per second, by the size of a batch; None where the engine takes one image at a time.
        memory: Most bytes of memory that loading and the first inference took, where the system tells.
        binary_share: Share of the time that went to layers with one-bit weights and inputs, where the library tells.
    """

    entrant: Entrant
    threads: int
    rounds: Sequence[Sequence[float]]
    faster: dict[str, float]
    throughput: dict[int, float | None]
    memory: int | None
    binary_share: float | None

    @property
    def times(self) -> np.ndarray:
        """Milliseconds of each inference."""
        return 1000 * np.concatenate(self.rounds)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return float(np.median(self.times))

    @property
    def p95(self) -> float:
        """Milliseconds that 95 % of the inferences keep to."""
        return float(np.percentile(self.times, 95))

    def to_document(self) -> dict[str, Any]:
        """The row as plain values; times in milliseconds."""
        one = self.entrant
        return {
            "source": one.source,
            "weights": one.weights,
            "network": one.network,
            "engine": one.engine,
            "threads": self.threads,
            "latency_median_ms": round(self.median, 4),
            "latency_p95_ms": round(self.p95, 4),
            "inferences": len(self.times),
            "rounds": len(self.rounds),
            "times_as_fast_as": {name: round(ratio, 3) for name, ratio in self.faster.items()},
            "images_per_second": {
                str(size): None if rate is None else round(rate, 2) for size, rate in self.throughput.items()
            },
            "bytes": one.bytes,
            "memory_bytes": self.memory,
            "binary_share": None if self.binary_share is None else round(self.binary_share, 4),
            "binary_layers": one.binary_layers,
            "packed_layers": one.packed_layers,
        }


def benchmark(
    sources: Sequence[str | Path],
    *,
    engines: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    threads: Sequence[int] = (),
    rounds: int = 10,
    seconds: float = 0.2,
    best: bool = False,
    output: str | Path | None = None,
    plot: str | Path | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measures networks in engines.

    Files of one network take turns, round after round, so that whatever else the machine does touches all of them.

    Args:
        sources: Run directories, exported files, and names of networks, which get random weights.
        engines: The engines for runs and networks (`ENGINES`); all where empty. A file has its own.
        batch_sizes: Images of a batch, for the throughput; `BATCH_SIZES` where empty. Latency is that of single images.
        threads: Numbers of threads, one after the other; 1 and as many as the machine has where empty.
        rounds: Turns of each file.
        seconds: Length of a turn; an inference that has begun is finished.
        best: Take the best weights of runs instead of the last.
        output: A table of everything: `.csv`, `.json` or `.md`.
        plot: A picture of latencies: PNG, SVG or PDF by its suffix.
        said: Is told what is going on.

    Returns:
        A row for each file and number of threads.

    Raises:
        BnnError: A source, an engine or a suffix is unknown; what an engine needs is not installed; a converter or an
            engine crashed; or a place cannot be written.
    """
    chosen = [_engine(name) for name in dict.fromkeys(engines or ENGINES)]
    sources = [str(source) for source in sources]
    _check_suffixes(output, plot)
    threads = tuple(dict.fromkeys(threads)) or tuple(dict.fromkeys((1, len(os.sched_getaffinity(0)))))
    batch_sizes = tuple(dict.fromkeys(batch_sizes)) or BATCH_SIZES
    with tempfile.TemporaryDirectory(prefix="bnn-keras-") as folder:
        entrants: list[Entrant] = []
        opened = {source: _opened(source, best) for source in sources}
        for place, (source, entries) in enumerate(opened.items()):
            said(f"{source}: getting ready")
            entrants += entries(chosen, Path(folder) / str(place))
        measured = []
        for network in dict.fromkeys(entrant.network for entrant in entrants):
            group = [entrant for entrant in entrants if entrant.network == network]
            measured += _measured(group, threads, batch_sizes, rounds, seconds, said)
    if output:
        runs.write_text(Path(output), _TABLES[_suffix(output)](measured))
    if plot:
        draw(measured, plot)
    return measured


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise BnnError(unknown("engine", name, ENGINES))
    return name


def _check_suffixes(output: str | Path | None, plot: str | Path | None) -> None:
    """Refuses names of files that nothing can be written to, before hours of work."""
    for file, kind, known in (
        (output, "table format", tuple(_TABLES)),
        (plot, "picture format", plots.FORMATS),
    ):
        suffix = _suffix(file) if file else None
        if file and suffix not in known:
            raise BnnError(f"cannot write {str(file)!r}: {unknown(kind, suffix, known)}; give it such a suffix")


def _suffix(file: str | Path) -> str:
    return Path(file).suffix.removeprefix(".").lower()


def _opened(source: str, best: bool) -> Callable[[Sequence[str], Path], list[Entrant]]:
    """What makes the files of a source: (engines, folder) → entrants.

    Raises:
        BnnError: There is no such run, file or network.
    """
    if Run(source).begun:
        return lambda engines, folder: _converted(_of_run(source, best), source, best, engines, folder)
    if Path(source).exists():
        if best:
            raise BnnError(f"{source!r} is an exported file, which has one set of weights; leave --best out")
        entrant = _of_file(source)
        return lambda engines, folder: [entrant]
    if source in catalog.NETWORKS:
        return lambda engines, folder: _converted(_of_network(source), source, None, engines, folder)
    raise BnnError(f"no run or file {source!r}, and {unknown('network', source, catalog.NETWORKS)}")


def _of_run(source: str, best: bool) -> Source:
    experiment, model = load_run(source, best)
    return Source(model, experiment, Run.read(source).environment["dataset"]["labels"])


def _of_network(name: str) -> Source:
    experiment = resolve(name).experiment
    model = build_empty(experiment)
    look_trained(model)
    return Source(model, experiment, list(map(str, range(model.output_shape[-1]))))


def _of_file(source: str) -> Entrant:
    """An exported file, which is its own.

    Raises:
        BnnError: It is damaged, or no exported file.
    """
    path = Path(source)
    found = open_export(path)
    sidecar = {} if found.format == "packed" else read_sidecar(path)
    return Entrant(
        source,
        "file",
        found.experiment.network.name,
        found.format,
        found.format,
        source,
        sidecar.get("floats", "float32"),
        sidecar.get("bytes", path.stat().st_size),
        found.experiment.input_shape,
        sidecar.get("binary_layers"),
        sidecar.get("packed_layers"),
    )


def _converted(source: Source, name: str, best: bool | None, engines: Sequence[str], folder: Path) -> list[Entrant]:
    """A network's files for engines."""
    folder.mkdir(parents=True)
    made = []
    for engine in engines:
        row = ENGINES[engine]
        file = folder / row.file
        with installed(catalog.FORMATS[row.format]):
            left = row.write(source, file)
        written = sum(part.stat().st_size for part in files_of(file))
        size = count(source.model)["bytes_float32"] if engine == "keras" else written
        made.append(
            Entrant(
                name,
                "random" if best is None else "best" if best else "last",
                source.experiment.network.name,
                engine,
                row.runtime,
                str(file),
                source.floats,
                size,
                source.experiment.input_shape,
                len(source.kernels),
                len(source.kernels) - len(left),
            )
        )
    return made


def _measured(
    group: Sequence[Entrant],
    threads: Sequence[int],
    batch_sizes: Sequence[int],
    rounds: int,
    seconds: float,
    said: Callable[[str], None],
) -> list[Row]:
    """The rows of files that are compared with each other."""
    network = group[0].network
    said(f"{network}: memory and shares of time")
    alone = [_in_fresh_process(_alone, entrant, threads[0]) for entrant in group]
    names = _names(group)
    rows = []
    for number in threads:
        said(f"{network}: turns with {number} thread(s)")
        with contextlib.closing(worker.Worker()) as process:
            times = {
                size: process.call(f"{__name__}:_take_turns", list(group), number, size, rounds, seconds)
                for size in dict.fromkeys((1, *batch_sizes))
            }
        for place, entrant in enumerate(group):
            faster = {name: _ratio(times[1][place], other) for name, other in zip(names, times[1], strict=True)}
            throughput = {size: _rate(times[size][place], size) for size in batch_sizes}
            memory, share = alone[place]
            rows.append(Row(entrant, number, times[1][place], faster, throughput, memory, share))
    return rows


def _names(group: Sequence[Entrant]) -> list[str]:
    """The engines, with their sources where that needs telling."""
    engines = [entrant.engine for entrant in group]
    return [
        entrant.engine if engines.count(entrant.engine) == 1 else f"{entrant.engine} of {entrant.source}"
        for entrant in group
    ]


def _ratio(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """How many times as fast: the median over the rounds, since the machine is another one in each."""
    return float(np.median([np.median(theirs) / np.median(ours) for ours, theirs in zip(own, other, strict=True)]))


def _rate(times: Sequence[Sequence[float]] | None, batch_size: int) -> float | None:
    return None if times is None else batch_size / float(np.median(np.concatenate(times)))


def _in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.closing(worker.Worker()) as process:
        return process.call(f"{__name__}:{function.__name__}", *arguments)


# What follows runs in processes of its own.


def _images(entrant: Entrant, batch_size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch_size, *entrant.shape)).astype(np.float32)


def _begin(threads: int) -> None:
    """Settles for TensorFlow what it takes before its first use alone."""
    tf.config.set_visible_devices([], "GPU")
    limit_threads(threads)


def _take_turns(
    group: Sequence[Entrant], threads: int, batch_size: int, rounds: int, seconds: float
) -> list[list[list[float]] | None]:
    """Seconds of each inference, of each round, of each file; None for one that takes no such batches."""
    _begin(threads)
    opened: list[tuple[Infer, np.ndarray] | None] = []
    for entrant in group:
        runtime = RUNTIMES[entrant.runtime]
        if batch_size == 1 or runtime.batches:
            opened.append(
                (runtime.open(entrant.file, entrant.floats, threads, batch_size), _images(entrant, batch_size))
            )
        else:
            opened.append(None)
    for one in opened:
        for _ in range(2 if one else 0):  # the first inference is no measure of the others
            one[0](one[1])
    taken = [[_turn(*one, seconds) if one else [] for one in opened] for _ in range(rounds)]
    return [list(turns) if one else None for one, turns in zip(opened, zip(*taken, strict=True), strict=True)]


def _turn(infer: Infer, images: np.ndarray, seconds: float) -> list[float]:
    times: list[float] = []
    while sum(times) < seconds or not times:
        begun = time.perf_counter()
        infer(images)
        times.append(time.perf_counter() - begun)
    return times


def _alone(entrant: Entrant, threads: int) -> tuple[int | None, float | None]:
    """Memory for loading and the first inference, and the share of time in binary layers."""
    _begin(threads)
    runtime, images = RUNTIMES[entrant.runtime], _images(entrant, 1)
    importlib.import_module(runtime.library)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts
    before = _kilobytes("VmRSS")
    runtime.open(entrant.file, entrant.floats, threads, 1)(images)
    peak = _kilobytes("VmHWM")
    memory = None if before is None or peak is None else 1024 * max(0, peak - before)
    images = _images(entrant, _PROFILED_BATCH)
    return memory, runtime.binary_share and runtime.binary_share(entrant.file, entrant.floats, threads, images)


def _kilobytes(key: str) -> int | None:
    """A line of this process's /proc/self/status; None where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
    return None


# What follows shows what was measured.


def columns(rows: Sequence[Row]) -> list[str]:
    """The heads of `cells`."""
    sizes = [f"images/s, batch {size}" for size in rows[0].throughput]
    return [
        "source",
        "engine",
        "threads",
        "median, ms",
        "p95, ms",
        "times as fast",
        *sizes,
        "file, MB",
        "memory, MB",
        "in binary layers",
    ]


def cells(rows: Sequence[Row]) -> list[list[str | None]]:
    """Rows for people, in the order of `columns`; None for what was not measured.

    "times as fast" is in comparison with the first file of the network.
    """
    found = []
    for row in rows:
        one = row.entrant
        found.append(
            [
                one.source + (" (random weights)" if one.weights == "random" else ""),
                one.engine,
                str(row.threads),
                _digits(row.median),
                _digits(row.p95),
                _digits(next(iter(row.faster.values()))),
                *(None if rate is None else _digits(rate) for rate in row.throughput.values()),
                _digits(one.bytes / 1e6),
                None if row.memory is None else _digits(row.memory / 1e6),
                None if row.binary_share is None else f"{100 * row.binary_share:.0f} %",
            ]
        )
    return found


def _digits(value: float) -> str:
    """A number with three digits that count, or all in front of the point."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _csv(rows: Sequence[Row]) -> str:
    documents = [_flat(row.to_document()) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for one in documents for key in one)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(documents)
    return text.getvalue()


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """A column for each value of a table in the document."""
    flat = {}
    for key, value in document.items():
        flat |= {f"{key}_{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _json(rows: Sequence[Row]) -> str:
    return json.dumps([row.to_document() for row in rows], indent=2) + "\n"


def _markdown(rows: Sequence[Row]) -> str:
    lines = [
        "Latency of single images. Times as fast: in comparison with the first file of the network, the median over",
        "the rounds. Memory: for loading and the first inference. In binary layers: share of time; – is not measured.",
        "",
        f"| {' | '.join(columns(rows))} |",
        f"|{'---|' * len(columns(rows))}",
        *(f"| {' | '.join('–' if cell is None else cell for cell in row)} |" for row in cells(rows)),
    ]
    return "\n".join(lines) + "\n"


_TABLES = {"csv": _csv, "json": _json, "md": _markdown}


def draw(rows: Sequence[Row], file: str | Path) -> None:
    """Draws the latencies: a panel for each network, a bar for each file and number of threads, up to 95 % as a line.

    Raises:
        BnnError: Another suffix than those of `plots.FORMATS`, or a place that cannot be written.
    """
    from matplotlib.figure import Figure

    _check_suffixes(None, file)
    networks = list(dict.fromkeys(row.entrant.network for row in rows))
    numbers = list(dict.fromkeys(row.threads for row in rows))
    across = 1 if len(networks) < 4 else 2
    bars = [sum(row.entrant.network == network for row in rows) for network in networks]
    heights = [1.2 + 0.25 * max(bars[place : place + across]) for place in range(0, len(bars), across)]
    figure = Figure(figsize=(7 * across, sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(heights), across, squeeze=False, height_ratios=heights).ravel()
    for panel, network in zip(panels, networks, strict=False):
        _draw(panel, network, [row for row in rows if row.entrant.network == network], numbers)
    for panel in panels[len(networks) :]:
        panel.remove()
    if len(numbers) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(numbers))
    with runs.replacing(Path(file)) as temporary:
        figure.savefig(temporary, format=_suffix(file), dpi=150)


def _draw(panel: Any, network: str, rows: Sequence[Row], numbers: Sequence[int]) -> None:
    height = 0.8 / len(numbers)
    for color, number in enumerate(numbers):
        shown = [row for row in rows if row.threads == number]
        medians, ends = np.array([row.median for row in shown]), np.array([row.p95 for row in shown])
        places = np.arange(len(shown)) + height * (color - (len(numbers) - 1) / 2)
        label = f"{number} thread{'s' if number > 1 else ''}"
        panel.barh(places, medians, height, color=f"C{color}", label=label)
        panel.hlines(places, medians, ends, color="grey")
        for place, median, end in zip(places, medians, ends, strict=True):
            panel.text(end * 1.1, place, f"{_digits(median)} ms", va="center", fontsize=8)
    panel.set_yticks(range(len(shown)), _names([row.entrant for row in shown]))
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlim(min(row.median for row in rows) / 3, max(row.p95 for row in rows) * 4)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    panel.set_title(network, fontsize=10, loc="left")
    panel.set_xlabel("latency of one image, ms")
