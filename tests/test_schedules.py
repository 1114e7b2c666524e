"""Compare schedules with their formulas in NumPy, with Keras, with PyTorch and with the references."""

import math

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import schedules
from bnn_keras.build import build_annealing, build_optimizer, build_schedule
from bnn_keras.experiment import OptimizerConfig, SchemeConfig, load_experiment, resolve
from bnn_keras.schedule_config import SCHEDULES

EPOCHS = 20
POSITIONS = np.arange(0, EPOCHS, 0.25)
RESTARTS = [2, 4, 8, 16, 32, 64, 128]


def schedule_from_table(name, epochs=EPOCHS, **arguments):
    """Build a schedule from its table in an experiment."""
    table = {"schedule": name, **arguments}
    return build_schedule(OptimizerConfig(name="sgd", learning_rate=table).learning_rate, epochs)


def test_constant_is_the_same_in_every_epoch():
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
    ("shifted_exponential", ENDS, lambda e: 0.3 - 0.298 * (np.exp(e / EPOCHS) - 1) / (np.e - 1)),
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
    by_step = schedule_from_table(name, **arguments, every="step")
    by_epoch = schedule_from_table(name, **arguments)
    for position in POSITIONS:
        assert by_step(position) == pytest.approx(formula(position), rel=1e-12)
        assert by_epoch(position) == pytest.approx(formula(np.floor(position)), rel=1e-12)


def test_every_schedule_has_a_formula_here():
    assert {name for name, _, _ in FORMULAS} == set(SCHEDULES)


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("linear", ENDS, 0.002),
        ("polynomial", {**ENDS, "power": 2.0}, 0.002),
        ("cosine", ENDS, 0.002),
        ("geometric", ENDS, 0.002),
        ("shifted_exponential", ENDS, 0.002),
    ],
)
def test_final_value_is_reached_after_the_last_epoch(name, arguments, value):
    assert schedule_from_table(name, **arguments)(EPOCHS) == pytest.approx(value, rel=1e-12)
    assert schedule_from_table(name, **arguments, ahead=1.0)(EPOCHS - 1) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "polynomial"])
def test_polynomials_stay_at_the_final_value(name):
    power = {"power": 2.0} if name == "polynomial" else {}
    assert schedule_from_table(name, **ENDS, **power, ahead=7.0)(EPOCHS - 1) == 0.002


# --- equality with Keras and PyTorch ---

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
    "case", range(5), ids=lambda case: ["linear", "polynomial", "exponential", "staircase", "cosine"][case]
)
def test_values_of_each_step_equal_keras(case):
    name, arguments, keras = _keras()[case]
    schedule = schedule_from_table(name, **arguments, every="step")
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


# Without `ahead` for restarts: PyTorch shifts every cycle, ours only the first.
@pytest.mark.parametrize(
    ("case", "ahead"),
    [(case, ahead) for case in TORCH for ahead in (0, 1) if (case[0], ahead) != ("cosine_restarts", 1)],
)
def test_values_of_each_epoch_equal_torch(case, ahead):
    """`ahead = 1` corresponds to a scheduler that steps once before the first epoch."""
    torch = pytest.importorskip("torch")
    name, arguments, (scheduler, options) = case
    schedule = schedule_from_table(name, **arguments, ahead=float(ahead))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    reference = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **options)
    for _ in range(ahead):
        optimizer.step()
        reference.step()
    for epoch in range(EPOCHS):
        assert schedule(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        reference.step()


# --- equality with the references ---


def test_state_of_restarts_is_that_of_pytorch():
    """binary-wide-resnet's trainer steps its scheduler before each epoch, and makes a new one at each restart."""
    torch = pytest.importorskip("torch")
    rate = load_experiment("binary_wide_resnet/wrn_20_1_cifar10").stages[0].optimizer.learning_rate
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2, eta_min=1e-4)
    for epoch in range(20):
        optimizer.step()
        scheduler.step()
        if epoch in rate.restarts:
            optimizer.param_groups[0]["lr"] = 0.1  # what a new scheduler did itself before PyTorch 1.4
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epoch, eta_min=1e-4)
        state = rate.torch_state(epoch)
        assert state == {key: pytest.approx(scheduler.state_dict()[key], rel=1e-9) for key in state}


