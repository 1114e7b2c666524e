"""Write the tables of papers in README.md and docs/papers: `python docs/papers.py`.

They follow from the experiments, their golden files in tests/golden/recipes, docs/results.csv, experiments/results,
docs/networks.md and benchmarks/deployment.csv.
"""

import csv
import re
import sys
from pathlib import Path

from bnn_keras.experiment import all_experiments
from bnn_keras.report.intervals import estimate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import recipes
import reproducing
import results

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- (table|rows|measured): (\w+) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
# One network of each paper: paper, page, experiment, row of docs/networks.md, name in benchmarks/deployment.csv.
FIRST = (
    ("XNOR-Net", "xnor-net", "xnor_net/lenet5_mnist", "`lenet5`", "lenet5"),
    ("McDonnell", "mcdonnell", "binary_wide_resnet/wrn_20_10_cifar100", "`wrn_20_10`", None),
    ("Bop", "bop", "rethinking_bnn/binarynet_cifar10", "`binarynet`, Bop", "binarynet"),
    ("Bi-Real Net", "bi-real-net", "bireal_net/birealnet18_imagenet2012", "`birealnet18`", "birealnet18"),
    ("IR-Net", "ir-net", "ir_net/vgg_small_cifar10", "`vgg_small`", "vgg_small"),
    ("ReActNet", "reactnet", "reactnet/reactnet_a_imagenet2012", "`reactnet_a`", "reactnet_a"),
    ("ReCU", "recu", "recu/resnet20_cifar10", "`resnet20`, shortcut per convolution, recu", "resnet20"),
)
DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet2012": "ImageNet"}
UNITS = {"kB": 1e3, "MB": 1e6}


def networks():
    """Return the rows of docs/networks.md as {(network, bits, data): cells by column}."""
    lines = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "networks.md").read_text().splitlines()]
    columns = next(cells for cells in lines if cells[0] == "network")
    rows = (
        dict(zip(columns, cells, strict=True)) for cells in lines if len(cells) == len(columns) and cells != columns
    )
    return {(row["network"], row["bits"], row["data"]): row for row in rows if row["network"].startswith("`")}


def speed_ups():
    """Return, by network, how many times faster OpenVINO is with binary convolutions than with float ones."""
    with (ROOT / "benchmarks" / "deployment.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["threads"] == "1"]
    return {
        row["network"]: float(row["times_as_fast_as_openvino_float"])
        for row in rows
        if row["engine"] == "openvino_binary"
    }


def head(*columns):
    """Return the head of a table."""
    return f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"


def first_table():
    """Return one row for each paper."""
    experiments = {experiment.name: experiment for experiment in all_experiments()}
    measured, speeds = networks(), speed_ups()
    yield head("paper", "network", "data", "bits", "published", "parity", "size", "smaller", "faster")
    for paper, page, name, network, benchmarked in FIRST:
        experiment = experiments[name]
        bits, data = experiment.scheme.bits, experiment.data.name
        row = measured[network, bits, data]
        number, unit = row["packed"].split()
        smaller = 4 * int(row["parameters"].replace(",", "")) / (float(number) * UNITS[unit])
        faster = f"{speeds[benchmarked]:.1f} ×" if benchmarked in speeds else "–"
        cells = (
            f"[{paper}](docs/papers/{page}.md)",
            f"`{experiment.network.name}`",
            DATA[data],
            bits,
            f"{reproducing.published(experiment)} %",
            row["outputs"],
            row["packed"],
            f"{smaller:.0f} ×",
            faster,
        )
        yield f"| {' | '.join(cells)} |\n"


def rows_table(paper):
    """Return the published rows of a paper: figure, recipe, status."""
    yield head("experiment", "bits", "published", "of", "epochs", "batch", "optimizer", "status")
    for experiment in all_experiments():
        if not experiment.published or experiment.name.split("/")[0] != paper:
            continue
        golden = recipes.read(recipes.file_of(experiment.name))
        stages = experiment.stages

        def per_stage(values):
            return ", ".join(dict.fromkeys(map(str, values)))

        cells = (
            f"`{experiment.name.split('/')[1]}`",
            per_stage((stage.scheme or experiment.scheme).bits for stage in stages),
            reproducing.published(experiment),
            experiment.published.of,
            " + ".join(f"{stage.epochs}" for stage in stages),
            per_stage(stage.batch_size for stage in stages),
            per_stage(f"`{stage.optimizer.name}`" for stage in stages),
            golden["status"],
        )
        yield f"| {' | '.join(cells)} |\n"


def measured_table(scheme):
    """Return the trainings of docs/results.csv and of experiments/results with a scheme, or with Bop."""
    yield head("experiment", "network", "data", "scheme, bits", "epochs", "top-1", "seeds")
    for row in (*comparisons(), *reproductions()):
        if scheme == ("bop" if row["optimizer"] == "bop" else row["scheme"]):
            deviation = f" ± {float(row['last_deviation']):.2f}" if row["last_deviation"] else ""
            cells = (
                *(f"`{row[key]}`" for key in ("experiment", "network", "dataset")),
                f"{row['scheme']} {row['bits']}",
                row["epochs"],
                f"{float(row['last']):.2f}{deviation}",
                str(row["seeds"]),
            )
            yield f"| {' | '.join(cells)} |\n"


def comparisons():
    """Yield a row for each group of docs/results.csv."""
    rows = results.read()
    for table in results.TABLES:
        for group in table.groups:
            members = results.of_group(rows, table, group)
            if members:
                last = estimate([float(row["top1"]) for row in members.values()])
                yield {
                    **next(iter(members.values())),
                    "experiment": group.options["experiment"],
                    "last": last.mean,
                    "last_deviation": last.deviation,
                    "seeds": len(members),
                }


def reproductions():
    """Yield the rows of experiments/results."""
    with (ROOT / "experiments" / "results" / "fashion_mnist.csv").open() as file:
        yield from csv.DictReader(file)


KINDS = {"table": lambda _: first_table(), "rows": rows_table, "measured": measured_table}


def updated(text):
    """Return the text of a document with the present tables."""
    return TABLE.sub(lambda match: match[1] + "".join(KINDS[match[2]](match[3])) + match[4], text)


DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs" / "papers").glob("*.md")))

if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(updated(document.read_text()))
