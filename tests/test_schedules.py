"""Schedules against their formulas in NumPy, Keras's own, PyTorch's, and what the references compute."""

import math

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import schedules
from bnn_keras.build import build_annealing, build_optimizer, build_schedule
from bnn_keras.experiment import OptimizerConfig, SchemeConfig, load_experiment, resolve
from bnn_keras.experiment.schedule_config import SCHEDULES

EPOCHS = 20
PLACES = np.arange(0, EPOCHS, 0.25)
RESTARTS = [2, 4, 8, 16, 32, 64, 128]


def built(name, epochs=EPOCHS, **arguments):
    """A schedule as an experiment has it."""
    table = {"schedule": name, **arguments}
    return build_schedule(OptimizerConfig(name="sgd", learning_rate=table).learning_rate, epochs)


def test_constant():
    assert schedules.constant(0.3)(7.5) == 0.3
    assert build_schedule(0.3, EPOCHS)(7.5) == 0.3


ENDS = {"initial": 0.3, "final": 0.002}

FORMULAS = [
    ("step", {"initial": 0.3, "factor": 0.1, "period": 6}, lambda e: 0.3 * 0.1 ** np.floor(e / 6)),
    (
        "multi_step",
        {"initial": 0.3, "factor": 0.2, "boundaries": [3, 7.5]},
        lambda e: 0.3 * 0.2 ** np.searchsorted([3, 7.5], e, side="right"),
    ),
    ("exponential", {"initial": 0.3, "factor": 0.5, "period": 4}, lambda e: 0.3 * np.exp2(-e / 4)),
    (
        "exponential",
        {"initial": 0.3, "factor": 0.5, "period": 4, "staircase": True},
        lambda e: 0.3 * np.exp2(-np.floor(e / 4)),
    ),
    ("geometric", ENDS, lambda e: np.exp(np.log(0.3) + (np.log(0.002) - np.log(0.3)) * e / EPOCHS)),
    ("linear", ENDS, lambda e: 0.3 - 0.298 * e / EPOCHS),
    ("polynomial", {**ENDS, "power": 2.5}, lambda e: 0.002 + 0.298 * (1 - e / EPOCHS) ** 2.5),
    ("cosine", ENDS, lambda e: 0.002 + 0.298 * np.cos(np.pi * e / EPOCHS / 2) ** 2),
    (
        "cosine_restarts",
        {**ENDS, "restarts": [5, 10]},
        lambda e: 0.002 + 0.298 * np.cos(np.where(e < 10, e % 5 / 5, (e - 10) / 10) * np.pi / 2) ** 2,
    ),
]


@pytest.mark.parametrize(("name", "arguments", "formula"), FORMULAS)
def test_values_equal_the_formula(name, arguments, formula):
    by_step = built(name, **arguments, every="step")
    by_epoch = built(name, **arguments)
    for place in PLACES:
        assert by_step(place) == pytest.approx(formula(place), rel=1e-12)
        assert by_epoch(place) == pytest.approx(formula(np.floor(place)), rel=1e-12)


def test_every_schedule_has_its_formula():
    assert {name for name, _, _ in FORMULAS} == set(SCHEDULES)


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("linear", ENDS, 0.002),
        ("polynomial", {**ENDS, "power": 2.0}, 0.002),
        ("cosine", ENDS, 0.002),
        ("geometric", ENDS, 0.002),
    ],
)
def test_final_value_comes_after_the_last_epoch(name, arguments, value):
    assert built(name, **arguments)(EPOCHS) == pytest.approx(value, rel=1e-12)
    assert built(name, **arguments, ahead=1.0)(EPOCHS - 1) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "polynomial"])
def test_polynomials_stay_at_the_end(name):
    power = {"power": 2.0} if name == "polynomial" else {}
    assert built(name, **ENDS, **power, ahead=7.0)(EPOCHS - 1) == 0.002


# --- the same as in the frameworks ---

STEPS_PER_EPOCH = 7


def _keras():
    keras = tf.keras.optimizers.schedules
    steps = EPOCHS * STEPS_PER_EPOCH
    return [
        ("linear", ENDS, keras.PolynomialDecay(0.3, steps, 0.002)),
        ("polynomial", {**ENDS, "power": 3.0}, keras.PolynomialDecay(0.3, steps, 0.002, power=3.0)),
        (
            "exponential",
            {"initial": 0.3, "factor": 0.1, "period": 6},
            keras.ExponentialDecay(0.3, 6 * STEPS_PER_EPOCH, 0.1),
        ),
        (
            "exponential",
            {"initial": 0.3, "factor": 0.1, "period": 6, "staircase": True},
            keras.ExponentialDecay(0.3, 6 * STEPS_PER_EPOCH, 0.1, staircase=True),
        ),
        ("cosine", {**ENDS, "final": 0.0}, keras.CosineDecay(0.3, steps)),
    ]


