"""Symptoms of a training: rules that read metrics.jsonl and say what looks wrong, and what usually helps.

A rule is a row of data with its threshold and its source. Needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.runs import Run

LATENT_FREE = "latent_free"  # a fact of experiments whose kernels have no latent weights, as with Bop


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a measure is a symptom.

    Attributes:
        name: Name of the symptom.
        measure: The first part of the keys "<measure>/<layer>" of metrics.jsonl.
        finding: What it means: a sentence whose subject is the layers, or the run.
        advice: What usually helps.
        source: The paper that the rule follows from, and where the threshold is from.
        above: The measure is a symptom above this value.
        below: The measure is a symptom below this value.
        epochs: Number of last measurements that all have to be beyond the threshold, on the same side.
        since: Share of the run's epochs before which measurements do not count.
        until: Share of the run's epochs after which they do not count.
        requires: Facts that must hold: keys of metrics.jsonl, or `LATENT_FREE`.
        excludes: Facts that must not hold.
    """

    name: str
    measure: str
    finding: str
    advice: str
    source: str
    above: float = math.inf
    below: float = -math.inf
    epochs: int = 1
    since: float = 0.0
    until: float = 1.0
    requires: frozenset[str] = frozenset()
    excludes: frozenset[str] = frozenset()

    def holds(self, values: Sequence[float]) -> bool:
        """Return whether measurements, in the order of time, are a symptom."""
        last = values[-self.epochs :]
        return len(last) == self.epochs and (min(last) > self.above or max(last) < self.below)

    def distance(self, item: tuple[str, float]) -> float:
        """Return how far the value of a layer is beyond the threshold."""
        _, value = item
        return max(value - self.above, self.below - value)


RULES = (
    Rule(
        "no gradient",
        "gradient_norm",
        "receives no gradient and does not learn",
        "look for the layer behind it whose inputs are saturated; lower the learning rate; start from other weights "
        "(--from, --seed)",
        "Courbariaux et al. 2016, arXiv:1602.02830, eq. 4: saturated inputs pass no gradient; threshold: zero up to "
        "rounding",
        below=1e-12,
    ),
    Rule(
        "dead inputs",
        "constant_inputs",
        "has more than half of its input channels with one sign in all images, so they carry no information",
        "put a batch norm in front of the sign, or learn shifts (--scheme reactnet); lower the learning rate",
        "Liu et al. 2020, arXiv:2003.03488: learnt shifts move inputs to where their signs differ; threshold: ours",
        above=0.5,
    ),
    Rule(
        "saturated inputs",
        "saturated_inputs",
        "has more than 90 % of its inputs where the estimator passes no gradient, so the layers in front hardly learn",
        "put a batch norm in front of the sign; lower the learning rate; use a wider estimator (--scheme irnet)",
        "Courbariaux et al. 2016, arXiv:1602.02830, eq. 4: no gradient beyond ±1, where normal inputs have 32 %; "
        "threshold: ours",
        above=0.9,
        excludes=frozenset({"t"}),
    ),
    Rule(
        "t too steep",
        "saturated_inputs",
        "has more than 90 % of its inputs where the estimator passes no gradient, and a quarter of the epochs to go",
        "raise t later or less: --set scheme.t.final=3, or more --epochs",
        "Qin et al. 2020, arXiv:1909.10788, eq. 10 and 11: with t the window shrinks to |x| < 3 / t; at three quarters "
        "of the paper's schedule t is 3.2, where normal inputs have 34 % outside; threshold: ours",
        above=0.9,
        until=0.75,
        requires=frozenset({"t"}),
    ),
    Rule(
        "flips never settle",
        "flip_ratio",
        "still flips more than 5 % of its weights in each of the last epochs",
        "let the learning rate end near 0, as with the schedule cosine; train for more epochs; lower the weight decay",
        "Helwegen et al. 2019, arXiv:1906.02107: binary weights change by flips only; threshold: ours",
        above=0.05,
        epochs=3,
        since=0.7,
        excludes=frozenset({LATENT_FREE}),
    ),
    Rule(
        "learning rate too high for Bop",
        "flip_ratio",
        "flips more than 10 % of its weights in each of the last epochs: Bop follows the noise of single batches",
        "lower gamma (--set stages.0.optimizer.gamma=…), let it fall by a schedule, or raise the threshold",
        "Helwegen et al. 2019, arXiv:1906.02107, algorithm 1: γ takes the place of the learning rate; threshold: ours",
        above=0.1,
        epochs=3,
        since=0.2,
        requires=frozenset({LATENT_FREE}),
    ),
    Rule(
        "no flips",
        "flip_ratio",
        "has flipped hardly any weight (fewer than 1 in 100,000) in three epochs of the first half",
        "raise the learning rate, or with Bop gamma, or lower its threshold",
        "Helwegen et al. 2019, arXiv:1906.02107: binary weights change by flips only; threshold: ours",
        below=1e-5,
        epochs=3,
        until=0.5,
    ),
    Rule(
        "unbalanced signs",
        "positive_weights",
        "has almost only weights of one sign, with less than half a bit of information each",
        "lower the learning rate or the weight decay; use a scheme that balances kernels (--scheme irnet or recu)",
        "Qin et al. 2020, arXiv:1909.10788: the entropy −p log₂ p − (1 − p) log₂ (1 − p) is below 1/2 for p < 0.11",
        above=0.89,
        below=0.11,
    ),
    Rule(
        "weights at the clip",
        "clipped_weights",
        "has more than 90 % of its latent weights at their clip, which then need many steps to flip",
        "lower the learning rate, or the scheme's gradient_scale",
        "Courbariaux et al. 2016, arXiv:1602.02830, algorithm 1: latent weights are clipped to ±1; threshold: ours",
        above=0.9,
    ),
    Rule(
        "batch norm not settled",
        "batch_norm_shift",
        "has moving means that are more than half a deviation away from those of training images, so evaluation "
        "differs from training",
        "train for more steps, lower the learning rate at the end, or use larger batches",
        "Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2: inference takes the moving statistics for those of the "
        "data; threshold: ours, four times the error of a mean of 64 values",
        above=0.5,
    ),
)


