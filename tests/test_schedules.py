import math

import pytest

from bnn_keras import schedules


def test_constant():
    assert schedules.constant(0.3)(7.5) == 0.3


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1), (13.9, 1), (14, 0.1), (28, 0.1), (29, 0.01), (100, 0.01)])
def test_multi_step(epoch, expected):
    assert schedules.multi_step(1.0, 0.1, [14, 29])(epoch) == pytest.approx(expected, rel=1e-12)


def test_lenet5_rate_equals_the_references_formula():
    """XNOR-Net-PyTorch counts epochs from 1 and multiplies by 0.1 ** (epoch // 15)."""
    from bnn_keras.build import build_schedule
    from bnn_keras.experiment import load_experiment

    experiment = load_experiment("xnor_net/lenet5_mnist")
    rate = build_schedule(experiment.stages[0].optimizer.learning_rate, experiment.epochs)
    for epoch in range(1, 61):
        assert rate(epoch - 1) == pytest.approx(0.01 * 0.1 ** (epoch // 15), rel=1e-12)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.1), (100, 0.1 * 10**0.5), (200, 1), (399, 9.8855)])
def test_geometric(epoch, expected):
    assert schedules.geometric(0.1, 10, 400)(epoch) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("low", "epochs"), [(1e-3, 400), (1e-1, 300)])
def test_error_decay_equals_irnets_formula(low, epochs):
    """IR-Net's trainers: t = 10 ** (log10 low + (log10 10 − log10 low) · epoch / epochs), k = max(1 / t, 1)."""
    from bnn_keras.build import build_annealing
    from bnn_keras.experiment import resolve

    override = f"scheme.t={{schedule='geometric', initial={low}, final=10.0}}"
    annealing = build_annealing(resolve("resnet20", epochs=epochs, overrides=[override]).experiment)
    assert set(annealing) == {"t", "k"}
    for epoch in range(epochs):
        t = 10 ** (math.log10(low) + (1 - math.log10(low)) * epoch / epochs)
        assert annealing["t"](epoch) == pytest.approx(t, rel=1e-12)
        assert annealing["k"](epoch) == pytest.approx(max(1 / t, 1), rel=1e-12)


def test_a_k_of_ones_own():
    from bnn_keras.build import build_annealing
    from bnn_keras.experiment import resolve

    assert build_annealing(resolve("resnet20", overrides=["scheme.k=2.0"]).experiment)["k"](7) == 2.0
    assert build_annealing(resolve("lenet5").experiment) == {}
