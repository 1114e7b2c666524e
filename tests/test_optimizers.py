"""Steps of each optimizer against its formula in NumPy and, where it has the same one, against PyTorch.

A Keras optimizer keeps its hyper-parameters in float32, whatever the variables' type: the formulas take them so.
"""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_optimizer, build_schedules
from bnn_keras.constraints import AtLeast
from bnn_keras.experiment import OptimizerConfig
from bnn_keras.optimizers import set_hyperparameter

EPOCHS, STEPS_PER_EPOCH = 3, 2
STEPS = EPOCHS * STEPS_PER_EPOCH
SHAPES = [(3, 4), (4,), (2, 2, 3, 5)]

CONSTANT = 0.01
FALLING = {"schedule": "cosine", "initial": 0.1, "final": 0.001, "every": "step"}
DROPPING = {"schedule": "multi_step", "initial": 0.1, "factor": 0.1, "boundaries": [1, 2]}
WARMING = {**FALLING, "warm_up": {"initial": 0.0, "epochs": 1}}

DECAY = {"weight_decay": 0.1}
KERNELS = {**DECAY, "weight_decay_of": "kernels"}
CLIPPED = {**DECAY, "clip_norm": 0.5}
MOMENTUM = {"momentum": 0.9}
NESTEROV = {**MOMENTUM, "nesterov": True}

CASES = [
    ("sgd", CONSTANT, {}),
    ("sgd", FALLING, CLIPPED),
    ("sgd", CONSTANT, MOMENTUM),
    ("sgd", DROPPING, {**MOMENTUM, **DECAY}),
    ("sgd", FALLING, {**NESTEROV, **KERNELS}),
    ("sgd", WARMING, {**NESTEROV, **CLIPPED}),
    ("adam", FALLING, DECAY),
    ("adam", DROPPING, {**KERNELS, "clip_norm": 0.5}),
    ("adam_torch", CONSTANT, {}),
    ("adam_torch", FALLING, DECAY),
    ("adam_torch", WARMING, {**CLIPPED, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3}),
    ("adamw", CONSTANT, {}),
    ("adamw", FALLING, DECAY),
    ("adamw", WARMING, {**KERNELS, "clip_norm": 0.5}),
]
IDS = [
    f"{name}, {rate if rate == CONSTANT else rate['schedule']}, {' '.join(options) or 'plain'}"
    for name, rate, options in CASES
]


def single(value):
    """A hyper-parameter as Keras keeps it."""
    return float(np.float32(value))


def optimizer_of(name, rate=CONSTANT, **options):
    return OptimizerConfig(name=name, learning_rate=rate, **options)


def draw(size=1.0):
    """Weights, and gradients of each step; some steps have a norm below `clip_norm`."""
    random = np.random.default_rng(4)
    weights = [random.normal(0, size, shape) for shape in SHAPES]
    scales = size * np.geomspace(0.01, 1, STEPS)
    return weights, [[scale * random.normal(0, 1, shape) for shape in SHAPES] for scale in scales]


def steps(chosen, weights, gradients):
    """What the optimizer makes of the weights, its schedules set between the steps as in training."""
    variables = [tf.Variable(weight) for weight in weights]
    optimizer = build_optimizer(chosen, EPOCHS)
    for step, values in enumerate(gradients):
        for name, schedule in build_schedules(chosen, EPOCHS).items():
            set_hyperparameter(optimizer, name, schedule(step / STEPS_PER_EPOCH))
        optimizer.apply_gradients([(tf.constant(value), one) for value, one in zip(values, variables, strict=True)])
    return [variable.numpy() for variable in variables]


def rates(chosen):
    schedule = build_schedules(chosen, EPOCHS)["learning_rate"]
    return [single(schedule(step / STEPS_PER_EPOCH)) for step in range(STEPS)]


def formula(chosen, weights, gradients):
    """The same with NumPy."""
    weights = [weight.copy() for weight in weights]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    options = {
        name: single(value) for name, value in chosen.choices.items() if name in ("momentum", "beta_1", "beta_2")
    }
    for step, (rate, values) in enumerate(zip(rates(chosen), gradients, strict=True), 1):
        norm = np.sqrt(sum((value**2).sum() for value in values))
        factor = min(1, chosen.clip_norm / norm) if chosen.clip_norm else 1
        for index, (w, value) in enumerate(zip(weights, values, strict=True)):
            decay = chosen.weight_decay if chosen.weight_decay_of == "everything" or w.ndim >= 2 else 0
            g = factor * value
            if chosen.name == "adamw":
                w -= rate * decay * w
            else:
                g = g + decay * w
            if chosen.name == "sgd":
                v = first[index] = options["momentum"] * first[index] + g
                w -= rate * (g + options["momentum"] * v if chosen.nesterov else v)
            else:
                beta_1, beta_2 = options["beta_1"], options["beta_2"]
                m = first[index] = beta_1 * first[index] + (1 - beta_1) * g
                v = second[index] = beta_2 * second[index] + (1 - beta_2) * g**2
                corrected_m, correction = m / (1 - beta_1**step), np.sqrt(1 - beta_2**step)
                if chosen.name == "adam":
                    w -= rate * corrected_m * correction / (np.sqrt(v) + chosen.epsilon)
                else:
                    w -= rate * corrected_m / (np.sqrt(v) / correction + chosen.epsilon)
    return weights


