"""Every rule of `bnnk doctor RUN`, on written metrics."""

import json
import math

import pytest
from helpers import error_line, run_bnnk

from bnn_keras import resolve
from bnn_keras.runs import EXPERIMENT, METRICS, Run
from bnn_keras.symptoms import LATENT_FREE, RULES, find_symptoms

BASE = {"stage": 0, "first": False, "val_top1": 90.0, "val_top5": 99.0, "seconds": 1.0, "images_per_second": 1.0}
EPOCHS = 20


def write_run(folder, values, optimizer=None, epochs=EPOCHS):
    """Write a run in which epoch i has `values(i)`."""
    folder.mkdir(exist_ok=True)
    experiment = resolve("lenet5", dataset="fake", epochs=epochs, optimizer=optimizer).experiment
    (folder / EXPERIMENT).write_text(experiment.to_toml())
    rows = [{**BASE, "epoch": epoch, "step": epoch, **values(epoch)} for epoch in range(1, epochs + 1)]
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule(tmp_path, rule):
    """It holds if the last measurements that count are beyond the threshold, and not at it."""
    beyond, limit = (2 * rule.above, rule.above) if rule.above < math.inf else (rule.below / 2, rule.below)
    last = int(rule.until * EPOCHS)
    optimizer = "bop" if LATENT_FREE in rule.requires else None
    facts = {"t": 1.0} if "t" in rule.requires else {}

    def run(begin):
        """A run whose measure is beyond the threshold from an epoch on, and harmless where it does not count."""
        beyond_in = range(begin, last + 1)
        return write_run(
            tmp_path / "run",
            lambda epoch: {
                f"{rule.measure}/one": beyond if epoch in beyond_in else limit,
                f"{rule.measure}/two": limit,
                **facts,
            },
            optimizer,
        )

    (symptom,) = [each for each in find_symptoms(run(last - rule.epochs + 1)) if each.rule == rule]
    assert dict(symptom.values) == {"one": beyond}
    assert str(symptom) == f"{rule.name}: one ({beyond:.3g}) {rule.finding}"
    assert not [each for each in find_symptoms(run(last + 1)) if each.rule == rule]


def test_facts_that_exclude_a_rule(tmp_path):
    measured = {"saturated_inputs/a": 0.95, "flip_ratio/a": 0.2}
    run = write_run(tmp_path / "latent", lambda epoch: measured)
    assert [symptom.rule.name for symptom in find_symptoms(run)] == ["saturated inputs", "flips never settle"]
    run = write_run(tmp_path / "bop", lambda epoch: {**measured, "t": 1.0}, "bop")
    assert [symptom.rule.name for symptom in find_symptoms(run)] == ["t too steep", "learning rate too high for Bop"]


def test_doctor_of_a_run(tmp_path):
    shares = {"conv1": 0.6, "conv2": 0.9, "conv3": 0.7, "conv4": 0.8}
    measured = {f"constant_inputs/{name}": value for name, value in shares.items()}
    write_run(tmp_path / "run", lambda epoch: {**measured, "gradient_norm/conv1": 1.0})
    result = run_bnnk("doctor", tmp_path / "run")
    assert result.exit_code == 1
    first, advice, source = result.stdout.splitlines()
    assert first.startswith(
        "dead inputs: each of conv2 (0.9), conv4 (0.8), conv3 (0.7) and 1 more has more than half of"
    )
    assert advice.startswith("  What usually helps: put a batch norm")
    assert "arXiv:2003.03488" in source
    (document,) = json.loads(run_bnnk("doctor", tmp_path / "run", "--json").stdout)
    assert (document["symptom"], document["values"]) == ("dead inputs", shares)

    write_run(tmp_path / "healthy", lambda epoch: {"flip_ratio/conv1": 0.01})
    result = run_bnnk("doctor", tmp_path / "healthy")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "Inputs and gradients of the layers are not measured yet: it takes 500 steps of a stage.",
        f"{tmp_path / 'healthy'}: after 20 epochs, nothing looks wrong.",
    ]


def test_runs_that_cannot_be_examined(tmp_path):
    assert "no run in" in error_line("doctor", tmp_path)
    write_run(tmp_path / "run", lambda epoch: {})
    (tmp_path / "run" / METRICS).unlink()
    assert error_line("doctor", tmp_path / "run").endswith("has no finished epoch; train it first")
    assert run_bnnk("doctor", tmp_path / "run", "--data-dir", tmp_path).exit_code == 2
