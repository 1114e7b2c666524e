"""Rows of a benchmark, and their tables and plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras import files, plots
from bnn_keras.benchmark.engines import Entrant
from bnn_keras.errors import BnnError, unknown
from bnn_keras.text import markdown_row

LARGEST_SPREAD = 1.5  # between the medians of the rounds of a file


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """The measurements of one file with one number of threads.

    Attributes:
        entrant: The file.
        threads: The number of threads.
        rounds: For each round, the seconds of each inference of a single image.
        speedups: The speedup over each file of the network, in their order: the ratio of their `median`.
        throughput: Images per second by batch size; None if the engine accepts single images only.
        load: Time in seconds of loading and the first inference.
        memory: Peak memory in bytes of loading and the first inference; None if the system does not report it.
        binary_share: Share of the time in layers with one-bit weights and inputs; None if the library has no profiler.

    Example:
        >>> entrant = Entrant(source="lenet5", weights="random", network="lenet5", engine="keras", file="keras",
        ...                   runtime="saved_model", floats="float32", bytes=1_725_600, shape=(28, 28, 1))
        >>> row = BenchmarkRow(entrant=entrant, threads=1, rounds=[[0.001, 0.003], [0.002]], speedups={"keras": 1.0},
        ...                    throughput={1: 500.0}, load=0.1, memory=None, binary_share=None)
        >>> f"{row.median:.1f} ms"
        '2.0 ms'
    """

    entrant: Entrant
    threads: int
    rounds: Sequence[Sequence[float]]
    speedups: dict[str, float]
    throughput: dict[int, float | None]
    load: float
    memory: int | None
    binary_share: float | None

    @property
    def times(self) -> np.ndarray:
        """The latency of each inference in milliseconds."""
        return 1000 * np.concatenate(self.rounds)

    @property
    def median(self) -> float:
        """The latency in milliseconds: the median over the rounds of their medians."""
        return 1000 * median_latency(self.rounds)

    @property
    def spread(self) -> float:
        """The largest median of a round over the smallest. Far from 1, something else used the machine."""
        medians = [np.median(times) for times in self.rounds]
        return float(max(medians) / min(medians))

    @property
    def p95(self) -> float:
        """The 95th percentile of the latency in milliseconds."""
        return float(np.percentile(self.times, 95))

    def to_document(self) -> dict[str, Any]:
        """Return the row as plain values; times are in milliseconds."""
        entrant = self.entrant
        return {
            "source": entrant.source,
            "weights": entrant.weights,
            "network": entrant.network,
            "engine": entrant.engine,
            "threads": self.threads,
            "latency_median_ms": round(self.median, 4),
            "latency_p95_ms": round(self.p95, 4),
            "inferences": len(self.times),
            "rounds": len(self.rounds),
            "spread_of_rounds": round(self.spread, 3),
            "times_as_fast_as": {name: round(ratio, 3) for name, ratio in self.speedups.items()},
            "images_per_second": {
                str(size): None if rate is None else round(rate, 2) for size, rate in self.throughput.items()
            },
            "bytes": entrant.bytes,
            "load_ms": round(1000 * self.load, 2),
            "memory_bytes": self.memory,
            "binary_share": None if self.binary_share is None else round(self.binary_share, 4),
            "binary_layers": entrant.binary_layers,
            "packed_layers": entrant.packed_layers,
            "computed_layers": entrant.computed_layers,
        }


def median_latency(rounds: Sequence[Sequence[float]]) -> float:
    """Return the median over the rounds of their median times: a loaded round counts once, whatever its length."""
    return float(np.median([np.median(times) for times in rounds]))


def disagreement(rows: Sequence[BenchmarkRow]) -> str | None:
    """Return a note on files whose rounds differ by more than `LARGEST_SPREAD`, or None if there are none."""
    unsteady = [
        f"{row.entrant.engine} of {row.entrant.source} with {row.threads} thread(s) by {row.spread:.1f}"
        for row in rows
        if row.spread > LARGEST_SPREAD
    ]
    if not unsteady:
        return None
    return (
        f"rounds disagree, {', '.join(unsteady)} times: something else used the machine; measure again when it is "
        "idle, or with more --rounds"
    )


def columns(rows: Sequence[BenchmarkRow]) -> list[str]:
    """Return the column titles of `cells`."""
    sizes = [f"images/s, batch {size}" for size in rows[0].throughput]
    return [
        "source",
        "engine",
        "threads",
        "median, ms",
        "p95, ms",
        "times as fast",
        *sizes,
        "stored, computed",
        "file, MB",
        "load, ms",
        "memory, MB",
        "in binary layers",
    ]


def cells(rows: Sequence[BenchmarkRow]) -> list[list[str | None]]:
    """Return the rows as formatted text, in the order of `columns`; None for a value that was not measured.

    "times as fast" is the speedup over the first file of the network.
    """
    table = []
    for row in rows:
        entrant = row.entrant
        table.append(
            [
                entrant.source + (" (random weights)" if entrant.weights == "random" else ""),
                entrant.engine,
                str(row.threads),
                _digits(row.median),
                _digits(row.p95),
                _digits(next(iter(row.speedups.values()))),
                *(None if rate is None else _digits(rate) for rate in row.throughput.values()),
                _binary_layers(entrant),
                _digits(entrant.bytes / 1e6),
                _digits(1000 * row.load),
                None if row.memory is None else _digits(row.memory / 1e6),
                None if row.binary_share is None else f"{100 * row.binary_share:.0f} %",
            ]
        )
    return table


def _binary_layers(entrant: Entrant) -> str | None:
    """Return how many binary layers a file stores and computes in one bit, if known."""
    if None in (entrant.binary_layers, entrant.packed_layers, entrant.computed_layers):
        return None
    return f"{entrant.packed_layers}, {entrant.computed_layers} of {entrant.binary_layers}"


def _digits(value: float) -> str:
    """Format a number with three significant digits, or with all digits before the decimal point."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def write(rows: Sequence[BenchmarkRow], file: str | Path) -> None:
    """Write a table of all measurements. The suffix of the file, which `check_suffixes` accepted, is its format."""
    files.write_text(Path(file), _TABLES[_suffix(file)](rows))