@dataclasses.dataclass(frozen=True)
class Symptom:
    """A rule that holds for a run.

    Attributes:
        rule: The rule.
        values: The last measurement of each layer for which it holds, the worst first.
    """

    rule: Rule
    values: Mapping[str, float]

    def __str__(self) -> str:
        layers = [f"{layer} ({value:.3g})" for layer, value in self.values.items()]
        shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        subject = shown if len(layers) == 1 else f"each of {shown}"
        return f"{self.rule.name}: {subject} {self.rule.finding}"

    def to_document(self) -> dict[str, Any]:
        """Return the symptom as plain values."""
        rule = self.rule
        return {
            "symptom": rule.name,
            "measure": rule.measure,
            "values": dict(self.values),
            "finding": str(self),
            "advice": rule.advice,
            "source": rule.source,
        }


def find_symptoms(run: Run, rules: Sequence[Rule] = RULES) -> list[Symptom]:
    """Return what looks wrong in the stage that a run is in.

    Args:
        run: A run, finished or not.
        rules: The rules to apply.

    Raises:
        BnnError: The run cannot be read, or has no finished epoch.
    """
    rows = run.metrics
    if not rows:
        raise BnnError(f"run {str(run.directory)!r} has no finished epoch; train it first")
    return symptoms_of(rows, run.experiment, rules)


def symptoms_of(
    rows: Sequence[Mapping[str, Any]], experiment: Experiment, rules: Sequence[Rule] = RULES
) -> list[Symptom]:
    """Return what looks wrong in the stage that a training is in.

    Args:
        rows: Rows of metrics.jsonl, at least one.
        experiment: The experiment.
        rules: The rules to apply.
    """
    rows = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    facts = {key for row in rows for key in row} | ({LATENT_FREE} if experiment.latent_free else set())
    symptoms = []
    for rule in rules:
        if rule.requires <= facts and not rule.excludes & facts:
            found = {layer: values[-1] for layer, values in _measurements(rule, rows, experiment) if rule.holds(values)}
            if found:
                symptoms.append(Symptom(rule, dict(sorted(found.items(), key=rule.distance, reverse=True))))
    return symptoms


def has_probes(run: Run) -> bool:
    """Return whether inputs and gradients of the layers of a run were measured."""
    return any(key.startswith("gradient_norm/") for row in run.metrics for key in row)


def _measurements(
    rule: Rule, rows: Sequence[Mapping[str, Any]], experiment: Experiment
) -> Iterator[tuple[str, list[float]]]:
    """Yield the measurements of each layer that count for a rule, in the order of time."""
    stage = int(rows[0]["stage"])
    begin = sum(each.epochs for each in experiment.stages[:stage])
    epochs = experiment.stages[stage].epochs
    counted = [row for row in rows if rule.since < (row["epoch"] - begin) / epochs <= rule.until]
    prefix = f"{rule.measure}/"
    for key in dict.fromkeys(key for row in counted for key in row if key.startswith(prefix)):
        yield key.removeprefix(prefix), [row[key] for row in counted if key in row]
