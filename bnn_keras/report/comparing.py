"""Compare runs: group them by their settings, and test whether groups differ by more than their seeds do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from bnn_keras.report.facts import RunFacts, collect_all
from bnn_keras.report.intervals import CONFIDENCE, Difference, Estimate, difference, estimate, holm

_MAX_LABEL_KEYS = 3
_ABSENT = "–"


class Group(pydantic.BaseModel):
    """Runs that differ by their seeds only.

    Attributes:
        name: What distinguishes it from the other groups.
        runs: Names of the runs.
        seeds: Their seeds.
        unfinished: Names of the runs that do not count yet, because they are not finished.
        last: Top-1 accuracies after the last epoch, in percent, of the finished runs; None if there are none.
        best: Those of the best epoch.
        seconds: Mean training time of the finished runs.
    """

    name: str
    runs: list[str]
    seeds: list[int]
    unfinished: list[str] = []
    last: Estimate | None = None
    best: Estimate | None = None
    seconds: float | None = None


class GroupDifference(pydantic.BaseModel):
    """The difference of a group from the first one, in percentage points.

    Attributes:
        group: Name of the group.
        baseline: Name of the first group.
        difference: Difference of the top-1 accuracies after the last epoch, with a t test; None if there is none.
        adjusted_p: The p value of the test, adjusted by Holm's method for the number of tests; None without a test.
        larger_than_spread: Whether the difference is larger than the spread of the seeds explains, with an adjusted p
            below 0.05; None without a test.
        verdict: The same in words.
    """

    group: str
    baseline: str
    difference: Difference | None = None
    adjusted_p: float | None = None
    larger_than_spread: bool | None = None
    verdict: str


class Comparison(pydantic.BaseModel):
    """Differences between groups of runs.

    Attributes:
        settings: The settings that differ, by key, with a value per group; None where a group has no such key.
        groups: The groups, in the order of their first runs.
        differences: The differences of all other groups from the first one.
    """

    settings: dict[str, list[Any]]
    groups: list[Group]
    differences: list[GroupDifference]


def compare(directories: Sequence[str | Path]) -> Comparison:
    """Compare runs by their settings and results. Reads the run directories only.

    Args:
        directories: Run directories. Unfinished runs are listed and do not count.

    Raises:
        BnnError: As `facts.collect_all`.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.report import compare
        >>> try:
        ...     compare(["runs/none"])
        ... except bnn_keras.BnnError as error:
        ...     print(error)
        no run in 'runs/none' (it has no experiment.toml); give the folder that `bnnk train` wrote
    """
    return compare_facts(collect_all(directories, inspect=False))


def compare_facts(facts: Sequence[RunFacts]) -> Comparison:
    """Compare runs by their facts."""
    members: dict[str, list[RunFacts]] = {}
    for run in facts:
        members.setdefault(json.dumps(run.settings, sort_keys=True, default=str), []).append(run)
    together = list(members.values())
    settings = _different_settings([runs[0] for runs in together])
    names = _names([runs[0] for runs in together], settings)
    groups = [_group(name, runs) for name, runs in zip(names, together, strict=True)]
    return Comparison(settings=settings, groups=groups, differences=_differences(groups, together))


def _different_settings(firsts: Sequence[RunFacts]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for run in firsts for key in run.settings)
    values = {key: [run.settings.get(key) for run in firsts] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _names(firsts: Sequence[RunFacts], settings: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return a name for each group: the choices that differ, then other settings while names are equal."""
    chosen = [key for key in firsts[0].chosen if len({run.chosen[key] for run in firsts}) > 1]
    words = [[run.chosen[key] for key in chosen] for run in firsts]
    if len(firsts) == 1:
        return [" ".join(firsts[0].chosen[key] for key in ("network", "scheme", "bits", "optimizer"))]
    for key, row in list(settings.items()):
        same = [words.count(word) > 1 for word in words]
        if not any(same) or key in ("network.name", "data.name", "scheme.name", "scheme.bits"):
            continue
        if len({str(value) for value, twice in zip(row, same, strict=True) if twice}) > 1:
            for word, value, twice in zip(words, row, same, strict=True):
                if twice and len(word) < len(chosen) + _MAX_LABEL_KEYS:
                    word.append(f"{'.'.join(key.split('.')[-2:])}={_ABSENT if value is None else value}")
    names = [" ".join(word) for word in words]
    return [name if names.count(name) == 1 else f"{name} #{number}" for number, name in enumerate(names, start=1)]


def _group(name: str, facts: Sequence[RunFacts]) -> Group:
    finished = [run for run in facts if run.status == "finished"]
    last = [run.last.top1 for run in finished if run.last]
    best = [run.best.top1 for run in finished if run.best]
    return Group(
        name=name,
        runs=[run.name for run in facts],
        seeds=[run.seed for run in facts],
        unfinished=[run.name for run in facts if run.status != "finished"],
        last=estimate(last) if last else None,
        best=estimate(best) if len(best) == len(finished) > 0 else None,
        seconds=sum(run.seconds for run in finished) / len(finished) if finished else None,
    )


def _differences(groups: Sequence[Group], together: Sequence[Sequence[RunFacts]]) -> list[GroupDifference]:
    baseline, *others = (_accuracies_by_seed(runs) for runs in together)
    found = [
        difference(values, baseline) if _comparable(runs, together[0]) and values and baseline else None
        for values, runs in zip(others, together[1:], strict=True)
    ]
    tested = [result for result in found if result and result.p is not None]
    adjusted = dict(zip(map(id, tested), holm([result.p or 0.0 for result in tested]), strict=True))
    rows = []
    for group, runs, result in zip(groups[1:], together[1:], found, strict=True):
        p = adjusted.get(id(result))
        larger = None if p is None else p < 1 - CONFIDENCE
        rows.append(
            GroupDifference(
                group=group.name,
                baseline=groups[0].name,
                difference=result,
                adjusted_p=p,
                larger_than_spread=larger,
                verdict=_verdict(larger, result, _comparable(runs, together[0])),
            )
        )
    return rows


def _comparable(runs: Sequence[RunFacts], others: Sequence[RunFacts]) -> bool:
    """Return whether accuracies of two groups are of the same test images, as far as the runs record them."""
    one, other = (
        [group[0].chosen["dataset"], *(group[0].dataset.get(key) for key in ("version", "test_examples"))]
        for group in (runs, others)
    )
    return one == other


def _accuracies_by_seed(runs: Sequence[RunFacts]) -> dict[int, list[float]]:
    values: dict[int, list[float]] = {}
    for run in runs:
        if run.status == "finished" and run.last:
            values.setdefault(run.seed, []).append(run.last.top1)
    return values


def _verdict(larger: bool | None, result: Difference | None, comparable: bool) -> str:
    if not comparable:
        return "not compared: other test images"
    if result is None:
        return "not compared: no finished run"
    if larger is None:
        return "unknown: one seed does not show the spread"
    return "larger than the spread of the seeds" if larger else "within the spread of the seeds"
