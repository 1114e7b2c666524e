"""Update docs/results.md, its picture and docs/results.csv: `python docs/results.py [RUNS]`.

RUNS is a folder of run directories with their default names. The figures of finished runs that the tables have go to
docs/results.csv, and the tables and the picture follow from this file alone. Without RUNS, only these are written.

`--train RUNS` and `--measure RUNS` print commands instead: the trainings of all tables, one on a line, and the exports
and benchmarks of the first seed of each group. A line does nothing if its result exists.
"""

import argparse
import csv
import dataclasses
import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnn_keras import catalog, files
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.report.facts import collect
from bnn_keras.report.intervals import CONFIDENCE, difference, estimate, holm
from bnn_keras.runs import RESULT, Run, default_directory
from bnn_keras.text import markdown_row

DOCUMENT = Path(__file__).with_name("results.md")
FIGURES = Path(__file__).with_name("results.csv")
PICTURE = Path(__file__).with_name("images") / "results.svg"
BLOCK = re.compile(r"(<!-- (results|tests): (\w+) (\w+) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # Debian's dataset-fashion-mnist
PACKED, LATENCY, ENGINE = "packed.safetensors", "latency.json", "openvino_binary"

SCHEMES = [name for name, row in catalog.SCHEMES.items() if row.layers and "1/1" in row.bits]
# Bop replaces kernel quantizers, so schemes differ by their input quantizers only. The signs of XNOR-Net and McDonnell
# have the gradient of BinaryNet's. With real inputs, all schemes are one.
INPUT_SCHEMES = ["binarynet", "bireal", "irnet", "reactnet", "recu"]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ by their seeds only.

    Attributes:
        network: The network.
        options: Options of `bnnk train` that select the experiment.
    """

    network: str
    options: Mapping[str, str]

    @cached_property
    def first(self):
        """The experiment of the first run."""
        epochs = self.options.get("epochs")
        return resolve(self.network, **self.options | ({"epochs": int(epochs)} if epochs else {}), seed=1).experiment

    def experiment(self, seed):
        """Return the experiment of the run with a seed."""
        return self.first.model_copy(update={"seed": seed})

    @property
    def bop(self):
        """Whether Bop trains the group."""
        return self.first.latent_free

    @property
    def name(self):
        """What the group is called in a table."""
        scheme = self.first.scheme
        return f"{scheme.name} {scheme.bits}{', Bop' if self.bop else ''}"

    def run(self, seed=1):
        """Return the name of the folder of a run."""
        return default_directory(self.experiment(seed)).name

    def command(self, seed=1, folder=None):
        """Return the command that trains a run."""
        words = ["bnnk", "train", self.network]
        words += [word for key, value in self.options.items() for word in (f"--{key}", value)]
        words += ["--seed", str(seed)]
        words += ["--manual-dir", FASHION_MNIST] if self.first.data.name == "fashion_mnist" else []
        return shlex.join([*words, *(["--run", str(folder / self.run(seed))] if folder else [])])


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups of one network on one dataset, trained at the same cost.

    Attributes:
        network: The network.
        dataset: The dataset.
        seeds: Number of runs of each group.
        options: Options of `bnnk train` of each group.
    """

    network: str
    dataset: str
    seeds: int
    options: Sequence[Mapping[str, str]]

    @cached_property
    def groups(self):
        """The groups, in the order of the table."""
        return [Group(self.network, options) for options in self.options]


def _mnist():
    """Yield the options of LeNet-5 on mnist_5k: every scheme, Bop, float."""
    for bits in ("1/1", "1/32"):
        for scheme in SCHEMES:
            yield {"experiment": f"short/lenet5_mnist_5k_{scheme}", "bits": bits}
    for scheme in INPUT_SCHEMES:
        yield {"experiment": "short/lenet5_mnist_5k_bop", "scheme": scheme}
    yield {"experiment": "short/lenet5_mnist_5k_bop", "bits": "1/32"}
    yield {"experiment": "short/lenet5_mnist_5k_float"}


def _resnet(epochs):
    """Yield the options of ResNet-20 on Fashion-MNIST: every scheme, two with real inputs, float, Bop."""
    base = {"experiment": "short/resnet20_fashion_mnist_irnet"}
    own = {"epochs": str(epochs)}
    for scheme in SCHEMES:
        yield {**base, "scheme": scheme, **own}
    yield {"experiment": "short/resnet20_fashion_mnist_float", **own}
    for scheme in ("irnet", "mcdonnell"):
        yield {**base, "scheme": scheme, "bits": "1/32", **own}
    yield {"experiment": "short/resnet20_fashion_mnist_bop", **own}


TABLES = (
    Table("lenet5", "mnist_5k", 5, list(_mnist())),
    Table(
        "lenet5",
        "fashion_mnist",
        3,
        [{"experiment": "short/lenet5_fashion_mnist", "scheme": scheme} for scheme in (*SCHEMES, "float")],
    ),
    Table("resnet20", "fashion_mnist", 2, list(_resnet(epochs=5))),
    Table("binarynet", "fashion_mnist", 1, [{"experiment": "short/binarynet_fashion_mnist_bop"}]),
)


def training_commands(folder):
    """Yield a command for each training, the first seed of all groups of a table before the next seed."""
    for table in TABLES:
        for seed in range(1, table.seeds + 1):
            for group in table.groups:
                result = folder / group.run(seed) / RESULT
                yield f"[ -e {shlex.quote(str(result))} ] || {group.command(seed, folder)}"


def measuring_commands(folder):
    """Yield the commands that measure size and latency of the first run of each group."""
    for group in (group for table in TABLES for group in table.groups):
        run = folder / group.run()
        manual = ["--manual-dir", FASHION_MNIST] if group.first.data.name == "fashion_mnist" else []
        export = ["bnnk", "export", run, "--to", "packed", "-o", run / PACKED, *manual]
        benchmark = [
            "bnnk",
            "benchmark",
            run,
            "--engine",
            ENGINE,
            "--threads",
            1,
            "--batch-size",
            1,
            "-o",
            run / LATENCY,
        ]
        for file, words in ((PACKED, export), (LATENCY, benchmark)):
            yield f"[ -e {shlex.quote(str(run / file))} ] || {shlex.join(map(str, words))}"


# --- figures of runs ---


def figures(run, group, seed):
    """Return the row of a finished run, or None if it is not finished.

    Raises:
        BnnError: The run is of other settings than those of the table.
    """
    if not (run / RESULT).exists():
        return None
    experiment = group.experiment(seed)
    different = Run.read(run).experiment.differences(experiment)
    if different:
        raise BnnError(
            f"{str(run)!r} is not the run of the table ({different[0]}); train it with {group.command(seed)}"
        )
    facts = collect(run, inspect=False)
    packed = [export.bytes for export in facts.exports if export.file == PACKED]
    latencies = [row.latency_median_ms for row in facts.latencies if (row.engine, row.threads) == (ENGINE, 1)]
    return {
        "run": run.name,
        **experiment.chosen,
        "epochs": experiment.epochs,
        "seed": seed,
        "top1": round(facts.last.top1, 2),
        "best_top1": round(facts.best.top1, 2),
        "seconds": round(facts.seconds),
        "hardware": facts.hardware,
        "packed_bytes": packed[0] if packed else "",
        "latency_ms": round(latencies[0], 4) if latencies else "",
    }


def read():
    """Return the rows of docs/results.csv by the name of the run."""
    with FIGURES.open(encoding="utf-8") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def updated_figures(rows, folder, tables=TABLES):
    """Return rows with those of the finished runs in a folder, in the order of the tables.

    Size and latency that a run of the folder has not stay as they were.
    """
    found = dict(rows)
    for table in tables:
        for group in table.groups:
            for seed in range(1, table.seeds + 1):
                row = figures(folder / group.run(seed), group, seed)
                if row:
                    before = found.get(row["run"], {})
                    found[row["run"]] = {
                        key: str(before.get(key, "") if value == "" else value) for key, value in row.items()
                    }
    names = [group.run(seed) for table in tables for group in table.groups for seed in range(1, table.seeds + 1)]
    return {name: found[name] for name in names if name in found}


def to_csv(rows):
    """Return rows as the text of docs/results.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    return text.getvalue()


COLUMNS = (
    *("run", "network", "dataset", "scheme", "bits", "optimizer", "epochs", "seed"),
    *("top1", "best_top1", "seconds", "hardware", "packed_bytes", "latency_ms"),
)


# --- the document ---


def of_group(rows, table, group):
    """Return the rows of a group by seed."""
    return {seed: row for seed in range(1, table.seeds + 1) if (row := rows.get(group.run(seed)))}


def accuracies(rows, table):
    """Return the groups of a table that have runs, with their accuracies by seed: {group name: {seed: [top1]}}."""
    found = {group.name: of_group(rows, table, group) for group in table.groups}
    return {
        name: {seed: [float(row["top1"])] for seed, row in members.items()}
        for name, members in found.items()
        if members
    }


def first(members, key):
    """Return the first value of a column that runs have, as a number; None if there is none."""
    return next((float(row[key]) for row in members.values() if row[key]), None)


def results_table(rows, table):
    """Yield the lines of the table of results."""
    yield markdown_row(
        ["scheme, bits", "top-1, %", "n", "best epoch, %", "epochs", "minutes", "bytes", "ms", "command"]
    )
    yield f"|{'---|' * 9}"
    for group in table.groups:
        members = of_group(rows, table, group)
        if not members:
            yield markdown_row([group.name, *["–"] * 7, f"`{group.command()}`"])
            continue
        last, best = (estimate([float(row[key]) for row in members.values()]) for key in ("top1", "best_top1"))
        size, latency = first(members, "packed_bytes"), first(members, "latency_ms")
        yield markdown_row(
            [
                group.name,
                f"{last.mean:.2f}" + (f" ± {last.deviation:.2f}" if last.deviation is not None else ""),
                str(len(members)),
                f"{best.mean:.2f}",
                ", ".join(dict.fromkeys(row["epochs"] for row in members.values())),
                f"{median(float(row['seconds']) for row in members.values()) / 60:.1f}",
                "–" if size is None else f"{size:,.0f}",
                "–" if latency is None else f"{latency:.3f}",
                f"`{group.command()}`",
            ]
        )
    hardware = dict.fromkeys(row["hardware"] for group in table.groups for row in of_group(rows, table, group).values())
    if hardware:
        yield ""
        yield f"Trained on: {'; '.join(hardware)}."


def questions(table, values):
    """Yield the comparisons of a table: a question, and the pairs of names (group, baseline) that answer it."""
    latent = [group for group in table.groups if not group.bop and group.first.scheme.name != "float"]
    for bits in ("1/1", "1/32"):
        names = [group.name for group in latent if group.first.scheme.bits == bits and group.name in values]
        if len(names) > 1:
            best = max(names, key=lambda name: fmean(value for (value,) in values[name].values()))
            yield f"schemes at {bits}, minus the best", [(name, best) for name in names if name != best]
    yield "1/32 minus 1/1", [(f"{scheme} 1/32", f"{scheme} 1/1") for scheme in SCHEMES]
    yield "binary minus float", [(group.name, "float 32/32") for group in latent]
    yield (
        "Bop minus latent weights",
        [(group.name, group.name.removesuffix(", Bop")) for group in table.groups if group.bop],
    )


def tests_table(rows, table):
    """Yield the lines of the table of tests: t tests over the shared seeds, adjusted by Holm's method per question."""
    values = accuracies(rows, table)
    yield markdown_row(
        ["question", "group", "baseline", "difference, points", "95 % interval", "p", "larger than the spread"]
    )
    yield f"|{'---|' * 7}"
    for question, pairs in questions(table, values):
        measured = [
            (pair, difference(values[pair[0]], values[pair[1]]))
            for pair in pairs
            if all(name in values for name in pair)
        ]
        tested = [(pair, result) for pair, result in measured if result.p is not None]
        for ((group, baseline), result), p in zip(tested, holm([result.p for _, result in tested]), strict=True):
            yield markdown_row(
                [
                    *(question, group, baseline, f"{result.mean:+.2f}"),
                    f"{result.interval.low:+.2f} to {result.interval.high:+.2f}",
                    f"{p:.2g}" if p >= 0.001 else "< 0.001",
                    "yes" if p < 1 - CONFIDENCE else "no",
                ]
            )


KINDS = {"results": results_table, "tests": tests_table}


def updated(text, rows, tables=TABLES):
    """Return the text of the document with the tables of some figures."""
    known = {(table.network, table.dataset): table for table in tables}

    def block(match):
        lines = KINDS[match[2]](rows, known[match[3], match[4]])
        return match[1] + "\n".join(lines) + "\n" + match[5]

    return BLOCK.sub(block, text)


# --- the picture ---

# Okabe and Ito's colors.
COLORS = {
    "binarynet": "#0072b2",
    "xnor": "#d55e00",
    "mcdonnell": "#009e73",
    "bireal": "#cc79a7",
    "irnet": "#56b4e9",
    "reactnet": "#e69f00",
    "recu": "#7a5195",
    "float": "#777777",
}
MARKERS = {"1/1": "o", "1/32": "s", "32/32": "D", "Bop": "^"}
PANELS = (("packed_bytes", "log", "bytes of the packed file"), ("latency_ms", "linear", "latency of one image, ms"))
STYLE = {
    "svg.hashsalt": "bnn-keras",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def points(rows, table, key):
    """Yield the points of a panel: color, marker, value of a column, and mean accuracy of a group."""
    for group in table.groups:
        members = of_group(rows, table, group)
        value = first(members, key)
        if value is not None:
            scheme = group.first.scheme
            marker = MARKERS["Bop" if group.bop else scheme.bits]
            yield COLORS[scheme.name], marker, value, fmean(float(row["top1"]) for row in members.values())


def draw(rows, file=PICTURE):
    """Draw the accuracy of each group over the bytes of its packed file and over its latency, a row for each table."""
    shown = [table for table in TABLES if len(list(points(rows, table, "packed_bytes"))) > 1]
    if not shown:
        return
    with rc_context(STYLE):
        figure = Figure(figsize=(8.5, 0.9 + 2.7 * len(shown)), layout="constrained")
        for line, table in zip(
            figure.subplots(len(shown), len(PANELS), squeeze=False, sharey="row"), shown, strict=True
        ):
            for panel, (key, scale, label) in zip(line, PANELS, strict=True):
                for color, marker, value, accuracy in points(rows, table, key):
                    panel.plot([value], [accuracy], marker, color=color, markersize=5, alpha=0.8)
                panel.set(xscale=scale, xlabel=label, **({"xlim": (0, None)} if scale == "linear" else {}))
                panel.grid(True, alpha=0.25)
            line[0].set_ylabel(f"top-1 in %: {table.network}, {table.dataset}")
        handles = [Line2D([], [], linestyle="", marker="o", color=color, label=name) for name, color in COLORS.items()]
        handles += [
            Line2D([], [], linestyle="", marker=marker, color="#333333", label=name) for name, marker in MARKERS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
        with files.replacing(file) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def main():
    """Update the document, or print commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS", help="a folder of runs to add")
    parser.add_argument("--train", type=Path, metavar="RUNS", help="print the commands that train the runs")
    parser.add_argument(
        "--measure", type=Path, metavar="RUNS", help="print the commands that export and benchmark them"
    )
    arguments = parser.parse_args()
    for folder, commands in ((arguments.train, training_commands), (arguments.measure, measuring_commands)):
        if folder:
            print("\n".join(commands(folder)))
    if arguments.train or arguments.measure:
        return
    rows = read()
    if arguments.runs:
        rows = updated_figures(rows, arguments.runs)
        files.write_text(FIGURES, to_csv(rows))
    files.write_text(DOCUMENT, updated(DOCUMENT.read_text(encoding="utf-8"), rows))
    draw(rows)


if __name__ == "__main__":
    main()
