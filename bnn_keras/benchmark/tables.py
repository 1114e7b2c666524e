"""Shows what was measured: rows, tables of them, pictures."""

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


def write(rows: Sequence[Row], file: str | Path) -> None:
    """Writes a table of everything; its format is the file's suffix, which `check_suffixes` knows."""
    files.write_text(Path(file), _TABLES[_suffix(file)](rows))


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

    check_suffixes(None, file)
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
    with files.replacing(Path(file)) as temporary:
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
    panel.set_yticks(range(len(shown)), names([row.entrant for row in shown]))
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlim(min(row.median for row in rows) / 3, max(row.p95 for row in rows) * 4)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    panel.set_title(network, fontsize=10, loc="left")
    panel.set_xlabel("latency of one image, ms: median, and a line to the 95th percentile")


def names(group: Sequence[Entrant]) -> list[str]:
    """The engines, with their sources where that needs telling."""
    engines = [entrant.engine for entrant in group]
    return [
        entrant.engine if engines.count(entrant.engine) == 1 else f"{entrant.engine} of {entrant.source}"
        for entrant in group
    ]


def check_suffixes(output: str | Path | None, plot: str | Path | None) -> None:
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
