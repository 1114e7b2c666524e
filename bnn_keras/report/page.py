"""Render a report as one HTML page, which needs no network and has no script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bnn_keras.report import pictures
from bnn_keras.report.document import Report
from bnn_keras.text import printable

_HERE = Path(__file__).parent
MAX_NUMBERED_CLASSES = 20  # of a confusion matrix with numbers in its cells


def render(report: Report, refresh: int | None = None) -> str:
    """Return a report as an HTML page.

    All texts are escaped. The page forbids itself to load anything (Content-Security-Policy): pictures are inline.

    Args:
        report: The report.
        refresh: Seconds after which a browser loads the page again; None for never.
    """
    groups = report.groups
    single = len(report.runs) == 1
    lines = {name: name for name in groups} if len(report.comparison.groups) == 1 else groups
    page = (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            groups=groups,
            single=single,
            title=_title(report),
            refresh=refresh,
            curves=pictures.run_charts(report.runs, lines),
            intervals=pictures.intervals_chart(report.comparison) if _has_spread(report) else None,
            layers={run.name: pictures.layer_charts(run) for run in report.runs},
            scales={
                run.name: pictures.scales_chart(run.kernels.scales[: run.kernels.filters])
                for run in report.runs
                if run.kernels and len(run.kernels.scales) > 1
            },
            max_numbered=MAX_NUMBERED_CLASSES,
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        )
    )
    return page.strip() + "\n"


def _title(report: Report) -> str:
    if len(report.runs) == 1:
        chosen = report.runs[0].chosen
        return f"{chosen['network']} on {chosen['dataset']}"
    networks = ", ".join(dict.fromkeys(run.chosen["network"] for run in report.runs))
    datasets = ", ".join(dict.fromkeys(run.chosen["dataset"] for run in report.runs))
    return f"{len(report.runs)} runs: {networks} on {datasets}"


def _has_spread(report: Report) -> bool:
    return len(report.runs) > 1 and any(group.last for group in report.comparison.groups)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number,
        size=_size,
        duration=_duration,
        value=_value,
        decimals=_decimals,
        safe_svg=Markup,
        p=_probability,
    )
    return environment


def _shown(value: Any) -> Any:
    """Return a value for the page: – for None, and texts without control characters."""
    if value is None:
        return "–"
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _decimals(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _probability(value: float | None) -> str:
    """Format a p value."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _size(value: float | None) -> str:
    """Format a number of bytes with a decimal prefix.

    >>> _size(80_925), _size(1_725_600)
    ('80.9 kB', '1.73 MB')
    """
    if value is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def _duration(seconds: float | None) -> str:
    """Format a duration.

    >>> _duration(8), _duration(130), _duration(7500)
    ('8 s', '2 min 10 s', '2 h 5 min')
    """
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _value(value: Any) -> str:
    """Format the value of a setting."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, default=str)
