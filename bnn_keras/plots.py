"""Plots of schedules and of confusion matrices, drawn without a display."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras import catalog
from bnn_keras.build import build_annealing, build_schedules
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, OptimizerConfig, ScheduleConfig, SchemeConfig, Stage
from bnn_keras.files import replacing
from bnn_keras.schedules import Schedule

FORMATS = ("pdf", "png", "svg")
_LABELS = {
    "learning_rate": "learning rate",
    "gamma": "Bop's γ",
    "threshold": "Bop's threshold",
    "t": "IR-Net's t",
    "k": "IR-Net's k",
}
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
    with replacing(Path(file)) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)


def _draw(panel: Any, label: str, stage_curves: list[Curve], experiment: Experiment) -> None:
    for curve in stage_curves:
        if curve.smooth:
            panel.plot(curve.epochs, curve.values, color="C0")
        else:
            panel.stairs(curve.values, [*curve.epochs, curve.epochs[-1] + 1], baseline=None, color="C0", linewidth=1.5)
    values = np.concatenate([curve.values for curve in stage_curves])
    if values.min() > 0 and values.max() > 10 * values.min():
        panel.set_yscale("log")
    boundaries = np.cumsum([stage.epochs for stage in experiment.stages])
    for boundary in boundaries[:-1]:
        panel.axvline(boundary, color="grey", linestyle=":", linewidth=1)
    panel.set_xlim(0, boundaries[-1])
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)


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
    with replacing(Path(file)) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)
