"""Draw docs/images/size-and-latency.svg from benchmarks/deployment.csv: `python docs/pictures.py`."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
ENGINES = {"openvino_float": ("float", "#b0bec5"), "openvino_binary": ("one bit", "#00796b")}
PANELS = (("bytes", 1e6, "file, MB"), ("latency_median_ms", 1, "latency of one image, ms"))
FILE = ROOT / "docs" / "images" / "size-and-latency.svg"


def main():
    """Draw one bar for each network and engine, on logarithmic axes."""
    with (ROOT / "benchmarks" / "deployment.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["engine"] in ENGINES and row["threads"] == "1"]
    networks = sorted({row["network"] for row in rows}, key=lambda name: size(rows, name), reverse=True)
    matplotlib.rcParams.update({"svg.hashsalt": "bnn-keras", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, (key, unit, label) in zip(axes, PANELS, strict=True):
        for row in rows:
            name, colour = ENGINES[row["engine"]]
            value, place = float(row[key]) / unit, networks.index(row["network"])
            bar = axis.barh(place + (0.2 if name == "float" else -0.2), value, 0.38, color=colour)
            axis.bar_label(bar, [f"{value:.3g}"], padding=2, fontsize=7)
        axis.set(xscale="log", xlabel=label, yticks=range(len(networks)), yticklabels=networks)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for _, colour in ENGINES.values()]
    figure.legend(
        handles,
        ["float kernels", "binary kernels: XNOR and popcount"],
        loc="outside upper center",
        ncols=2,
        frameon=False,
    )
    figure.savefig(FILE, metadata={"Date": None})


def size(rows, network):
    """Return the bytes of a network's float file."""
    return next(float(row["bytes"]) for row in rows if (row["network"], row["engine"]) == (network, "openvino_float"))


if __name__ == "__main__":
    main()
