import pytest
import tensorflow as tf

from bnn_keras import evaluate, resolve, train
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run
from bnn_keras.training import trainer

PRECISIONS = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}
# A CPU has no float16 of its own: a training takes minutes.
EACH_TO_TRAIN_IN = ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]


@pytest.mark.parametrize("precision", EACH_TO_TRAIN_IN)
@pytest.mark.parametrize("optimizer", ["adam_torch", "bop"])
def test_trains_resumes_and_evaluates(tmp_path, data_dir, precision, optimizer):
    rate = {"bop": ["stages.0.optimizer.threshold=1e-6"]}.get(optimizer, [])
    options = {"batch_size": 100, "optimizer": optimizer, "overrides": rate}
    train(resolve("lenet5", epochs=1, **options).experiment, tmp_path / "one", data_dir=data_dir, precision=precision)
    experiment = resolve("lenet5", epochs=2, **options).experiment
    (tmp_path / "one" / "result.json").unlink()
    (tmp_path / "one" / "experiment.toml").write_text(experiment.to_toml())
    with pytest.raises(BnnError, match=f"begun with precision '{precision}', asked for is 'float32'; go on with"):
        train(experiment, tmp_path / "one", data_dir=data_dir)
    result = train(experiment, tmp_path / "one", data_dir=data_dir, precision=precision)
    assert [row["epoch"] for row in Run(tmp_path / "one").metrics] == [1, 2]
    assert result["top1"] > 80
    assert Run(tmp_path / "one").environment["precision"] == precision
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert evaluate(tmp_path / "one", data_dir=data_dir)["top1"] == pytest.approx(result["top1"], abs=2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_compute_in_it_variables_and_logits_are_float32(precision):
    with trainer._computing_in(precision):
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


def test_what_floatx_says_counts_again_after_a_training(tmp_path, data_dir, request):
    train(resolve("lenet5", epochs=1).experiment, tmp_path / "run", data_dir=data_dir)
    request.getfixturevalue("float64")
    assert tf.keras.layers.Dense(1).dtype == "float64"
