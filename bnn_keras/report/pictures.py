"""Pictures of a report: Matplotlib figures as SVG, whose colors follow the page's light or dark colors."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnn_keras.files import replacing
from bnn_keras.report.comparing import Comparison
from bnn_keras.report.facts import RunFacts

Values = Sequence[float | None]

# Okabe and Ito's colors without black and yellow. The page replaces each by a variable, with a brighter one if dark.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a5195")
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.5)))
_INK = "#123456"  # stands for the color of the page's text
_STYLE = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "bnn-keras",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK
    ),
}
_SIZE = (4.7, 2.7)  # inches, at 72 units each: readable at the width of a phone and of half a page


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: Its name in the legend; lines with the same name have the same color and dashes.
        x: Values of the horizontal axis.
        y: Values; None where there is none.
        faint: Draw it thin and dashed, without an entry in the legend.
    """

    name: str
    x: Sequence[float]
    y: Values
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of a legend: a name, the number of its color, and that of its dashes."""

    name: str
    color: int
    dash: int


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with a legend, which the page sets as text.

    Attributes:
        title: What it shows.
        svg: The picture.
        legend: Its entries; empty for a single line.
        note: How to read it.
    """

    title: str
    svg: str
    legend: Sequence[Entry] = ()
    note: str = ""


def line_chart(
    title: str, lines: Sequence[Line], label: str, note: str = "", entries: Mapping[str, Entry] | None = None
) -> Chart:
    """Draw lines over the epochs.

    The vertical axis is logarithmic if positive values span more than a factor of 30.

    Args:
        title: Title of the chart.
        lines: The lines.
        label: Label of the vertical axis.
        note: How to read the chart.
        entries: Colors and dashes by the names of lines, if several charts share them.

    Example:
        >>> chart = line_chart("Loss", [Line("run", [1, 2], [0.5, None])], "loss")
        >>> chart.svg.startswith("<svg"), chart.legend
        (True, ())
    """
    entries = entries or legend_of(line.name for line in lines)
    shown = [entries[name] for name in dict.fromkeys(line.name for line in lines)]
    with mpl.rc_context(_STYLE):
        figure = _figure()
        _draw_lines(figure.subplots(), lines, label, entries)
        svg = to_svg(figure, f"{title}: {label} over the epochs")
    return Chart(title, svg, tuple(shown) if len(entries) > 1 else (), note)


def _figure() -> Figure:
    """Return a figure with fixed margins: a layout that measures texts takes most of the time of a page."""
    figure = Figure(figsize=_SIZE)
    figure.subplots_adjust(left=0.155, right=0.985, bottom=0.165, top=0.96)
    return figure


def _draw_lines(panel: Any, lines: Sequence[Line], label: str, entries: Mapping[str, Entry]) -> None:
    for line in lines:
        entry = entries[line.name]
        style: dict[str, Any] = {"color": COLORS[entry.color], "linestyle": _DASHES[entry.dash]}
        style |= {"linewidth": 0.9, "alpha": 0.75, "linestyle": (0, (4, 2))} if line.faint else {}
        style |= {"marker": "o", "markersize": 3} if len(line.x) < 16 and not line.faint else {}
        panel.plot(line.x, [np.nan if value is None else value for value in line.y], **style)
    values = [value for line in lines for value in line.y if value is not None and np.isfinite(value)]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        panel.set_yscale("log")
    elif values and min(values) == max(values):
        panel.set_ylim(0, 2 * values[0] or 1)
    epochs = [epoch for line in lines for epoch in line.x]
    if epochs and min(epochs) == max(epochs):
        panel.set_xlim(0, max(epochs) + 1)
    panel.set_ylabel(label)
    panel.set_xlabel("epoch")
    panel.grid(True)
    panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def legend_of(names: Any) -> dict[str, Entry]:
    """Return a legend entry for each different name: colors first, then dashes."""
    styles = itertools.cycle(itertools.product(range(len(_DASHES)), range(len(COLORS))))
    return {name: Entry(name, color, dash) for name, (dash, color) in zip(dict.fromkeys(names), styles, strict=False)}


def scales_chart(scales: Sequence[float]) -> Chart:
    """Draw α of each filter of a layer as bars."""
    with mpl.rc_context(_STYLE):
        figure = _figure()
        panel = figure.subplots()
        panel.bar(range(len(scales)), scales, width=0.8, color=COLORS[0])
        panel.set_xlim(-0.6, len(scales) - 0.4)
        panel.set_xlabel("filter")
        panel.set_ylabel("α")
        panel.grid(True, axis="y")
        svg = to_svg(figure, "α of each filter")
    return Chart("α per filter", svg, note="The magnitude of the weights of each filter.")


def intervals_chart(comparison: Comparison) -> Chart:
    """Draw the accuracies of groups: a point per seed, the mean, and its confidence interval."""
    groups = [group for group in comparison.groups if group.last]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], 0.9 + 0.36 * len(groups)), layout="constrained")
        panel = figure.subplots()
        for row, group in enumerate(groups):
            result = group.last
            assert result is not None
            color = COLORS[row % len(COLORS)]
            panel.plot(result.values, [row] * len(result.values), "o", markersize=4, color=color, alpha=0.45)
            panel.plot([result.mean], [row], "D", markersize=6, color=color)
            if result.interval:
                panel.hlines(row, result.interval.low, result.interval.high, color=color, linewidth=1.5)
        panel.set_yticks(range(len(groups)), [_shortened(_escape_math(group.name)) for group in groups])
        panel.set_ylim(len(groups) - 0.5, -0.5)
        panel.set_xlabel("top-1 in %")
        panel.grid(True, axis="x")
        svg = to_svg(figure, "top-1 accuracy of each group")
    return Chart(
        "Accuracy of each group",
        svg,
        note="After the last epoch. Dots are seeds, a diamond is their mean, a line its 95 % confidence interval.",
    )