@pytest.mark.parametrize(
    "row", range(5), ids=lambda row: ["linear", "polynomial", "exponential", "staircase", "cosine"][row]
)
def test_values_of_each_step_equal_those_of_keras(row):
    name, arguments, keras = _keras()[row]
    schedule = built(name, **arguments, every="step")
    for step in range(EPOCHS * STEPS_PER_EPOCH):
        expected = float(keras(tf.constant(step, tf.float64)))
        # Keras computes in float32.
        assert schedule(step / STEPS_PER_EPOCH) == pytest.approx(expected, rel=2e-6, abs=3e-8)


TORCH = [
    ("step", {"initial": 0.3, "factor": 0.1, "period": 6}, ("StepLR", {"step_size": 6, "gamma": 0.1})),
    (
        "multi_step",
        {"initial": 0.3, "factor": 0.2, "boundaries": [3, 7]},
        ("MultiStepLR", {"milestones": [3, 7], "gamma": 0.2}),
    ),
    ("exponential", {"initial": 0.3, "factor": 0.9, "period": 1}, ("ExponentialLR", {"gamma": 0.9})),
    ("cosine", ENDS, ("CosineAnnealingLR", {"T_max": EPOCHS, "eta_min": 0.002})),
    ("linear", {**ENDS, "final": 0.0}, ("LambdaLR", {"lr_lambda": lambda epoch: 1 - epoch / EPOCHS})),
    ("polynomial", {**ENDS, "final": 0.0, "power": 2.0}, ("PolynomialLR", {"total_iters": EPOCHS, "power": 2.0})),
    (
        "cosine_restarts",
        {**ENDS, "restarts": [5, 10, 15]},
        ("CosineAnnealingWarmRestarts", {"T_0": 5, "eta_min": 0.002}),
    ),
]


