"""Five steps of each optimizer against its formula in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_optimizer
from bnn_keras.constraints import AtLeast
from bnn_keras.experiment import Optimizer

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
    assert set(FORMULAS) == set(catalog.OPTIMIZERS)


@pytest.mark.parametrize("name", list(catalog.OPTIMIZERS))
@pytest.mark.parametrize("size", [1.0, 1e-7], ids=["gradients", "gradients of the size of epsilon"])
def test_five_steps_equal_the_formula(name, size):
    random = np.random.default_rng(4)
    # Weights as small as the gradients, so that the decay does not hide epsilon.
    weights = (random.normal(0, size, 50)).astype(np.float32)
    gradients = random.normal(0, size, (5, 50)).astype(np.float32)
    variable = tf.Variable(weights)
    optimizer = build_optimizer(Optimizer(name=name, learning_rate=RATE, weight_decay=DECAY))
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    expected = FORMULAS[name](weights.astype(np.float64), gradients.astype(np.float64))
    # Loose enough for β₂ in float32, tight enough to tell where epsilon is added.
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-3, atol=1e-6 * RATE)


def test_formulas_differ_where_gradients_are_small():
    gradients = np.full((5, 1), 1e-7)
    keras, torch = (formula(np.zeros(1), gradients) for formula in FORMULAS.values())
    assert abs(keras - torch) > 0.5 * abs(torch)


def test_constraint_follows_the_update():
    variable = tf.Variable([0.02], constraint=AtLeast(0.01))
    optimizer = build_optimizer(Optimizer(name="adam_torch", learning_rate=1.0))
    optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    assert variable.numpy() == pytest.approx([0.01])
