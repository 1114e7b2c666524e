"""Compare the steps of each optimizer with its formula in NumPy and with PyTorch's optimizer of the same formula.

A Keras optimizer stores its hyper-parameters in float32, whatever the type of the variables. So do the formulas.
"""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import small_network

from bnn_keras import catalog, schemes
from bnn_keras.build import build_optimizer, build_schedules
from bnn_keras.constraints import AtLeast
from bnn_keras.errors import BnnError
from bnn_keras.experiment import OptimizerConfig
from bnn_keras.optimizers import decayed_variables, is_decayed, set_hyperparameter

EPOCHS, STEPS_PER_EPOCH = 3, 2
STEPS = EPOCHS * STEPS_PER_EPOCH
NAMES = ["dense/kernel", "dense/bias", "conv/kernel"]
SHAPES = [(3, 4), (4,), (2, 2, 3, 5)]

CONSTANT = 0.01
FALLING = {"schedule": "cosine", "initial": 0.1, "final": 0.001, "every": "step"}
DROPPING = {"schedule": "multi_step", "initial": 0.1, "factor": 0.1, "boundaries": [1, 2]}
WARMING = {**FALLING, "warm_up": {"initial": 0.0, "epochs": 1}}

DECAY = {"weight_decay": 0.1}
KERNELS = {**DECAY, "weight_decay_of": "kernels"}
NAMED = {**DECAY, "weight_decay_of": ["*/bias:0", "conv/*"]}
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
    ("sgd", CONSTANT, {**MOMENTUM, **NAMED}),
    ("adam", FALLING, DECAY),
    ("adam", DROPPING, {**KERNELS, "clip_norm": 0.5}),
    ("adam", FALLING, NAMED),
    ("adam_torch", CONSTANT, {}),
    ("adam_torch", FALLING, DECAY),
    ("adam_torch", FALLING, NAMED),
    ("adam_torch", WARMING, {**CLIPPED, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3}),
    ("adamw", CONSTANT, {}),
    ("adamw", FALLING, DECAY),
    ("adamw", DROPPING, NAMED),
    ("adamw", WARMING, {**KERNELS, "clip_norm": 0.5}),
]
IDS = [
    f"{name}, {rate if rate == CONSTANT else rate['schedule']}, {' '.join(options) or 'plain'}"
    for name, rate, options in CASES
]


def as_float32(value):
    """Round a hyper-parameter as Keras does."""
    return float(np.float32(value))


def optimizer_config(name, rate=CONSTANT, **options):
    return OptimizerConfig(name=name, learning_rate=rate, **options)


def random_values(size=1.0):
    """Return weights and the gradients of each step. The norm of some steps is below `clip_norm`."""
    random = np.random.default_rng(4)
    weights = [random.normal(0, size, shape) for shape in SHAPES]
    scales = size * np.geomspace(0.01, 1, STEPS)
    return weights, [[scale * random.normal(0, 1, shape) for shape in SHAPES] for scale in scales]


def named_variables(weights):
    return [tf.Variable(weight, name=name) for name, weight in zip(NAMES, weights, strict=False)]


def decayed(config):
    """Return for each of the `NAMES` whether weight decay applies to it."""
    rules = {"everything": [True, True, True], "kernels": [True, False, True]}
    return rules.get(config.weight_decay_of if isinstance(config.weight_decay_of, str) else None, [False, True, True])


def steps(config, weights, gradients):
    """Return the weights after all steps. Schedules are applied between the steps, as in training."""
    variables = named_variables(weights)
    optimizer = build_optimizer(config, EPOCHS)
    for step, values in enumerate(gradients):
        for name, schedule in build_schedules(config, EPOCHS).items():
            set_hyperparameter(optimizer, name, schedule(step / STEPS_PER_EPOCH))
        optimizer.apply_gradients(zip(map(tf.constant, values), variables, strict=True))
    return [variable.numpy() for variable in variables]


def learning_rates(config):
    schedule = build_schedules(config, EPOCHS)["learning_rate"]
    return [as_float32(schedule(step / STEPS_PER_EPOCH)) for step in range(STEPS)]