def _csv(rows: Sequence[BenchmarkRow]) -> str:
    documents = [_flat(row.to_document()) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for document in documents for key in document)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(documents)
    return text.getvalue()


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with one entry for each value of its tables."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= {f"{key}_{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _json(rows: Sequence[BenchmarkRow]) -> str:
    return json.dumps([row.to_document() for row in rows], indent=2) + "\n"


def _markdown(rows: Sequence[BenchmarkRow]) -> str:
    lines = [
        "Latency of single images: median over the rounds. Times as fast: speedup over the first file of the network.",
        "Stored, computed: the binary layers that the file stores, and the engine computes, in one bit.",
        "Load, memory: for loading and the first inference. In binary layers: share of time. –: not measured.",
        "",
        markdown_row(columns(rows)),
        f"|{'---|' * len(columns(rows))}",
        *map(markdown_row, cells(rows)),
    ]
    return "\n".join(lines) + "\n"


_TABLES = {"csv": _csv, "json": _json, "md": _markdown}


def draw(rows: Sequence[BenchmarkRow], file: str | Path) -> None:
    """Plot the latencies: a panel for each network, a bar for each file and number of threads.

    A bar ends at the median, its line at the 95th percentile.

    Raises:
        BnnError: The suffix is not one of `plots.FORMATS`, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_suffixes(None, file)
    networks = list(dict.fromkeys(row.entrant.network for row in rows))
    threads = list(dict.fromkeys(row.threads for row in rows))
    across = 1 if len(networks) < 4 else 2
    bars = [sum(row.entrant.network == network for row in rows) for network in networks]
    heights = [1.2 + 0.25 * max(bars[start : start + across]) for start in range(0, len(bars), across)]
    figure = Figure(figsize=(7 * across, sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(heights), across, squeeze=False, height_ratios=heights).ravel()
    for panel, network in zip(panels, networks, strict=False):
        _draw(panel, network, [row for row in rows if row.entrant.network == network], threads)
    for panel in panels[len(networks) :]:
        panel.remove()
    if len(threads) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(threads))
    with files.replacing(Path(file)) as temporary:
        figure.savefig(temporary, format=_suffix(file), dpi=150)


def _draw(panel: Any, network: str, rows: Sequence[BenchmarkRow], threads: Sequence[int]) -> None:
    height = 0.8 / len(threads)
    for color, number in enumerate(threads):
        bars = [row for row in rows if row.threads == number]
        medians, ends = np.array([row.median for row in bars]), np.array([row.p95 for row in bars])
        positions = np.arange(len(bars)) + height * (color - (len(threads) - 1) / 2)
        label = f"{number} thread{'s' if number > 1 else ''}"
        panel.barh(positions, medians, height, color=f"C{color}", label=label)
        panel.hlines(positions, medians, ends, color="grey")
        for position, median, end in zip(positions, medians, ends, strict=True):
            panel.text(end * 1.1, position, f"{_digits(median)} ms", va="center", fontsize=8)
    panel.set_yticks(range(len(bars)), labels([row.entrant for row in bars]))
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlim(min(row.median for row in rows) / 3, max(row.p95 for row in rows) * 4)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    panel.set_title(network, fontsize=10, loc="left")
    panel.set_xlabel("latency of one image, ms: median, and a line to the 95th percentile")


def labels(group: Sequence[Entrant]) -> list[str]:
    """Return a label for each file: its engine, followed by its source if several files have the same engine."""
    engines = [entrant.engine for entrant in group]
    return [
        entrant.engine if engines.count(entrant.engine) == 1 else f"{entrant.engine} of {entrant.source}"
        for entrant in group
    ]


def check_suffixes(output: str | Path | None, plot: str | Path | None) -> None:
    """Verify that the files to write have known suffixes, before anything is measured.

    Raises:
        BnnError: A suffix is unknown.
    """
    for file, kind, known in (
        (output, "table format", tuple(_TABLES)),
        (plot, "picture format", plots.FORMATS),
    ):
        suffix = _suffix(file) if file else None
        if file and suffix not in known:
            raise BnnError(f"cannot write {str(file)!r}: {unknown(kind, suffix, known)}; use one of these as suffix")


def _suffix(file: str | Path) -> str:
    return Path(file).suffix.removeprefix(".").lower()
