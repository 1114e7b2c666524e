"""Build optimizers, schedules and schemes from TOML tables, and verify the errors of invalid tables."""

import dataclasses
import math
import re
import sys

import larq
import numpy as np
import pytest
import tensorflow as tf
import tomli_w
from helpers import ROOT

from bnn_keras import BnnError, catalog, schemes
from bnn_keras.build import build_network, build_optimizer, build_schedule, build_schedules, build_scheme
from bnn_keras.experiment import ExperimentError, parse, resolve
from bnn_keras.schedule_config import SCHEDULES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EPOCHS = 10
ENDS = "initial = 0.1, final = 0.01"
# A schedule in TOML, its value at epoch 0 and its value at epoch 6.5.
SCHEDULES_IN_TOML = [
    ("0.25", 0.25, 0.25),
    ("{schedule = 'step', initial = 0.1, factor = 0.5, period = 3}", 0.1, 0.025),
    ("{schedule = 'multi_step', initial = 0.1, factor = 0.5, boundaries = [2, 6.5]}", 0.1, 0.05),
    ("{schedule = 'multi_step', initial = 0.1, factor = 0.5, boundaries = [2, 6.5], every = 'step'}", 0.1, 0.025),
    ("{schedule = 'exponential', initial = 0.1, factor = 0.5, period = 3}", 0.1, 0.025),
    ("{schedule = 'exponential', initial = 0.1, factor = 0.5, period = 4, staircase = true}", 0.1, 0.05),
    (f"{{schedule = 'geometric', {ENDS}, every = 'step'}}", 0.1, 10**-1.65),
    (f"{{schedule = 'shifted_exponential', {ENDS}}}", 0.1, 0.1 - 0.09 * (math.exp(0.6) - 1) / (math.e - 1)),
    (f"{{schedule = 'linear', {ENDS}}}", 0.1, 0.046),
    (f"{{schedule = 'polynomial', {ENDS}, power = 2}}", 0.1, 0.0244),
    (f"{{schedule = 'cosine', {ENDS}, ahead = 1}}", 0.1 - 0.09 * 0.024471741852423, 0.01 + 0.09 * 0.206107373853763),
    (f"{{schedule = 'cosine_restarts', {ENDS}, restarts = [2, 6], ahead = 1}}", 0.055, 0.1),
    (f"{{schedule = 'linear', {ENDS}, warm_up = {{initial = 0, epochs = 5}}}}", 0.0, 0.046),
]
RATE = "stages.0.optimizer.learning_rate"


def with_rate(rate):
    return resolve("lenet5", epochs=EPOCHS, overrides=[f"{RATE}={rate}"]).experiment


@pytest.mark.parametrize(("rate", "first", "later"), SCHEDULES_IN_TOML)
def test_schedule_from_toml_has_the_expected_values(rate, first, later):
    experiment = with_rate(rate)
    assert parse(experiment.to_toml(), "copy") == experiment
    (stage,) = experiment.stages
    schedule = build_schedule(stage.optimizer.learning_rate, stage.epochs)
    assert [schedule(0), schedule(6.5)] == pytest.approx([first, later], rel=1e-12)
    assert list(build_schedules(stage.optimizer, stage.epochs)) == ["learning_rate"]
    assert float(build_optimizer(stage.optimizer, stage.epochs).learning_rate) == pytest.approx(first, rel=1e-7)


def test_every_schedule_has_a_test_case():
    assert all(any(f"'{name}'" in rate for rate, _, _ in SCHEDULES_IN_TOML) for name in SCHEDULES)