def formula(config, weights, gradients):
    """Return the weights after all steps, with NumPy."""
    weights = [weight.copy() for weight in weights]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    options = {
        name: as_float32(value) for name, value in config.choices.items() if name in ("momentum", "beta_1", "beta_2")
    }
    for step, (rate, values) in enumerate(zip(learning_rates(config), gradients, strict=True), 1):
        norm = np.sqrt(sum((value**2).sum() for value in values))
        factor = min(1, config.clip_norm / norm) if config.clip_norm else 1
        for index, (w, value) in enumerate(zip(weights, values, strict=True)):
            decay = config.weight_decay if decayed(config)[index] else 0
            g = factor * value
            if config.name == "adamw":
                w -= rate * decay * w
            else:
                g = g + decay * w
            if config.name == "sgd":
                v = first[index] = options["momentum"] * first[index] + g
                w -= rate * (g + options["momentum"] * v if config.nesterov else v)
            else:
                beta_1, beta_2 = options["beta_1"], options["beta_2"]
                m = first[index] = beta_1 * first[index] + (1 - beta_1) * g
                v = second[index] = beta_2 * second[index] + (1 - beta_2) * g**2
                corrected_m, correction = m / (1 - beta_1**step), np.sqrt(1 - beta_2**step)
                if config.name == "adam":
                    w -= rate * corrected_m * correction / (np.sqrt(v) + config.epsilon)
                else:
                    w -= rate * corrected_m / (np.sqrt(v) / correction + config.epsilon)
    return weights


def with_torch(config, weights, gradients):
    """Return the weights after all steps, with PyTorch."""
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
    groups = [
        {"params": [parameter], "weight_decay": config.weight_decay if is_decayed else 0.0}
        for parameter, is_decayed in zip(parameters, decayed(config), strict=False)
    ]
    if config.name == "sgd":
        options = {"momentum": as_float32(config.momentum), "nesterov": config.nesterov}
        optimizer = torch.optim.SGD(groups, **options)
    else:
        options = {"betas": (as_float32(config.beta_1), as_float32(config.beta_2)), "eps": config.epsilon}
        optimizer = {"adam_torch": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](groups, **options)
    for rate, values in zip(learning_rates(config), gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = torch.tensor(value)
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


def assert_all_close(values, expected, tolerance):
    for value, reference in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=tolerance, atol=tolerance)


def test_every_optimizer_has_a_test_case():
    assert {*(name for name, _, _ in CASES), "bop"} == set(catalog.OPTIMIZERS)


@pytest.mark.parametrize(("name", "rate", "options"), CASES, ids=IDS)
def test_steps_equal_the_formula(name, rate, options, float64):
    config = optimizer_config(name, rate, **options)
    assert_all_close(steps(config, *random_values()), formula(config, *random_values()), 1e-12)


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [case for case in CASES if case[0] != "adam"],
    ids=[case for case in IDS if not case.startswith("adam,")],
)
def test_steps_equal_torch(name, rate, options, float64):
    config = optimizer_config(name, rate, **options)
    # PyTorch clips to clip_norm / (norm + 1e-6).
    assert_all_close(
        steps(config, *random_values()), with_torch(config, *random_values()), 1e-5 if config.clip_norm else 1e-12
    )


@pytest.mark.parametrize("name", ["adam", "adam_torch", "adamw"])
def test_steps_equal_the_formula_for_gradients_as_small_as_epsilon(name, float64):
    config = optimizer_config(name)
    weights, gradients = random_values(1e-7)
    assert_all_close(steps(config, weights, gradients), formula(config, weights, gradients), 1e-14)
    other_epsilon = formula(optimizer_config("adam" if name != "adam" else "adam_torch"), weights, gradients)
    pairs = zip(formula(config, weights, gradients), other_epsilon, strict=True)
    assert max(np.abs(value - other).max() for value, other in pairs) > 1e-3


@pytest.mark.parametrize(("name", "rate", "options"), CASES, ids=IDS)
def test_float32_steps_in_a_tf_function_equal_the_formula(name, rate, options):
    config = optimizer_config(name, rate, **options)
    weights, gradients = random_values()
    variables = named_variables([weight.astype(np.float32) for weight in weights])
    optimizer = build_optimizer(config, EPOCHS)

    @tf.function
    def apply(values):
        optimizer.apply_gradients(zip(values, variables, strict=True))

    for step, values in enumerate(gradients):
        for hyperparameter, schedule in build_schedules(config, EPOCHS).items():
            set_hyperparameter(optimizer, hyperparameter, schedule(step / STEPS_PER_EPOCH))
        apply([tf.constant(value, tf.float32) for value in values])
    # β₂ᵗ in float32 limits a step to four digits.
    assert_all_close([variable.numpy() for variable in variables], formula(config, weights, gradients), 1e-4)