def test_lenet5_rate_equals_the_references_formula():
    """XNOR-Net-PyTorch counts epochs from 1 and multiplies by 0.1 ** (epoch // 15)."""
    experiment = load_experiment("xnor_net/lenet5_mnist")
    rate = build_schedule(experiment.stages[0].optimizer.learning_rate, experiment.epochs)
    for epoch in range(1, 61):
        assert rate(epoch - 1) == pytest.approx(0.01 * 0.1 ** (epoch // 15), rel=1e-12)


def test_restarts_equal_the_loop_of_binary_wide_resnet():
    """main.py: the scheduler steps before each epoch, and a new one replaces it at each epoch of `restarts`."""
    schedule = schedule_from_table("cosine_restarts", 256, initial=0.1, final=1e-4, restarts=RESTARTS, ahead=1)
    last, period = 0, 2
    for epoch in range(256):
        last += 1
        if epoch in RESTARTS:
            last, period = 0, epoch
        expected = 1e-4 + (0.1 - 1e-4) * (1 + math.cos(math.pi * last / period)) / 2
        assert schedule(epoch) == pytest.approx(expected, rel=1e-12)
    assert [schedule(epoch) for epoch in (0, 1, *RESTARTS)] == pytest.approx([0.05005, 1e-4, *[0.1] * 7], rel=1e-12)
    assert 1e-4 < schedule(255) < 1.2e-4


def test_restarts_after_the_last_epoch_are_ignored():
    schedule = schedule_from_table("cosine_restarts", 6, initial=0.1, final=0.0, restarts=RESTARTS)
    assert [schedule(epoch) for epoch in range(6)] == pytest.approx([0.1, 0.05, 0.1, 0.05, 0.1, 0.05])


def test_gamma_of_bop_on_cifar_is_a_staircase():
    """rethinking-bnn-optimization, bop_sec52: 1e-4, divided by 10 after each 100 epochs; an epoch has 1,000 steps."""
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


def test_k_of_the_experiment_replaces_the_formula():
    experiment = resolve("resnet20", overrides=["scheme.k=2.0"]).experiment
    assert build_annealing(experiment, experiment.stages[0])["k"](7) == 2.0


def test_scheme_without_annealing_has_no_schedules():
    experiment = resolve("lenet5").experiment
    assert build_annealing(experiment, experiment.stages[0]) == {}


def test_annealing_follows_the_scheme_of_the_stage_and_counts_epochs_over_all_stages():
    t = "scheme.t={schedule='geometric', initial=0.1, final=10.0}"
    experiment = resolve("resnet20", epochs=3, overrides=[t]).experiment
    (stage,) = experiment.stages
    float_stage = stage.model_copy(update={"scheme": SchemeConfig(name="float", bits="32/32")})
    experiment = experiment.model_copy(update={"stages": [float_stage, stage]})
    assert build_annealing(experiment, experiment.stages[0]) == {}
    assert build_annealing(experiment, experiment.stages[1])["t"](3) == pytest.approx(1.0, rel=1e-12)


# --- warm-up and shifted schedules ---


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_warm_up_is_linear_up_to_the_value_of_the_schedule_after_it(every):
    schedule = schedule_from_table("cosine", **ENDS, every=every, warm_up={"initial": 0.01, "epochs": 5.0})
    cosine = schedules.cosine(**ENDS, epochs=EPOCHS)
    for position in POSITIONS:
        e = position if every == "step" else math.floor(position)
        expected = cosine(e) if e >= 5 else np.interp(e, [0, 5], [0.01, cosine(5)])
        assert schedule(position) == pytest.approx(expected, rel=1e-12)


def test_warm_up_ends_at_the_value_of_the_shifted_schedule():
    schedule = schedule_from_table("linear", **ENDS, ahead=2.0, warm_up={"initial": 0.0, "epochs": 4.0})
    assert [schedule(epoch) for epoch in (0, 2, 4)] == pytest.approx([0, (0.3 - 0.298 * 0.3) / 2, 0.3 - 0.298 * 0.3])


def test_only_the_first_cycle_is_shifted():
    plain, shifted = (schedule_from_table("cosine_restarts", **ENDS, restarts=[4], ahead=ahead) for ahead in (0.0, 1.0))
    assert [shifted(epoch) for epoch in range(3)] == [plain(epoch + 1) for epoch in range(3)]
    assert [shifted(epoch) for epoch in range(4, EPOCHS)] == [plain(epoch) for epoch in range(4, EPOCHS)]


@pytest.mark.parametrize("epochs", [1, 3, 7, 160])
@pytest.mark.parametrize("steps", [1, 3, 49, 391])
def test_boundaries_are_reached_at_the_first_step_of_an_epoch(epochs, steps):
    """The position of a step is epoch + step / steps: an integer at the first step, for any number of steps."""
    schedule = schedule_from_table("step", epochs, initial=1.0, factor=0.5, period=1, every="step")
    positions = [epoch + step / steps for epoch in range(epochs) for step in range(steps)]
    assert [schedule(position) for position in positions] == [
        0.5 ** (index // steps) for index in range(epochs * steps)
    ]


def test_optimizer_starts_with_the_values_of_the_first_step():
    rate = {"schedule": "cosine", **ENDS, "every": "step", "warm_up": {"initial": 0.125, "epochs": 1.0}}
    optimizer = build_optimizer(OptimizerConfig(name="sgd", learning_rate=rate), EPOCHS)
    assert float(optimizer.learning_rate) == 0.125
