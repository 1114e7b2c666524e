"""Five steps of each optimizer against its formula in NumPy."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_optimizer, build_schedules
from bnn_keras.constraints import AtLeast
from bnn_keras.experiment import Optimizer
from bnn_keras.optimizers import set_hyperparameter

RATE, DECAY = 0.01, 0.1


def adam(weights, gradients, epsilon, epsilon_after_correction):
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, 1):
        g = gradient + DECAY * weights
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        correction = np.sqrt(1 - 0.999**step)
        root = np.sqrt(v) / correction + epsilon if epsilon_after_correction else (np.sqrt(v) + epsilon) / correction
        weights = weights - RATE / (1 - 0.9**step) * m / root
    return weights


FORMULAS = {
    "adam": lambda weights, gradients: adam(weights, gradients, 1e-7, False),
    "adam_torch": lambda weights, gradients: adam(weights, gradients, 1e-8, True),
}


def test_every_optimizer_has_a_formula():
    assert {*FORMULAS, "bop"} == set(catalog.OPTIMIZERS)


@pytest.mark.parametrize("name", list(FORMULAS))
@pytest.mark.parametrize("size", [1.0, 1e-7], ids=["gradients", "gradients of the size of epsilon"])
def test_five_steps_equal_the_formula(name, size):
    random = np.random.default_rng(4)
    # Weights as small as the gradients, so that the decay does not hide epsilon.
    weights = (random.normal(0, size, 50)).astype(np.float32)
    gradients = random.normal(0, size, (5, 50)).astype(np.float32)
    variable = tf.Variable(weights)
    optimizer = build_optimizer(Optimizer(name=name, learning_rate=RATE, weight_decay=DECAY), epochs=1)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    expected = FORMULAS[name](weights.astype(np.float64), gradients.astype(np.float64))
    # Loose enough for β₂ in float32, tight enough to tell where epsilon is added.
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-3, atol=1e-6 * RATE)


def test_five_steps_of_bop_equal_the_formula():
    """Bop for the binary kernel, Adam with weight decay for the bias, told apart by precision."""
    random = np.random.default_rng(5)
    threshold, gamma = 0.05, 0.2
    layer = larq.layers.QuantDense(7, kernel_quantizer=larq.quantizers.NoOp(precision=1))
    layer.build((None, 40))
    bias = random.normal(0, 1, 7).astype(np.float32)
    layer.bias.assign(bias)
    options = {"threshold": threshold, "gamma": gamma}
    optimizer = build_optimizer(Optimizer(name="bop", learning_rate=RATE, weight_decay=DECAY, **options), epochs=1)
    w, m = layer.kernel.numpy().astype(np.float64), np.zeros((40, 7))
    bias_gradients = random.normal(0, 1, (5, 7)).astype(np.float32)
    flips = []
    for bias_gradient in bias_gradients:
        gradient = random.normal(0, 1, (40, 7)).astype(np.float32)
        optimizer.apply_gradients([(tf.constant(gradient), layer.kernel), (tf.constant(bias_gradient), layer.bias)])
        m = (1 - gamma) * m + gamma * gradient
        new = np.where(w * m > threshold, -np.sign(w), np.sign(w))
        flips.append(np.count_nonzero(np.sign(w) != new))
        w = new
        assert np.array_equal(layer.kernel.numpy(), w)
    assert all(10 < number < 200 for number in flips)
    np.testing.assert_allclose(layer.bias.numpy(), FORMULAS["adam"](bias, bias_gradients), rtol=1e-3)


def test_hyperparameters_are_set_in_the_part_that_has_them():
    optimizer = build_optimizer(Optimizer(name="bop", learning_rate=RATE), epochs=1)
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


def test_schedules_of_an_optimizer():
    gamma = {"schedule": "geometric", "initial": 1e-4, "final": 1e-6}
    found = build_schedules(Optimizer(name="bop", learning_rate=0.01, gamma=gamma), epochs=100)
    assert set(found) == {"learning_rate", "gamma"}
    assert found["gamma"](50) == pytest.approx(1e-5)


def test_formulas_differ_where_gradients_are_small():
    gradients = np.full((5, 1), 1e-7)
    keras, torch = (formula(np.zeros(1), gradients) for formula in FORMULAS.values())
    assert abs(keras - torch) > 0.5 * abs(torch)


def test_constraint_follows_the_update():
    variable = tf.Variable([0.02], constraint=AtLeast(0.01))
    optimizer = build_optimizer(Optimizer(name="adam_torch", learning_rate=1.0), epochs=1)
    optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    assert variable.numpy() == pytest.approx([0.01])
