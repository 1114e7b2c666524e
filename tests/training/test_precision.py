"""Mixed precision: what is computed in 16 bits, what stays in 32, and training, resuming and evaluating in it."""

import pytest
import tensorflow as tf
from helpers import same_weights
from trainings import build_tiny_model, resume_copy, small_experiment, train_with_copies

from bnn_keras import evaluate, resolve, train
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.layers import precision_policy
from bnn_keras.runs import Run
from bnn_keras.training import trainer

PRECISIONS = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ("adam_torch", "mixed_float16"),
        pytest.param("bop", "mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("adam_torch", "mixed_bfloat16", marks=pytest.mark.nightly),
        pytest.param("bop", "mixed_float16", marks=pytest.mark.nightly),
    ],
)
def test_trains_resumes_and_evaluates(tmp_path, few_digits, optimizer, precision, monkeypatch):
    """On a small network and few images: a CPU computes float16 convolutions slowly."""
    monkeypatch.setattr(trainer, "build_model", build_tiny_model)
    monkeypatch.setattr("bnn_keras.models.build_model", build_tiny_model)
    overrides = {"bop": ["stages.0.optimizer.threshold=1e-6"]}.get(optimizer, [])
    experiment = resolve("lenet5", epochs=2, batch_size=20, optimizer=optimizer, overrides=overrides).experiment
    result = train_with_copies(experiment, tmp_path, data_dir=few_digits, precision=precision)
    assert result["top1"] > 40  # of ten classes, after two epochs; 59.7 to over 80 by the machine's bfloat16
    assert Run(tmp_path / "whole").environment["precision"] == precision
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    measured = evaluate(tmp_path / "whole", data_dir=few_digits)
    assert measured["top1"] == pytest.approx(result["top1"], abs=2)

    resumed = resume_copy(experiment, tmp_path, 1, tmp_path / "run", data_dir=few_digits, precision=precision)
    assert [row["epoch"] for row in resumed.metrics] == [1, 2]
    assert same_weights(tmp_path / "whole" / "weights.h5", tmp_path / "run" / "weights.h5")
    with pytest.raises(BnnError) as caught:
        train(experiment, tmp_path / "killed-1", data_dir=few_digits)
    assert str(caught.value) == (
        f"'{tmp_path / 'killed-1'}' was started with precision '{precision}', but 'float32' was requested; "
        f"resume with --precision {precision}, or give another --run DIR"
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_lenet5_trains_in_half_precision(tmp_path, precision):
    train(small_experiment(examples=32, batch_size=16), tmp_path / "run", precision=precision)
    losses = [row["loss"] for row in Run(tmp_path / "run").metrics]
    assert len(losses) == 4
    assert losses[3] < losses[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_compute_in_16_bits_and_variables_and_logits_are_float32(precision):
    with precision_policy(precision):
        model = build_model(resolve("resnet20").experiment)
    assert model.output.dtype == tf.float32
    assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel_quantizer")]
    assert {layer.compute_dtype for layer in convolutions} == {PRECISIONS[precision]}
    assert build_model(resolve("lenet5").experiment).layers[-1].name != "logits"


def test_unknown_precision(tmp_path):
    with pytest.raises(BnnError, match="unknown precision 'bfloat16'; did you mean 'mixed_bfloat16'"):
        train(resolve("lenet5").experiment, tmp_path / "run", precision="bfloat16")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("eager")
def test_floatx_has_effect_after_a_training(tmp_path, request):
    train(small_experiment(epochs=1), tmp_path / "run")
    request.getfixturevalue("float64")
    assert tf.keras.layers.Dense(1).dtype == "float64"