# PyTorch's restarts are ahead too where the scheduler is.
@pytest.mark.parametrize(
    ("row", "ahead"), [(row, ahead) for row in TORCH for ahead in (0, 1) if (row[0], ahead) != ("cosine_restarts", 1)]
)
def test_values_of_each_epoch_equal_those_of_torch(row, ahead):
    """`ahead = 1` is a scheduler that steps once before the first epoch."""
    torch = pytest.importorskip("torch")
    name, arguments, (kind, options) = row
    schedule = built(name, **arguments, ahead=float(ahead))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    reference = getattr(torch.optim.lr_scheduler, kind)(optimizer, **options)
    for _ in range(ahead):
        optimizer.step()
        reference.step()
    for epoch in range(EPOCHS):
        assert schedule(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        reference.step()


# --- what the references compute ---


def test_lenet5_rate_equals_the_references_formula():
    """XNOR-Net-PyTorch counts epochs from 1 and multiplies by 0.1 ** (epoch // 15)."""
    experiment = load_experiment("xnor_net/lenet5_mnist")
    rate = build_schedule(experiment.stages[0].optimizer.learning_rate, experiment.epochs)
    for epoch in range(1, 61):
        assert rate(epoch - 1) == pytest.approx(0.01 * 0.1 ** (epoch // 15), rel=1e-12)


def test_restarts_equal_the_loop_of_binary_wide_resnet():
    """main.py: the scheduler steps before each epoch, and a new one takes its place at each epoch of `restarts`."""
    schedule = built("cosine_restarts", 256, initial=0.1, final=1e-4, restarts=RESTARTS, ahead=1)
    last, period = 0, 2
    for epoch in range(256):
        last += 1
        if epoch in RESTARTS:
            last, period = 0, epoch
        expected = 1e-4 + (0.1 - 1e-4) * (1 + math.cos(math.pi * last / period)) / 2
        assert schedule(epoch) == pytest.approx(expected, rel=1e-12)
    assert [schedule(epoch) for epoch in (0, 1, *RESTARTS)] == pytest.approx([0.05005, 1e-4, *[0.1] * 7], rel=1e-12)
    assert 1e-4 < schedule(255) < 1.2e-4


def test_restarts_after_the_end_of_a_short_training_do_not_count():
    schedule = built("cosine_restarts", 6, initial=0.1, final=0.0, restarts=RESTARTS)
    assert [schedule(epoch) for epoch in range(6)] == pytest.approx([0.1, 0.05, 0.1, 0.05, 0.1, 0.05])


def test_gamma_of_bop_on_cifar_falls_in_a_staircase():
    """rethinking-bnn-optimization, bop_sec52: 1e-4, a tenth after each 100 epochs; here of 1,000 steps."""
    gamma = OptimizerConfig(
        name="bop",
        learning_rate=0.01,
        gamma={
            "schedule": "exponential",
            "initial": 1e-4,
            "factor": 0.1,
            "period": 100,
            "staircase": True,
            "every": "step",
        },
    ).gamma
    schedule = build_schedule(gamma, 500)
    keras = tf.keras.optimizers.schedules.ExponentialDecay(1e-4, 100_000, 0.1, staircase=True)
    for epoch in (0, 1, 99, 99.999, 100, 100.001, 250, 399.999, 400, 499):
        assert schedule(epoch) == pytest.approx(1e-4 * 0.1 ** math.floor(epoch / 100), rel=1e-12)
        assert schedule(epoch) == pytest.approx(float(keras(round(epoch * 1000))), rel=1e-6)


@pytest.mark.parametrize(("low", "epochs"), [(1e-3, 400), (1e-1, 300)])
def test_error_decay_equals_irnets_formula(low, epochs):
    """IR-Net's trainers: t = 10 ** (log10 low + (log10 10 − log10 low) · epoch / epochs), k = max(1 / t, 1)."""
    override = f"scheme.t={{schedule='geometric', initial={low}, final=10.0}}"
    experiment = resolve("resnet20", epochs=epochs, overrides=[override]).experiment
    annealing = build_annealing(experiment, experiment.stages[0])
    assert set(annealing) == {"t", "k"}
    for epoch in range(epochs):
        t = 10 ** (math.log10(low) + (1 - math.log10(low)) * epoch / epochs)
        assert annealing["t"](epoch) == pytest.approx(t, rel=1e-12)
        assert annealing["k"](epoch) == pytest.approx(max(1 / t, 1), rel=1e-12)


def test_a_k_of_ones_own():
    one, other = resolve("resnet20", overrides=["scheme.k=2.0"]).experiment, resolve("lenet5").experiment
    assert build_annealing(one, one.stages[0])["k"](7) == 2.0
    assert build_annealing(other, other.stages[0]) == {}


def test_what_anneals_is_that_of_the_stages_own_scheme_over_all_stages():
    t = "scheme.t={schedule='geometric', initial=0.1, final=10.0}"
    experiment = resolve("resnet20", epochs=3, overrides=[t]).experiment
    (stage,) = experiment.stages
    plain = stage.model_copy(update={"scheme": SchemeConfig(name="float", bits="32/32")})
    two = experiment.model_copy(update={"stages": [plain, stage]})
    assert build_annealing(two, two.stages[0]) == {}
    assert build_annealing(two, two.stages[1])["t"](3) == pytest.approx(1.0, rel=1e-12)


# --- warm-up, and clocks that are ahead ---


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_warm_up_is_a_straight_line_to_what_the_schedule_has_after_it(every):
    schedule = built("cosine", **ENDS, every=every, warm_up={"initial": 0.01, "epochs": 5.0})
    cosine = schedules.cosine(**ENDS, epochs=EPOCHS)
    for place in PLACES:
        e = place if every == "step" else math.floor(place)
        expected = cosine(e) if e >= 5 else np.interp(e, [0, 5], [0.01, cosine(5)])
        assert schedule(place) == pytest.approx(expected, rel=1e-12)


def test_warm_up_ends_where_a_schedule_that_is_ahead_is_then():
    schedule = built("linear", **ENDS, ahead=2.0, warm_up={"initial": 0.0, "epochs": 4.0})
    assert [schedule(epoch) for epoch in (0, 2, 4)] == pytest.approx([0, (0.3 - 0.298 * 0.3) / 2, 0.3 - 0.298 * 0.3])


def test_only_the_first_cycle_is_ahead():
    one, other = (built("cosine_restarts", **ENDS, restarts=[4], ahead=ahead) for ahead in (0.0, 1.0))
    assert [other(epoch) for epoch in range(3)] == [one(epoch + 1) for epoch in range(3)]
    assert [other(epoch) for epoch in range(4, EPOCHS)] == [one(epoch) for epoch in range(4, EPOCHS)]


@pytest.mark.parametrize("epochs", [1, 3, 7, 160])
@pytest.mark.parametrize("steps", [1, 3, 49, 391])
def test_boundaries_are_met_by_steps_that_are_fractions_of_an_epoch(epochs, steps):
    """A step's place is epoch + step / steps: whole at the first step of each epoch, whatever the number of steps."""
    schedule = built("step", epochs, initial=1.0, factor=0.5, period=1, every="step")
    places = [epoch + step / steps for epoch in range(epochs) for step in range(steps)]
    assert [schedule(place) for place in places] == [0.5 ** (index // steps) for index in range(epochs * steps)]


def test_an_optimizer_begins_with_the_values_of_the_first_step():
    rate = {"schedule": "cosine", **ENDS, "every": "step", "warm_up": {"initial": 0.125, "epochs": 1.0}}
    optimizer = build_optimizer(OptimizerConfig(name="sgd", learning_rate=rate), EPOCHS)
    assert float(optimizer.learning_rate) == 0.125