def test_velocity_does_not_contain_earlier_learning_rates():
    """Keras's velocity contains them: after the learning rate drops, its steps stay larger than PyTorch's."""
    weights, gradients = [np.zeros(1)], [[np.ones(1)]] * STEPS
    config = optimizer_config("sgd", DROPPING, **MOMENTUM)
    values = steps(config, weights, gradients)
    keras = tf.keras.optimizers.legacy.SGD(0.1, 0.9)
    variable = tf.Variable(weights[0])
    for rate, (gradient,) in zip(learning_rates(config), gradients, strict=True):
        keras.learning_rate = rate
        keras.apply_gradients([(tf.constant(gradient), variable)])
    assert values[0] == pytest.approx(formula(config, weights, gradients)[0], rel=1e-12)
    assert abs(variable.numpy() - values[0]) > 0.1


# --- variables that weight decay applies to ---


def test_patterns_have_to_match_whole_names_with_case():
    kernel, bias, _ = named_variables([np.zeros(shape) for shape in SHAPES])
    for pattern in ("dense/kernel:0", "*kernel:0", "d?nse/[jk]ernel:0"):
        assert [is_decayed(variable, [pattern]) for variable in (kernel, bias)] == [True, False]
    for pattern in ("kernel", "dense", "Dense/kernel:0", "*/kernel", ""):
        assert not is_decayed(kernel, [pattern])


def test_pattern_that_matches_no_weight():
    variables = named_variables([np.zeros(shape) for shape in SHAPES])
    with pytest.raises(BnnError) as caught:
        decayed_variables(variables, ["*/kernel:0", "*/shift:0"])
    assert str(caught.value) == (
        "weight_decay_of has the pattern '*/shift:0', which matches no weight that weight decay can apply to; expected "
        "patterns of names such as 'dense/kernel:0', 'dense/bias:0', 'conv/kernel:0': correct it or remove it"
    )


@pytest.mark.parametrize("choice", ["everything", "kernels", ["*/shift:0", "*/slope:0"]], ids=str)
def test_learnt_parts_of_a_scheme_are_decayed_only_as_told(choice):
    model = small_network("lenet5", schemes.reactnet())
    for variable in model.trainable_variables:
        variable.assign(tf.ones_like(variable))
    optimizer = build_optimizer(optimizer_config("adamw", 0.5, weight_decay=0.5, weight_decay_of=choice), epochs=1)
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])
    values = {variable.name: variable.numpy().ravel()[0] for variable in model.trainable_variables}
    shrunk = {name.split("/")[-1] for name, value in values.items() if value == 0.75}
    unchanged = {name.split("/")[-1] for name, value in values.items() if value == 1}
    learnt, others = {"shift:0", "before:0", "slope:0", "after:0"}, {"kernel:0", "bias:0", "gamma:0", "beta:0"}
    assert shrunk | unchanged == learnt | others
    expected = {"everything": learnt | others, "kernels": {"kernel:0"}}
    assert shrunk == expected.get(str(choice), {"shift:0", "slope:0"})


def test_copies_on_other_devices_have_the_name_of_the_variable():
    copy = tf.Variable(0.0, name="dense/kernel/replica_1")
    assert copy.name == "dense/kernel/replica_1:0"
    assert is_decayed(copy, ["dense/kernel:0"])


def test_binary_weights_are_decayed_unless_bop_flips_them():
    layer = binary_layer(np.float32)
    for choice in ("everything", "kernels", ["kernel:0", "bias:0"]):
        assert layer.kernel.ref() in {variable.ref() for variable in decayed_variables(layer.variables, choice)}
    assert [v.ref() for v in decayed_variables(layer.variables, "everything", latent_free=True)] == [layer.bias.ref()]
    with pytest.raises(BnnError, match=r"pattern 'k\*', which matches no weight that weight decay can apply to"):
        decayed_variables(layer.variables, ["k*"], latent_free=True)


