"""Files of one network, compared with each other: from what the user names to rows."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras import catalog
from bnn_keras.benchmark import measuring, tables
from bnn_keras.benchmark.engines import ENGINES, Entrant
from bnn_keras.benchmark.tables import Row
from bnn_keras.counts import count
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import resolve
from bnn_keras.export import open_export, worker
from bnn_keras.export.formats import files_of, installed
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.export.sidecar import read_sidecar
from bnn_keras.models import build_empty, load_run
from bnn_keras.runs import Run

BATCH_SIZES = (1, 32)


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
    tables.check_suffixes(output, plot)
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
        tables.write(measured, output)
    if plot:
        tables.draw(measured, plot)
    return measured


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise BnnError(unknown("engine", name, ENGINES))
    return name


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


def _of_run(source: str, best: bool) -> ExportJob:
    experiment, model = load_run(source, best)
    return ExportJob(model, experiment, Run.read(source).environment["dataset"]["labels"])


def _of_network(name: str) -> ExportJob:
    experiment = resolve(name).experiment
    model = build_empty(experiment)
    randomize_weights(model)
    return ExportJob(model, experiment, list(map(str, range(model.output_shape[-1]))))


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


def _converted(source: ExportJob, name: str, best: bool | None, engines: Sequence[str], folder: Path) -> list[Entrant]:
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
    alone = [_in_fresh_process(measuring.alone, entrant, threads[0]) for entrant in group]
    names = tables.names(group)
    rows = []
    for number in threads:
        said(f"{network}: turns with {number} thread(s)")
        with contextlib.closing(worker.Worker()) as process:
            times = {
                size: process.call(f"{measuring.__name__}:take_turns", list(group), number, size, rounds, seconds)
                for size in dict.fromkeys((1, *batch_sizes))
            }
        for place, entrant in enumerate(group):
            faster = {name: _ratio(times[1][place], other) for name, other in zip(names, times[1], strict=True)}
            throughput = {size: _rate(times[size][place], size) for size in batch_sizes}
            memory, share = alone[place]
            rows.append(Row(entrant, number, times[1][place], faster, throughput, memory, share))
    return rows


def _ratio(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """How many times as fast: the median over the rounds, since the machine is another one in each."""
    return float(np.median([np.median(theirs) / np.median(ours) for ours, theirs in zip(own, other, strict=True)]))


def _rate(times: Sequence[Sequence[float]] | None, batch_size: int) -> float | None:
    return None if times is None else batch_size / float(np.median(np.concatenate(times)))


def _in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.closing(worker.Worker()) as process:
        return process.call(f"{function.__module__}:{function.__name__}", *arguments)