def with_torch(chosen, weights, gradients):
    """The same with PyTorch."""
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
    undecayed = [] if chosen.weight_decay_of == "everything" else [one for one in parameters if one.ndim < 2]
    decayed = [one for one in parameters if not any(one is other for other in undecayed)]
    groups = [{"params": decayed, "weight_decay": chosen.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    if chosen.name == "sgd":
        options = {"momentum": single(chosen.momentum), "nesterov": chosen.nesterov}
        optimizer = torch.optim.SGD(groups, **options)
    else:
        options = {"betas": (single(chosen.beta_1), single(chosen.beta_2)), "eps": chosen.epsilon}
        optimizer = {"adam_torch": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.name](groups, **options)
    for rate, values in zip(rates(chosen), gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = torch.tensor(value)
        if chosen.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, chosen.clip_norm)
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_every_optimizer_has_its_cases():
    assert {*(name for name, _, _ in CASES), "bop"} == set(catalog.OPTIMIZERS)


@pytest.mark.parametrize(("name", "rate", "options"), CASES, ids=IDS)
def test_steps_equal_the_formula(name, rate, options, float64):
    chosen = optimizer_of(name, rate, **options)
    assert_close(steps(chosen, *draw()), formula(chosen, *draw()), 1e-12)


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [case for case in CASES if case[0] != "adam"],
    ids=[one for one in IDS if not one.startswith("adam,")],
)
def test_steps_equal_those_of_torch(name, rate, options, float64):
    chosen = optimizer_of(name, rate, **options)
    # PyTorch clips to a norm that is smaller by a millionth: clip_norm / (norm + 1e-6).
    assert_close(steps(chosen, *draw()), with_torch(chosen, *draw()), 1e-5 if chosen.clip_norm else 1e-12)


@pytest.mark.parametrize("name", ["adam", "adam_torch", "adamw"])
def test_steps_equal_the_formula_where_gradients_are_of_the_size_of_epsilon(name, float64):
    chosen = optimizer_of(name)
    weights, gradients = draw(1e-7)
    assert_close(steps(chosen, weights, gradients), formula(chosen, weights, gradients), 1e-14)
    others = formula(optimizer_of("adam" if name != "adam" else "adam_torch"), weights, gradients)
    difference = max(np.abs(one - other).max() for one, other in zip(formula(chosen, *draw(1e-7)), others, strict=True))
    assert difference > 1e-3


@pytest.mark.parametrize(("name", "rate", "options"), CASES, ids=IDS)
def test_steps_in_float32_inside_a_function(name, rate, options):
    chosen = optimizer_of(name, rate, **options)
    weights, gradients = draw()
    variables = [tf.Variable(weight.astype(np.float32)) for weight in weights]
    optimizer = build_optimizer(chosen, EPOCHS)

    @tf.function
    def apply(values):
        optimizer.apply_gradients(zip(values, variables, strict=True))

    for step, values in enumerate(gradients):
        for hyperparameter, schedule in build_schedules(chosen, EPOCHS).items():
            set_hyperparameter(optimizer, hyperparameter, schedule(step / STEPS_PER_EPOCH))
        apply([tf.constant(value, tf.float32) for value in values])
    # β₂ᵗ in float32 is good for four digits of a step.
    assert_close([variable.numpy() for variable in variables], formula(chosen, weights, gradients), 1e-4)


def test_velocity_does_not_remember_rates():
    """Keras's own velocity holds the larger steps of before; after the drop PyTorch's steps are a tenth of them."""
    weights, gradients = [np.zeros(1)], [[np.ones(1)]] * STEPS
    chosen = optimizer_of("sgd", DROPPING, **MOMENTUM)
    found = steps(chosen, weights, gradients)
    keras = tf.keras.optimizers.legacy.SGD(0.1, 0.9)
    variable = tf.Variable(weights[0])
    for rate, (value,) in zip(rates(chosen), gradients, strict=True):
        keras.learning_rate = rate
        keras.apply_gradients([(tf.constant(value), variable)])
    assert found[0] == pytest.approx(formula(chosen, weights, gradients)[0], rel=1e-12)
    assert abs(variable.numpy() - found[0]) > 0.1


# --- Bop ---


def binary_layer(dtype=np.float64):
    layer = larq.layers.QuantDense(7, kernel_quantizer=larq.quantizers.NoOp(precision=1))
    layer.build((None, 40))
    layer.bias.assign(np.random.default_rng(5).normal(0, 1, 7).astype(dtype))
    return layer


def test_steps_of_bop_equal_the_formula(float64):
    """Bop for the binary kernel, Adam with weight decay for the bias, told apart by precision; all three change."""
    scheduled = {
        "gamma": {"schedule": "exponential", "initial": 0.2, "factor": 0.5, "period": 1, "staircase": True},
        "threshold": {"schedule": "linear", "initial": 0.05, "final": 0.0, "every": "step"},
    }
    chosen = optimizer_of("bop", FALLING, **DECAY, **scheduled)
    functions = build_schedules(chosen, EPOCHS)
    assert set(functions) == {"learning_rate", "gamma", "threshold"}
    layer, optimizer, random = binary_layer(), build_optimizer(chosen, EPOCHS), np.random.default_rng(6)
    w, m, bias = layer.kernel.numpy(), np.zeros((40, 7)), layer.bias.numpy()
    bias_gradients, flips = random.normal(0, 1, (STEPS, 7)), []
    for step, bias_gradient in enumerate(bias_gradients):
        values = {name: function(step / STEPS_PER_EPOCH) for name, function in functions.items()}
        for name, value in values.items():
            set_hyperparameter(optimizer, name, value)
        gradient = random.normal(0, 1, (40, 7))
        before = np.where(layer.kernel.numpy() < 0, -1, 1)
        optimizer.apply_gradients([(tf.constant(gradient), layer.kernel), (tf.constant(bias_gradient), layer.bias)])
        m += single(values["gamma"]) * (gradient - m)
        new = np.where(w * m > single(values["threshold"]), -np.sign(w), np.sign(w))
        flips.append((np.count_nonzero(before != layer.kernel.numpy()), np.count_nonzero(np.sign(w) != new)))
        w = new
        assert np.array_equal(layer.kernel.numpy(), w)
    assert all(found == expected and 0 < found < w.size / 2 for found, expected in flips), flips
    expected = formula(optimizer_of("adam", FALLING, **DECAY), [bias], [[value] for value in bias_gradients])
    np.testing.assert_allclose(layer.bias.numpy(), *expected, rtol=1e-12)


def test_hyperparameters_are_set_in_the_part_that_has_them():
    optimizer = build_optimizer(optimizer_of("bop"), epochs=1)
    for name, value in (("gamma", 0.5), ("threshold", 0.25), ("learning_rate", 0.125)):
        set_hyperparameter(optimizer, name, value)
    flips, others = optimizer.optimizers
    values = [
        float(part._get_hyper(name))
        for part, name in ((flips, "gamma"), (flips, "threshold"), (others, "learning_rate"))
    ]
    assert values == [0.5, 0.25, 0.125]
    with pytest.raises(AttributeError, match="no hyper-parameter 'momentum'"):
        set_hyperparameter(optimizer, "momentum", 1.0)


# --- state ---


def fresh(name, **options):
    """An optimizer, variables that it may have, and gradients of each step."""
    random = np.random.default_rng(7)
    layer = binary_layer(np.float32)
    variables = [layer.kernel, layer.bias]
    gradients = [[tf.constant(random.normal(0, 1, v.shape), tf.float32) for v in variables] for _ in range(STEPS)]
    return build_optimizer(optimizer_of(name, FALLING, **options), EPOCHS), variables, gradients


OPTIONS = {"sgd": {**NESTEROV, **DECAY}, "bop": {**DECAY, "gamma": 0.3, "threshold": 0.05}}


@pytest.mark.parametrize("name", list(catalog.OPTIMIZERS))
def test_state_survives_a_checkpoint(name, tmp_path):
    options = OPTIONS.get(name, DECAY)
    optimizer, variables, gradients = fresh(name, **options)
    for values in gradients[:3]:
        optimizer.apply_gradients(zip(values, variables, strict=True))
    set_hyperparameter(optimizer, "learning_rate", 0.5)
    file = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(str(tmp_path / "checkpoint"))
    for values in gradients[3:]:
        optimizer.apply_gradients(zip(values, variables, strict=True))

    again, restored, _ = fresh(name, **options)
    status = tf.train.Checkpoint(optimizer=again, variables=restored).restore(file)
    for values in gradients[3:]:
        again.apply_gradients(zip(values, restored, strict=True))
    status.assert_consumed()
    for one, other in zip(variables, restored, strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("name", [row.name for row in catalog.OPTIMIZERS.values() if not row.latent_free])
def test_configuration_survives_a_round_trip(name):
    options = {**OPTIONS.get(name, {}), **KERNELS, "clip_norm": 0.5}
    one, variables, gradients = fresh(name, **options)
    set_hyperparameter(one, "learning_rate", 0.25)
    other = type(one).from_config(one.get_config())
    assert other.get_config() == one.get_config()
    assert (
        one.get_config().items() >= {"weight_decay": 0.1, "weight_decay_of": "kernels", "global_clipnorm": 0.5}.items()
    )
    copies = [tf.Variable(variable) for variable in variables]
    for values in gradients:
        one.apply_gradients(zip(values, variables, strict=True))
        other.apply_gradients(zip(values, copies, strict=True))
    for variable, copy in zip(variables, copies, strict=True):
        assert np.array_equal(variable.numpy(), copy.numpy())


def test_constraint_follows_the_update():
    variable = tf.Variable([0.02], constraint=AtLeast(0.01))
    optimizer = build_optimizer(optimizer_of("adam_torch", 1.0), epochs=1)
    optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    assert variable.numpy() == pytest.approx([0.01])