COSINE = f"{{schedule = 'cosine', {ENDS}, warm_up = {{initial = 0, epochs = 5}}}}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            [f"{RATE}={{schedule = 'multi_step', initial = 1, factor = 0.1, boundaries = [2, 2]}}"],
            f"{RATE}.boundaries: got [2, 2]; expected",
        ),
        ([f"{RATE}=0"], f"{RATE}: got 0; expected greater than 0"),
        ([f"{RATE}=true"], f"{RATE}: got True; expected a valid number"),
        ([f"{RATE}=[0.1]"], f"{RATE}: got [0.1]; expected a valid number"),
        ([f"{RATE}={{initial = 1}}"], f"{RATE}.schedule: missing; add it"),
        ([f"{RATE}={{schedule = 3}}"], f"{RATE}.schedule: got 3; expected a valid string"),
        ([f"{RATE}={{schedule = ['cosine']}}"], f"{RATE}.schedule: got ['cosine']; expected a valid string"),
        (
            [f"{RATE}={{schedule = 'cosin', initial = 1, final = 0}}"],
            f"{RATE}.schedule: unknown schedule 'cosin'; did you mean 'cosine'? known: cosine, cosine_restarts, ",
        ),
        ([f"{RATE}={{schedule = 'cosine', initial = 1}}"], f"{RATE}.final: missing; add it"),
        (
            [f"{RATE}={COSINE}", f"{RATE}.finl=3"],
            f"{RATE}.finl: unknown key; did you mean 'final'? known: every, ahead, warm_up, schedule, initial, final",
        ),
        ([f"{RATE}={COSINE}", f"{RATE}.initial=fast"], f"{RATE}.initial: got 'fast'; expected a valid number"),
        ([f"{RATE}={COSINE}", f"{RATE}.every=batch"], f"{RATE}.every: got 'batch'; expected 'epoch' or 'step'"),
        ([f"{RATE}={COSINE}", f"{RATE}.ahead=-1"], f"{RATE}.ahead: got -1; expected greater than or equal to 0"),
        ([f"{RATE}={COSINE}", f"{RATE}.warm_up=5"], f"{RATE}.warm_up: got 5; expected a table"),
        ([f"{RATE}={COSINE}", f"{RATE}.warm_up.epochs=0"], f"{RATE}.warm_up.epochs: got 0; expected greater than 0"),
        (
            [f"{RATE}={COSINE}", f"{RATE}.warm_up.epoch=5"],
            f"{RATE}.warm_up.epoch: unknown key; did you mean 'epochs'? known: initial, epochs",
        ),
        (
            [f"{RATE}={{schedule = 'cosine_restarts', {ENDS}, restarts = [4, 2]}}"],
            f"{RATE}.restarts: got [4, 2]; expected epochs in rising order",
        ),
        (
            [f"{RATE}={{schedule = 'cosine_restarts', {ENDS}, restarts = [0, 2]}}"],
            f"{RATE}.restarts.0: got 0; expected greater than 0",
        ),
        (
            ["stages.0.optimizer.clip_norm=0"],
            "stages.0.optimizer.clip_norm: got 0; expected greater than 0",
        ),
        (
            ["stages.0.optimizer.weight_decay_of=biases"],
            "stages.0.optimizer.weight_decay_of: got 'biases'; expected 'everything', 'kernels', or a list of "
            "patterns of names such as '*/kernel:0'",
        ),
        (["stages.0.label_smoothing=1"], "stages.0.label_smoothing: got 1; expected less than 1"),
        (
            ["stages.0.trains=batch_norm"],
            "stages.0.trains: got 'batch_norm'; this key is obsolete; to freeze weights, give them",
        ),
        (["stages.0.distillation.weight=0.5"], "stages.0.distillation.teacher: missing; add it"),
        (
            ["stages.0.distillation={teacher = 'x', temperature = 0}"],
            "stages.0.distillation.temperature: got 0; expected greater than 0",
        ),
        (
            ["stages.0.scheme={name = 'irnet', bits = '1/1', t = {schedule = 'geometric', initial = 0, final = 10}}"],
            "stages.0.scheme.t.initial: got 0; expected greater than 0",
        ),
        *(
            (
                ["stages.0.scheme={name = 'irnet', bits = '1/1', t = " + t + "}"],
                "stages.0.scheme.t: got {'schedule': 'linear', ",
            )
            for t in (
                "{schedule = 'linear', initial = 0, final = 10}",
                "{schedule = 'linear', initial = 10, final = 0}",
                "{schedule = 'linear', initial = 1, final = 10, warm_up = {initial = 0, epochs = 1}}",
            )
        ),
        (
            ["stages.0.optimizer={name = 'bop', learning_rate = 0.1, threshold = -1}"],
            "stages.0.optimizer.threshold: got -1; expected greater than or equal to 0",
        ),
    ],
)
def test_invalid_value_is_one_clear_error(overrides, expected):
    with pytest.raises(ExperimentError) as error:
        resolve("lenet5", overrides=overrides)
    (problem,) = error.value.problems
    assert problem.startswith(expected)
    assert "\n" not in problem
    assert "<" not in problem.split(":")[0]


@pytest.mark.parametrize("scaled", [True, False])
def test_bireal_kernels_are_scaled_only_if_the_option_is_set(scaled):
    experiment = resolve("lenet5", scheme="bireal", overrides=[f"scheme.scaled={str(scaled).lower()}"]).experiment
    layer = build_scheme(experiment).conv2d(3, 5)
    layer.build((None, 9, 9, 4))
    latent = layer.kernel.latent_variable.numpy()
    with larq.context.quantized_scope(True):
        quantized = tf.convert_to_tensor(layer.kernel).numpy()
    scale = np.abs(latent).mean((0, 1, 2)) if scaled else 1.0
    np.testing.assert_allclose(quantized, np.sign(latent) * scale, rtol=1e-6)


# --- docs/experiments.md ---


@pytest.fixture(scope="module")
def documented():
    """Return the document, and its examples as experiments. LeNet-5 provides the missing tables."""
    text = (ROOT / "docs" / "experiments.md").read_text()
    base = resolve("lenet5").experiment.to_document()
    examples = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return text, [parse(tomli_w.dumps({**base, **tomllib.loads(example)}), "documented") for example in examples]


def test_documented_examples_build(documented):
    _, experiments = documented
    assert len(experiments) == 5
    for experiment in experiments:
        assert parse(experiment.to_toml(), "copy") == experiment
        for stage in experiment.stages:
            build_optimizer(stage.optimizer, stage.epochs)


def test_every_schedule_and_its_keys_are_documented(documented):
    text, _ = documented
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    for name, model in SCHEDULES.items():
        keys = set(model.model_fields) - {"schedule", "every", "ahead", "warm_up"}
        assert set(re.findall(r"`(\w+)`", rows[name].split("|")[3])) == keys


def test_every_optimizer_is_documented(documented):
    text, _ = documented
    for row in catalog.OPTIMIZERS.values():
        assert f"| `{row.name}` |" in text
        assert all(f"`{key}`" in text for key in row.options.model_fields)


def test_a_quantizer_that_returns_another_shape_is_named_as_the_reason():
    """Images of the network's size are not blamed for it."""

    class Turned(larq.quantizers.SteSign):
        def call(self, inputs):
            return tf.transpose(super().call(inputs))

    scheme = dataclasses.replace(schemes.binarynet(), kernel_quantizer=Turned)
    with pytest.raises(
        BnnError, match=r"cannot build network 'lenet5' for .*; verify that quantizers return the shape"
    ):
        build_network("lenet5", scheme, (28, 28, 1), 10)