# --- Bop ---


def binary_layer(dtype=np.float64):
    layer = larq.layers.QuantDense(7, kernel_quantizer=larq.quantizers.NoOp(precision=1))
    layer.build((None, 40))
    layer.bias.assign(np.random.default_rng(5).normal(0, 1, 7).astype(dtype))
    return layer


@pytest.mark.parametrize("decay", [DECAY, {**DECAY, "weight_decay_of": ["*"]}], ids=["everything", "named"])
def test_steps_of_bop_equal_the_formula(decay, float64):
    """Bop updates the binary kernel, Adam with weight decay the bias. All three hyper-parameters are scheduled."""
    scheduled = {
        "gamma": {"schedule": "exponential", "initial": 0.2, "factor": 0.5, "period": 1, "staircase": True},
        "threshold": {"schedule": "linear", "initial": 0.05, "final": 0.0, "every": "step"},
    }
    config = optimizer_config("bop", FALLING, **decay, **scheduled)
    functions = build_schedules(config, EPOCHS)
    assert set(functions) == {"learning_rate", "gamma", "threshold"}
    layer, optimizer, random = binary_layer(), build_optimizer(config, EPOCHS), np.random.default_rng(6)
    w, m, bias = layer.kernel.numpy(), np.zeros((40, 7)), layer.bias.numpy()
    bias_gradients, flips = random.normal(0, 1, (STEPS, 7)), []
    for step, bias_gradient in enumerate(bias_gradients):
        values = {name: function(step / STEPS_PER_EPOCH) for name, function in functions.items()}
        for name, value in values.items():
            set_hyperparameter(optimizer, name, value)
        gradient = random.normal(0, 1, (40, 7))
        before = np.where(layer.kernel.numpy() < 0, -1, 1)
        optimizer.apply_gradients([(tf.constant(gradient), layer.kernel), (tf.constant(bias_gradient), layer.bias)])
        m += as_float32(values["gamma"]) * (gradient - m)
        new = np.where(w * m > as_float32(values["threshold"]), -np.sign(w), np.sign(w))
        flips.append((np.count_nonzero(before != layer.kernel.numpy()), np.count_nonzero(np.sign(w) != new)))
        w = new
        assert np.array_equal(layer.kernel.numpy(), w)
    assert all(count == expected and 0 < count < w.size / 2 for count, expected in flips), flips
    expected = formula(optimizer_config("adam", FALLING, **DECAY), [bias], [[value] for value in bias_gradients])
    np.testing.assert_allclose(layer.bias.numpy(), *expected, rtol=1e-12)


def test_hyperparameters_are_set_in_the_part_that_has_them():
    optimizer = build_optimizer(optimizer_config("bop"), epochs=1)
    for name, value in (("gamma", 0.5), ("threshold", 0.25), ("learning_rate", 0.125)):
        set_hyperparameter(optimizer, name, value)
    flips, others = optimizer.optimizers
    values = [
        float(part._get_hyper(name))
        for part, name in ((flips, "gamma"), (flips, "threshold"), (others, "learning_rate"))
    ]
    assert values == [0.5, 0.25, 0.125]
    known = "beta_1, beta_2, decay, gamma, learning_rate, threshold"
    with pytest.raises(AttributeError, match=rf"^unknown hyper-parameter 'momentum' of CaseOptimizer; known: {known}$"):
        set_hyperparameter(optimizer, "momentum", 1.0)


# --- state ---


def fresh(name, **options):
    """Return an optimizer, variables that it can train, and the gradients of each step."""
    random = np.random.default_rng(7)
    layer = binary_layer(np.float32)
    variables = [layer.kernel, layer.bias]
    gradients = [[tf.constant(random.normal(0, 1, v.shape), tf.float32) for v in variables] for _ in range(STEPS)]
    return build_optimizer(optimizer_config(name, FALLING, **options), EPOCHS), variables, gradients


OPTIONS = {"sgd": {**NESTEROV, **DECAY}, "bop": {**DECAY, "gamma": 0.3, "threshold": 0.05}}


