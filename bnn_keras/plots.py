"""Plots of schedules, metrics of runs, accuracies of sweeps and confusion matrices, drawn without a display."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras import catalog
from bnn_keras.build import build_annealing, build_schedules
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, OptimizerConfig, ScheduleConfig, SchemeConfig, Stage
from bnn_keras.files import replacing
from bnn_keras.runs import Run, short_names
from bnn_keras.schedules import Schedule

FORMATS = ("pdf", "png", "svg")
_LABELS = {
    "learning_rate": "learning rate",
    "gamma": "Bop's γ",
    "threshold": "Bop's threshold",
    "t": "IR-Net's t",
    "k": "IR-Net's k",
    "tau": "ReCU's τ",
    "flip_ratio": "flip ratio",
}
# Panels of `plot_runs` below the errors, in this order: keys of metrics.jsonl.
_METRICS = ("flip_ratio", "learning_rate", "gamma", "threshold", "t", "k", "tau")
# Okabe and Ito's colors, which people with any kind of color vision can tell apart; without yellow, too pale for lines.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MAX_LABELLED_CELLS = 200  # of a heat map; more numbers would overlap
_POINTS_PER_STAGE = 2000
_MAX_NAMED_CLASSES = 60  # in a confusion matrix; more names would overlap
_MAX_NUMBERED_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Curve:
    """A hyper-parameter's values in one stage.

    Attributes:
        epochs: Points in time, in epochs since the training began.
        values: Value at each of these points.
        smooth: Whether the value changes within an epoch. Otherwise there is one point per epoch, and the value is
            constant until the next.
    """

    epochs: np.ndarray
    values: np.ndarray
    smooth: bool


def _curve(schedule: Schedule, begin: int, stage: Stage, origin: int, smooth: bool) -> Curve:
    """Build a stage's curve from a schedule, which is a function of the epochs since `origin`."""
    end = begin + stage.epochs
    # A smooth curve excludes its end, because no step uses the value there.
    number = max(_POINTS_PER_STAGE, 10 * stage.epochs)
    epochs = np.linspace(begin, end, number, endpoint=False) if smooth else np.arange(begin, end, dtype=float)
    return Curve(epochs, np.array([schedule(epoch - origin) for epoch in epochs]), smooth)


def curves(experiment: Experiment) -> dict[str, list[Curve]]:
    """Return the curves of all learning rates and scheduled hyper-parameters, by name, with one curve per stage."""
    curves_by_name: dict[str, list[Curve]] = {}
    begin = 0
    for stage in experiment.stages:
        scheme = experiment.scheme_of(stage)
        derived = catalog.SCHEMES[scheme.name].derived
        # Schedules of the optimizer count epochs from the beginning of the stage, annealing from that of the training.
        groups: list[tuple[dict[str, Schedule], OptimizerConfig | SchemeConfig, int]] = [
            (build_schedules(stage.optimizer, stage.epochs), stage.optimizer, begin),
            (build_annealing(experiment, stage), scheme, 0),
        ]
        for schedules, table, origin in groups:
            for name, schedule in schedules.items():
                value = getattr(table, name)
                config = getattr(scheme, derived[name][0]) if value is None else value
                smooth = isinstance(config, ScheduleConfig) and config.every == "step"
                curves_by_name.setdefault(name, []).append(_curve(schedule, begin, stage, origin, smooth))
        begin += stage.epochs
    return curves_by_name


def picture_format(file: str | Path) -> str:
    """Return the picture format that a file's suffix selects.

    Raises:
        BnnError: The suffix is unknown.

    Example:
        >>> from bnn_keras.plots import picture_format
        >>> picture_format("schedules.PNG")
        'png'
    """
    kind = Path(file).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise BnnError(
            f"cannot draw {str(file)!r}: {unknown('picture format', kind, FORMATS)}; use one of these suffixes"
        )
    return kind


def plot_schedules(experiment: Experiment, file: str | Path) -> None:
    """Plot every scheduled hyper-parameter over the epochs of all stages, with one panel each.

    Args:
        experiment: The experiment.
        file: Path of the image to write; its suffix selects PNG, SVG or PDF.

    Raises:
        BnnError: The suffix is unknown, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import bnn_keras
        >>> from bnn_keras.plots import plot_schedules
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_schedules(bnn_keras.resolve("lenet5").experiment, Path(folder, "schedules.svg"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['schedules.svg']
    """
    from matplotlib.figure import Figure

    kind = picture_format(file)
    curves_by_name = curves(experiment)
    figure = Figure(figsize=(8, 1.2 + 2.0 * len(curves_by_name)), layout="constrained")
    panels = figure.subplots(len(curves_by_name), sharex=True, squeeze=False)[:, 0]
    for panel, (name, stage_curves) in zip(panels, curves_by_name.items(), strict=True):
        _draw(panel, _LABELS.get(name, name), stage_curves, experiment)
    panels[-1].set_xlabel("epoch")
    figure.align_ylabels()
    figure.suptitle(experiment.name)
    _save(figure, file, kind)