def _shortened(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _escape_math(text: str) -> str:
    r"""Return a text in which Matplotlib finds no formula between two "$".

    >>> print(_escape_math("a$b$"))
    a\$b\$
    """
    return text.replace("$", r"\$")


def to_svg(figure: Figure, description: str) -> str:
    """Return a figure as an SVG element for a page.

    Colors become variables of the page, identifiers of groups are removed, and the element gets a description for
    screen readers.

    Args:
        figure: The figure.
        description: What it shows, without characters that need to be escaped.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"\s(width|height)=\"[\d.]+pt\"", "", text, count=2)
    for number, color in enumerate(COLORS):
        text = text.replace(color, f"var(--series-{number})")
    text = text.replace(_INK, "currentColor")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1).strip()


def run_charts(runs: Sequence[RunFacts], names: Mapping[str, str]) -> list[Chart]:
    """Return the charts of what runs have in common: accuracy, loss, scheduled hyper-parameters, flip ratio.

    Args:
        runs: The runs.
        names: Name of the line of each run, by the name of the run: that of its group.
    """
    runs = [run for run in runs if run.curves]
    on = " and ".join(dict.fromkeys(run.best_chosen_on for run in runs))
    note = f"Lines: {on} images. Dashed and thin: training images."
    entries = legend_of(names[run.name] for run in runs)
    charts = [
        line_chart(title, lines, label, note, entries)
        for title, label, lines in _accuracy_and_loss(runs, names)
        if lines
    ]
    for key, (title, label) in SCHEDULED.items():
        lines = [Line(names[run.name], _epochs(run), run.curves[key]) for run in runs if key in run.curves]
        if lines:
            charts.append(line_chart(title, lines, label, entries=entries))
    return charts


def _accuracy_and_loss(runs: Sequence[RunFacts], names: Mapping[str, str]) -> Iterator[tuple[str, str, list[Line]]]:
    """Yield title, label and lines of the charts of accuracy and loss, on training images and on others."""
    for title, label, training, other in (
        ("Accuracy", "top-1 in %", "top1", "val_top1"),
        ("Loss", "loss", "loss", "val_loss"),
    ):
        lines = [
            Line(names[run.name], _epochs(run), run.curves[key], faint=key == training)
            for run in runs
            for key in (training, other)
            if key in run.curves
        ]
        yield title, label, lines


# Hyper-parameters and other values of metrics.jsonl, with title and label of the axis.
SCHEDULED = {
    "learning_rate": ("Learning rate", "learning rate"),
    "gamma": ("Bop's γ", "γ"),
    "threshold": ("Bop's threshold", "threshold"),
    "t": ("IR-Net's t", "t"),
    "k": ("IR-Net's k", "k"),
    "tau": ("ReCU's τ", "τ"),
    "flip_ratio": ("Flip ratio of all binary weights", "flip ratio"),
}

# Measures of layers, with title, label of the axis and how to read them.
MEASURES = {
    "flip_ratio": ("Flip ratio", "flip ratio", "Share of weights whose sign changed in the epoch."),
    "saturated_inputs": ("Saturated inputs", "share", "Share of inputs where the estimator passes no gradient."),
    "constant_inputs": ("Constant inputs", "share", "Share of input channels with one sign in all images."),
    "positive_weights": ("Positive weights", "share", "Share of weights with the sign +1."),
    "clipped_weights": ("Weights at the clip", "share", "Share of latent weights at the limit of their constraint."),
    "gradient_norm": ("Gradient norm", "norm", "Norm of the gradient of the layer's kernels."),
    "batch_norm_shift": (
        "Shift of batch norms",
        "deviations",
        "Distance of the moving means from those of a batch, in standard deviations.",
    ),
}


def layer_charts(run: RunFacts) -> list[Chart]:
    """Return a chart of each measure of layers, with a line per layer."""
    measured = run.per_layer
    return [
        line_chart(
            title,
            [Line(layer, *_measured(_epochs(run), values)) for layer, values in measured[measure].items()],
            label,
            note,
        )
        for measure, (title, label, note) in MEASURES.items()
        if measure in measured
    ]


def _epochs(run: RunFacts) -> list[float]:
    return [epoch or 0 for epoch in run.curves["epoch"]]


def _measured(epochs: Sequence[float], values: Values) -> tuple[list[float], list[float]]:
    """Return the epochs that have a value, and the values: probes do not run in each epoch."""
    pairs = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def write_png(runs: Sequence[RunFacts], names: Mapping[str, str], file: str | Path) -> None:
    """Write accuracy and loss of runs as one PNG picture with a legend.

    Raises:
        BnnError: The file cannot be written.
    """
    runs = [run for run in runs if run.curves]
    entries = legend_of(names[run.name] for run in runs)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, (_, label, lines) in zip(panels, _accuracy_and_loss(runs, names), strict=True):
        _draw_lines(panel, lines, label, entries)
    handles = [
        Line2D([], [], color=COLORS[entry.color], linestyle=_DASHES[entry.dash], label=_escape_math(entry.name))
        for entry in entries.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    with replacing(Path(file)) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
