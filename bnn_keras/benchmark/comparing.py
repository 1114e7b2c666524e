"""Prepare the files of each network, measure them in turns and return the rows of the comparison."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bnn_keras import catalog, files, pretrained
from bnn_keras.benchmark import measuring, tables
from bnn_keras.benchmark.engines import ENGINES, RUNTIMES, Entrant
from bnn_keras.benchmark.tables import BenchmarkRow
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import resolve
from bnn_keras.export import open_export, worker
from bnn_keras.export.formats import files_of, installed, measure
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.export.sidecar import read_sidecar
from bnn_keras.export.trained import load_trained, require_no_best
from bnn_keras.models import build_empty
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
    trust: bool = False,
    output: str | Path | None = None,
    plot: str | Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[BenchmarkRow]:
    """Measure networks in several engines.

    The files of a network are measured in turns, round after round, so that other load on the machine affects all of
    them alike.

    Args:
        sources: Run directories, exported files, names of models of the package, and names of networks, which get
            random weights.
        engines: The engines for runs, models and networks (`ENGINES`). Default: all that are installed and have every
            layer of the network; `log` receives the reason why one is left out. An exported file has its own engine.
        batch_sizes: Batch sizes for the throughput. Default: `BATCH_SIZES`. Latency is measured on single images.
        threads: Numbers of threads, measured one after another. Default: 1 and the number of available CPUs.
        rounds: The number of turns of each file.
        seconds: The length of a turn. An inference that has started is finished.
        best: Use the best weights of runs instead of the last.
        trust: Open a SavedModel or C file that this machine did not export (see `open_export`).
        output: A file for the table of all measurements: `.csv`, `.json` or `.md`.
        plot: A file for a plot of the latencies: `.png`, `.svg` or `.pdf`.
        log: A function that receives a line for each step.

    Returns:
        A row for each file and number of threads.

    Raises:
        BnnError: A source, an engine or a suffix is unknown; a package of an engine is not installed; a converter or an
            engine crashed; or an output file cannot be written.

    Example:
        >>> for row in benchmark(["lenet5"], engines=["keras", "tflite_float"], threads=[1]):  # doctest: +SKIP
        ...     print(f"{row.entrant.engine}: {row.median:.2f} ms")
        keras: 0.62 ms
        tflite_float: 0.31 ms
    """
    engines = list(dict.fromkeys(engines))
    _check_engines(engines)
    tables.check_suffixes(output, plot)
    threads = tuple(dict.fromkeys(threads)) or tuple(dict.fromkeys((1, len(os.sched_getaffinity(0)))))
    batch_sizes = tuple(dict.fromkeys(batch_sizes)) or BATCH_SIZES
    with files.writing_temporary(), tempfile.TemporaryDirectory(prefix="bnn-keras-") as folder:
        entrants: list[Entrant] = []
        writers = {source: _file_writer(source, best, trust) for source in map(str, sources)}
        for index, (source, write_files) in enumerate(writers.items()):
            log(f"{source}: preparing")
            entrants += write_files(engines, Path(folder) / str(index), log)
        rows: list[BenchmarkRow] = []
        for network in dict.fromkeys(entrant.network for entrant in entrants):
            group = [entrant for entrant in entrants if entrant.network == network]
            rows += _measure(group, threads, batch_sizes, rounds, seconds, log)
    if note := tables.disagreement(rows):
        log(f"Note: {note}")
    if output:
        tables.write(rows, output)
    if plot:
        tables.draw(rows, plot)
    return rows


def _check_engines(names: Sequence[str]) -> None:
    for name in names:
        if name not in ENGINES:
            raise BnnError(unknown("engine", name, ENGINES))


def _file_writer(
    source: str, best: bool, trust: bool
) -> Callable[[Sequence[str], Path, Callable[[str], None]], list[Entrant]]:
    """Return a function (engines, folder, log) → entrants that writes the files of a source.

    Raises:
        BnnError: There is no run, file, model or network of this name.
    """
    if Run(source).begun or pretrained.locate(source) != Path(source):
        return lambda *options: _write_entrants(*_source_of_weights(source, best), source, *options)
    if Path(source).exists():
        require_no_best(source, best)
        entrant = _entrant_of_file(source, trust)
        return lambda *options: [entrant]
    if source in catalog.NETWORKS:
        return lambda *options: _write_entrants(_source_of_network(source), "random", source, *options)
    names = [*catalog.NETWORKS, *pretrained.cards()]
    raise BnnError(f"no run or file {source!r}, and {unknown('network or model', source, names)}")


def _source_of_weights(source: str, best: bool) -> tuple[ExportJob, str]:
    """Return a trained network, and which weights they are."""
    trained = load_trained(source, best)
    return trained.job, trained.weights


def _source_of_network(name: str) -> ExportJob:
    """Return a network with random weights, whose binary kernels have both signs."""
    experiment = resolve(name).experiment
    model = build_empty(experiment)
    randomize_weights(model)
    return ExportJob(model, experiment, list(map(str, range(model.output_shape[-1]))))


def _entrant_of_file(source: str, trust: bool) -> Entrant:
    """Return the entrant of an exported file.

    Raises:
        BnnError: The file is damaged, is not an exported file, is not trusted, or no engine runs its format.
    """
    path = Path(source)
    exported = open_export(path, trust=trust)
    if exported.format not in RUNTIMES:
        raise BnnError(
            f"{source!r} is a file of format {exported.format!r}, which no engine here runs for speed; give a "
            f"run, or a file of {', '.join(name for name in RUNTIMES if name in catalog.FORMATS)}"
        )
    sidecar = {} if catalog.FORMATS[exported.format].self_contained else read_sidecar(path)
    return Entrant(
        source=source,
        weights="file",
        network=exported.description.name,
        engine=exported.format,
        runtime=exported.format,
        file=source,
        floats=sidecar.get("floats", "float32"),
        bytes=sidecar.get("flash_bytes") or sidecar.get("bytes", path.stat().st_size),
        shape=exported.description.input_shape,
        binary_layers=sidecar.get("binary_layers"),
        packed_layers=sidecar.get("packed_layers"),
        computed_layers=sidecar.get("computed_layers"),
    )


def _write_entrants(
    source: ExportJob, weights: str, name: str, engines: Sequence[str], folder: Path, log: Callable[[str], None]
) -> list[Entrant]:
    """Write the files of a network for the engines.

    Raises:
        BnnError: A file of a named engine cannot be written.
    """
    folder.mkdir(parents=True)
    entrants = []
    for name_of_engine in engines or ENGINES:
        engine = ENGINES[name_of_engine]
        file, row = folder / engine.file, catalog.FORMATS[engine.format]
        try:
            with installed(row):
                float_layers = engine.write(source, file)
        except BnnError as error:
            if engines:
                raise
            log(f"{name}: without {name_of_engine}: {error}")
            continue
        if engine.float32_size:
            size = source.counts["bytes_float32"]
        else:
            size = measure(row, file).get("flash_bytes") or sum(part.stat().st_size for part in files_of(file))
        entrants.append(
            Entrant(
                source=name,
                weights=weights,
                network=source.description.name,
                engine=name_of_engine,
                runtime=engine.runtime,
                file=str(file),
                floats=source.floats,
                bytes=size,
                shape=source.description.input_shape,
                binary_layers=len(source.kernels),
                packed_layers=len(source.kernels) - len(float_layers.stored),
                computed_layers=len(source.kernels) - len(float_layers.computed),
            )
        )
    return entrants


def _measure(
    group: Sequence[Entrant],
    threads: Sequence[int],
    batch_sizes: Sequence[int],
    rounds: int,
    seconds: float,
    log: Callable[[str], None],
) -> list[BenchmarkRow]:
    """Measure the files of one network and return their rows."""
    network = group[0].network
    log(f"{network}: memory and share of binary layers")
    alone = [_in_fresh_process(measuring.measure_alone, entrant, threads[0]) for entrant in group]
    labels = tables.labels(group)
    rows = []
    for number in threads:
        log(f"{network}: latency with {number} thread(s)")
        with contextlib.closing(worker.Worker()) as process:
            times = {
                size: process.call(f"{measuring.__name__}:measure_in_turns", list(group), number, size, rounds, seconds)
                for size in dict.fromkeys((1, *batch_sizes))
            }
        for index, entrant in enumerate(group):
            rounds_of_entrant = times[1][index]
            memory, load, binary_share = alone[index]
            rows.append(
                BenchmarkRow(
                    entrant=entrant,
                    threads=number,
                    rounds=rounds_of_entrant,
                    speedups={
                        label: _speedup(rounds_of_entrant, other) for label, other in zip(labels, times[1], strict=True)
                    },
                    throughput={size: _throughput(times[size][index], size) for size in batch_sizes},
                    memory=memory,
                    load=load,
                    binary_share=binary_share,
                )
            )
    return rows


def _speedup(rounds: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the speedup over another file: the ratio of the latencies that their rows show."""
    return tables.median_latency(other) / tables.median_latency(rounds)


def _throughput(times: Sequence[Sequence[float]] | None, batch_size: int) -> float | None:
    """Return images per second."""
    return None if times is None else batch_size / tables.median_latency(times)


def _in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.closing(worker.Worker()) as process:
        return process.call(f"{function.__module__}:{function.__name__}", *arguments)