def _save(figure: Any, file: str | Path, kind: str) -> None:
    with replacing(Path(file)) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)


def _draw(panel: Any, label: str, stage_curves: list[Curve], experiment: Experiment) -> None:
    for curve in stage_curves:
        if curve.smooth:
            panel.plot(curve.epochs, curve.values, color="C0")
        else:
            panel.stairs(curve.values, [*curve.epochs, curve.epochs[-1] + 1], baseline=None, color="C0", linewidth=1.5)
    if _spans_decades(np.concatenate([curve.values for curve in stage_curves])):
        panel.set_yscale("log")
    boundaries = np.cumsum([stage.epochs for stage in experiment.stages])
    for boundary in boundaries[:-1]:
        panel.axvline(boundary, color="grey", linestyle=":", linewidth=1)
    panel.set_xlim(0, boundaries[-1])
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)


def _spans_decades(values: Any) -> bool:
    """Return whether values are better drawn on a logarithmic axis."""
    return bool(np.min(values) > 0 and np.max(values) > 10 * np.min(values))


def plot_runs(directories: Sequence[str | Path], file: str | Path) -> None:
    """Plot the metrics of runs over their epochs: errors in training (dashed) and test, and what else the runs have.

    The panels are the error 100 % − top-1 and those of flip ratio, learning rate, γ, threshold, t, k and τ that a run
    has. The test error is that of the validation images if some are held out.

    Args:
        directories: Run directories, finished or not.
        file: Path of the image to write; its suffix selects PNG, SVG or PDF.

    Raises:
        BnnError: There is no run, a directory holds none, a run has no finished epoch, the suffix is unknown, or the
            file cannot be written.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.plots import plot_runs
        >>> try:
        ...     plot_runs([], "curves.png")
        ... except bnn_keras.BnnError as error:
        ...     print(error)
        no run to plot; give one or more folders that `bnnk train` wrote
    """
    from matplotlib.figure import Figure

    kind = picture_format(file)
    rows_by_name = _metrics_of(directories)
    present = {key for rows in rows_by_name.values() for row in rows for key in row}
    names = [name for name in _METRICS if name in present]
    figure = Figure(figsize=(8, 3.4 + 1.8 * len(names)), layout="constrained")
    heights = [2.0, *[1.0] * len(names)]
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    styles = zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS), strict=False)
    for (name, rows), (color, marker) in zip(rows_by_name.items(), styles, strict=False):
        epochs = [row["epoch"] for row in rows]
        line = {"color": color, "marker": marker, "markersize": 3, "markevery": max(1, len(rows) // 20)}
        panels[0].plot(
            epochs, [100 - row["top1"] for row in rows], linestyle="--", linewidth=1, markerfacecolor="none", **line
        )
        panels[0].plot(epochs, [100 - row["val_top1"] for row in rows], label=name, **line)
        for panel, key in zip(panels[1:], names, strict=True):
            panel.plot(epochs, [row.get(key, np.nan) for row in rows], **line)
    panels[0].set_ylabel("error in %\n(training dashed)")
    panels[0].legend(fontsize=8)
    for panel, key in zip(panels[1:], names, strict=True):
        panel.set_ylabel(_LABELS.get(key, key))
        if _spans_decades([row[key] for rows in rows_by_name.values() for row in rows if key in row]):
            panel.set_yscale("log")
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panels[-1].set_xlabel("epoch")
    figure.align_ylabels()
    _save(figure, file, kind)


def _metrics_of(directories: Sequence[str | Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of runs by name: the name of the folder, or its path if two have the same."""
    if not directories:
        raise BnnError("no run to plot; give one or more folders that `bnnk train` wrote")
    rows_by_name = {}
    for name, directory in zip(short_names(directories), directories, strict=True):
        rows = Run.read(directory).metrics
        if not rows:
            raise BnnError(f"run {str(directory)!r} has no finished epoch; train it first, or leave it out")
        rows_by_name[name] = rows
    return rows_by_name


def plot_accuracies(
    points: Sequence[tuple[Any, ...]],
    accuracies: Sequence[float],
    keys: Sequence[str],
    file: str | Path,
    *,
    grid: bool = True,
    title: str = "",
    label: str = "top-1 in %",
) -> None:
    """Plot accuracies over one key, or over two, where points with equal values are averaged.

    Args:
        points: Values of the keys, for each accuracy.
        accuracies: Accuracies in percent.
        keys: Names of one or two keys.
        file: Path of the image to write; its suffix selects PNG, SVG or PDF.
        grid: Whether the points of two keys form a grid, drawn as a heat map. Otherwise they are drawn as points.
        title: Title of the plot.
        label: What the accuracies are.

    Raises:
        BnnError: The suffix is unknown, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from bnn_keras.plots import plot_accuracies
        >>> points = [(1e-6, 1e-3), (1e-6, 1e-4), (1e-5, 1e-3), (1e-5, 1e-4)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_accuracies(points, [80, 85, 70, 75], ["threshold", "gamma"], Path(folder, "sweep.svg"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['sweep.svg']
    """
    from matplotlib.figure import Figure

    kind = picture_format(file)
    groups: dict[tuple[Any, ...], list[float]] = {}
    for point, accuracy in zip(points, accuracies, strict=True):
        groups.setdefault(tuple(_hashable(value) for value in point), []).append(accuracy)
    means = {point: float(np.mean(values)) for point, values in groups.items()}
    figure = Figure(figsize=(7, 5), layout="constrained")
    panel = figure.subplots()
    if len(keys) == 2 and grid:
        image = _draw_heat_map(panel, means)
        figure.colorbar(image, label=label)
    else:
        scales = [_axis(panel, axis, [point[index] for point in means]) for index, axis in enumerate("xy"[: len(keys)])]
        places = [[scale(point[index]) for point in means] for index, scale in enumerate(scales)]
        if len(keys) == 2:
            colors: Any = list(means.values())
            drawn = panel.scatter(places[0], places[1], c=colors, cmap="cividis", edgecolors="black", linewidths=0.5)
            figure.colorbar(drawn, label=label)
        else:
            order = np.argsort(places[0])
            panel.plot(np.array(places[0])[order], np.array(list(means.values()))[order], color=_COLORS[0], marker="o")
            singles = [(scales[0](point[0]), value) for point, values in groups.items() for value in values]
            panel.plot(*zip(*singles, strict=True), ".", color="grey", alpha=0.6)
            panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    named = [_LABELS.get(key.split(".")[-1], key) for key in keys]
    panel.set_xlabel(named[-1] if grid else named[0])
    if len(keys) == 2:
        panel.set_ylabel(named[0] if grid else named[1])
    panel.set_title(title, fontsize=9)
    _save(figure, file, kind)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Return the different values: numbers by size, others in the order they come."""
    different = list(dict.fromkeys(values))
    return sorted(different) if all(map(_is_number, different)) else different


def _axis(panel: Any, axis: str, values: list[Any]) -> Callable[[Any], float]:
    """Set up an axis for values, and return the function from a value to its place on the axis."""
    if all(map(_is_number, values)):
        if _spans_decades(values):
            getattr(panel, f"set_{axis}scale")("log")
        return float
    different = _ordered(values)
    getattr(panel, f"set_{axis}ticks")(range(len(different)), [str(value) for value in different])
    return different.index


def _draw_heat_map(panel: Any, means: Mapping[tuple[Any, ...], float]) -> Any:
    """Draw the first key from top to bottom and the second from left to right; combinations without value are blank."""
    rows, columns = (_ordered(point[index] for point in means) for index in (0, 1))
    table = np.array([[means.get((row, column), np.nan) for column in columns] for row in rows])
    image = panel.imshow(table, cmap="cividis", aspect="auto")
    for ticks, values in ((panel.set_yticks, rows), (panel.set_xticks, columns)):
        ticks(range(len(values)), [f"{value:g}" if _is_number(value) else str(value) for value in values])
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (row, column), value in np.ndenumerate(table) if table.size <= _MAX_LABELLED_CELLS else ():
        if not np.isnan(value):
            color = "white" if value < middle else "black"
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    return image


def plot_confusion(matrix: np.ndarray, labels: list[str], file: str | Path, title: str = "") -> None:
    """Plot a confusion matrix. Colors are shares of each row; numbers of images are written in small matrices.

    Args:
        matrix: Numbers of images, (classes, predicted classes).
        labels: Names of the classes.
        file: Path of the image to write; its suffix selects PNG, SVG or PDF.
        title: Title of the plot.

    Raises:
        BnnError: The suffix is unknown, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from bnn_keras.plots import plot_confusion
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_confusion(np.array([[8, 2], [1, 9]]), ["cat", "dog"], Path(folder, "confusion.svg"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['confusion.svg']
    """
    from matplotlib.figure import Figure

    kind = picture_format(file)
    classes = len(labels)
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.45 * classes, 5, 16))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="share of the class in %", shrink=0.8)
    if classes <= _MAX_NAMED_CLASSES:
        panel.set_xticks(range(classes), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
        panel.set_yticks(range(classes), labels)
    if classes <= _MAX_NUMBERED_CLASSES:
        for (row, column), images in np.ndenumerate(matrix):
            color = "white" if shares[row, column] > 50 else "black"
            panel.text(column, row, str(images), ha="center", va="center", color=color, fontsize=8)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("class")
    figure.suptitle(title)
    _save(figure, file, kind)