@pytest.mark.parametrize("name", list(catalog.OPTIMIZERS))
def test_steps_after_restoring_a_checkpoint_are_identical(name, tmp_path):
    options = OPTIONS.get(name, DECAY)
    optimizer, variables, gradients = fresh(name, **options)
    for values in gradients[:3]:
        optimizer.apply_gradients(zip(values, variables, strict=True))
    set_hyperparameter(optimizer, "learning_rate", 0.5)
    file = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(str(tmp_path / "checkpoint"))
    for values in gradients[3:]:
        optimizer.apply_gradients(zip(values, variables, strict=True))

    restored_optimizer, restored, _ = fresh(name, **options)
    status = tf.train.Checkpoint(optimizer=restored_optimizer, variables=restored).restore(file)
    for values in gradients[3:]:
        restored_optimizer.apply_gradients(zip(values, restored, strict=True))
    status.assert_consumed()
    for variable, other in zip(variables, restored, strict=True):
        assert np.array_equal(variable.numpy(), other.numpy())


@pytest.mark.parametrize("name", [row.name for row in catalog.OPTIMIZERS.values() if not row.latent_free])
def test_optimizer_from_its_config_takes_the_same_steps(name):
    options = {**OPTIONS.get(name, {}), **KERNELS, "clip_norm": 0.5}
    optimizer, variables, gradients = fresh(name, **options)
    set_hyperparameter(optimizer, "learning_rate", 0.25)
    config = optimizer.get_config()
    other = type(optimizer).from_config(config)
    assert other.get_config() == config
    assert config.items() >= {"weight_decay": 0.1, "weight_decay_of": "kernels", "global_clipnorm": 0.5}.items()
    copies = [tf.Variable(variable) for variable in variables]
    for values in gradients:
        optimizer.apply_gradients(zip(values, variables, strict=True))
        other.apply_gradients(zip(values, copies, strict=True))
    for variable, copy in zip(variables, copies, strict=True):
        assert np.array_equal(variable.numpy(), copy.numpy())


def test_constraint_is_applied_after_the_update():
    variable = tf.Variable([0.02], constraint=AtLeast(0.01))
    optimizer = build_optimizer(optimizer_config("adam_torch", 1.0), epochs=1)
    optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    assert variable.numpy() == pytest.approx([0.01])


@pytest.mark.parametrize("name", ["sgd", "adam", "adam_torch", "adamw"])
def test_learning_rate_factors_equal_optimizers_with_those_rates(name):
    """Weight decay included; frozen weights do not move, and their gradients do not count for clipping."""
    options = {"weight_decay": 0.1, "clip_norm": 0.5, **({"momentum": 0.9} if name == "sgd" else {})}
    factors = {"a:0": 2.0, "frozen*": 0.0}
    names = ("a", "b", "frozen")

    def trained(rate, **kwargs):
        optimizer = build_optimizer(optimizer_config(name, rate, **options, **kwargs), epochs=1)
        variables = [tf.Variable([1.0, -2.0], name=name) for name in names]
        for step in range(1, 4):
            gradients = [tf.constant([0.1 * step, -0.3]), tf.constant([-0.2, 0.2]), tf.constant([100.0, 0.0])]
            pairs = list(zip(gradients, variables, strict=True))
            optimizer.apply_gradients(pairs if "learning_rate_factors" in kwargs else pairs[:2])
        return [variable.numpy() for variable in variables]

    a, b, frozen = trained(0.125, learning_rate_factors=factors)
    np.testing.assert_allclose(a, trained(0.25)[0], rtol=1e-6)
    assert np.array_equal(b, trained(0.125)[1])
    assert frozen.tolist() == [1, -2]


def test_velocity_of_steps_contains_the_old_learning_rate():
    """v ← μ v + η g, w ← w − v, as Caffe's SGD; the gradient includes weight decay."""
    options = {"momentum": 0.9, "weight_decay": 0.1, "velocity": "steps"}
    optimizer = build_optimizer(optimizer_config("sgd", 0.5, **options), epochs=1)
    weight, w, v = tf.Variable([1.0]), 1.0, 0.0
    for rate in (0.5, 0.5, 0.05, 0.05):
        set_hyperparameter(optimizer, "learning_rate", rate)
        optimizer.apply_gradients([(tf.constant([0.3]), weight)])
        v = 0.9 * v + rate * (0.3 + 0.1 * w)
        w -= v
    assert weight.numpy() == pytest.approx([w], rel=1e-6)
