"""Pictures of an experiment, drawn without a display."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bnn_keras.build import build_annealing, build_schedules
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import Experiment, ScheduleConfig, Stage
from bnn_keras.files import replacing
from bnn_keras.schedules import Schedule as Function

FORMATS = ("pdf", "png", "svg")
_LABELS = {
    "learning_rate": "learning rate",
    "gamma": "Bop's γ",
    "threshold": "Bop's threshold",
    "t": "IR-Net's t",
    "k": "IR-Net's k",
}
_PLACES_PER_STAGE = 2000


@dataclasses.dataclass(frozen=True)
class Curve:
    """A hyper-parameter in one stage: values at the epochs since the training began.

    `smooth` where it changes within an epoch; else it has one value for each epoch, and stands still to the end of it.
    """

    epochs: np.ndarray
    values: np.ndarray
    smooth: bool


def _curve(function: Function, begin: int, stage: Stage, origin: int, smooth: bool) -> Curve:
    """A stage's curve, of a function of the epochs since `origin`."""
    end = begin + stage.epochs
    # A smooth curve ends right before the end: what the function has there, no step sees.
    number = max(_PLACES_PER_STAGE, 10 * stage.epochs)
    places = np.linspace(begin, end, number, endpoint=False) if smooth else np.arange(begin, end, dtype=float)
    return Curve(places, np.array([function(place - origin) for place in places]), smooth)


def curves(experiment: Experiment) -> dict[str, list[Curve]]:
    """Every hyper-parameter that has a schedule in some stage, and every learning rate, as one curve for each stage."""
    found: dict[str, list[Curve]] = {}
    begin = 0
    for stage in experiment.stages:
        scheme = experiment.scheme_of(stage)
        groups = [
            (build_schedules(stage.optimizer, stage.epochs), stage.optimizer, begin),
            (build_annealing(experiment, stage), scheme, 0),
        ]
        for functions, table, origin in groups:
            for name, function in functions.items():
                value = getattr(table, name)
                source = scheme.t if name == "k" and value is None else value
                smooth = isinstance(source, ScheduleConfig) and source.every == "step"
                found.setdefault(name, []).append(_curve(function, begin, stage, origin, smooth))
        begin += stage.epochs
    return found


def plot_schedules(experiment: Experiment, file: str | Path) -> None:
    """Draws every scheduled hyper-parameter over the epochs of all stages, one panel each.

    Args:
        experiment: What is drawn.
        file: Where to: a PNG, SVG or PDF by its suffix.

    Raises:
        BnnError: Another suffix, or a place that cannot be written.
    """
    from matplotlib.figure import Figure

    file = Path(file)
    kind = file.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise BnnError(f"cannot draw {str(file)!r}: {unknown('picture format', kind, FORMATS)}; give it such a suffix")
    drawn = curves(experiment)
    figure = Figure(figsize=(8, 1.2 + 2.0 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for panel, (name, parts) in zip(panels, drawn.items(), strict=True):
        _draw(panel, _LABELS.get(name, name), parts, experiment)
    panels[-1].set_xlabel("epoch")
    figure.align_ylabels()
    figure.suptitle(experiment.name)
    with replacing(file) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)


def _draw(panel: Any, label: str, parts: list[Curve], experiment: Experiment) -> None:
    for part in parts:
        if part.smooth:
            panel.plot(part.epochs, part.values, color="C0")
        else:
            panel.stairs(part.values, [*part.epochs, part.epochs[-1] + 1], baseline=None, color="C0", linewidth=1.5)
    values = np.concatenate([part.values for part in parts])
    if values.min() > 0 and values.max() > 10 * values.min():
        panel.set_yscale("log")
    boundaries = np.cumsum([stage.epochs for stage in experiment.stages])
    for boundary in boundaries[:-1]:
        panel.axvline(boundary, color="grey", linestyle=":", linewidth=1)
    panel.set_xlim(0, boundaries[-1])
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
