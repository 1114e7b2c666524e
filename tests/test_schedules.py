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
    rate = build_schedule(experiment.stages[0].optimizer.learning_rate)
    for epoch in range(1, 61):
        assert rate(epoch - 1) == pytest.approx(0.01 * 0.1 ** (epoch // 15), rel=1e-12)
