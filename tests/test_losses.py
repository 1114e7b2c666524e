"""Compare losses with their formulas in NumPy and with PyTorch."""

import numpy as np
import parity
import procedural
import pytest
import tensorflow as tf
from helpers import GOLDEN
from procedural import quantizer_values

from bnn_keras import interop
from bnn_keras.build import build_loss
from bnn_keras.experiment import OptimizerConfig, Stage
from bnn_keras.losses import Distillation, SmoothedCrossEntropy

BATCH, FEATURES, CLASSES = 6, 5, 4


@pytest.fixture
def random():
    return np.random.default_rng(8)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# --- smoothed labels ---


def cross_entropy(logits, labels, smoothing):
    targets = np.full((len(labels), CLASSES), smoothing / CLASSES)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return -(targets * log_softmax(logits)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("column", [False, True], ids=["labels (batch,)", "labels (batch, 1)"])
def test_smoothed_cross_entropy_equals_the_formula(smoothing, column, random, float64):
    logits, labels = random.normal(0, 3, (BATCH, CLASSES)), random.integers(0, CLASSES, BATCH)
    given = tf.constant(labels[:, None] if column else labels)
    loss = SmoothedCrossEntropy(smoothing)(given, tf.constant(logits)).numpy()
    assert loss == pytest.approx(cross_entropy(logits, labels, smoothing).mean(), rel=1e-12)
    weights = np.arange(BATCH) / 3
    weighted = SmoothedCrossEntropy(smoothing)(given, tf.constant(logits), sample_weight=weights).numpy()
    assert weighted == pytest.approx((weights * cross_entropy(logits, labels, smoothing)).mean(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_and_its_gradient_equal_torch(smoothing, random, float64):
    torch = pytest.importorskip("torch")
    values, labels = random.normal(0, 3, (BATCH, CLASSES)), random.integers(0, CLASSES, BATCH)
    logits = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SmoothedCrossEntropy(smoothing)(labels, logits)
    torch_logits = torch.tensor(values, requires_grad=True)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(torch_logits, torch.tensor(labels))
    expected.backward()
    assert loss.numpy() == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(tape.gradient(loss, logits), torch_logits.grad, rtol=1e-12, atol=1e-15)


def test_smoothed_cross_entropy_from_its_config():
    loss = SmoothedCrossEntropy(0.1)
    copy = SmoothedCrossEntropy.from_config(loss.get_config())
    assert (copy.smoothing, copy.name) == (0.1, "smoothed_cross_entropy")


def test_build_loss_uses_the_label_smoothing_of_the_stage():
    stage = Stage(epochs=1, batch_size=1, optimizer=OptimizerConfig(name="sgd", learning_rate=0.1))
    smoothed = build_loss(stage.model_copy(update={"label_smoothing": 0.2}))
    assert (type(smoothed), smoothed.smoothing) == (SmoothedCrossEntropy, 0.2)
    for plain in (build_loss(stage), build_loss()):
        assert type(plain) is tf.keras.losses.SparseCategoricalCrossentropy


def test_smoothing_of_zero_is_plain_cross_entropy(random, float64):
    logits, labels = tf.constant(random.normal(0, 3, (BATCH, CLASSES))), random.integers(0, CLASSES, BATCH)
    assert float(build_loss()(labels, logits)) == pytest.approx(
        float(SmoothedCrossEntropy(0.0)(labels, logits)), rel=1e-12
    )


# --- distillation ---

TEMPERATURE, WEIGHT = 2.5, 0.3


def dense_model(name, batch_norm=False):
    inputs = tf.keras.layers.Input((FEATURES,))
    outputs = tf.keras.layers.Dense(CLASSES, name=f"{name}_dense")(inputs)
    if batch_norm:
        outputs = tf.keras.layers.BatchNormalization(name=f"{name}_norm")(outputs)
    return tf.keras.Model(inputs, outputs, name=name)


def distilled(student, teacher, temperature=TEMPERATURE, weight=WEIGHT):
    logits = Distillation(teacher, temperature, weight)((student.input, student.output))
    return tf.keras.Model(student.input, logits)


def divergence(teacher, student, temperature=TEMPERATURE):
    """Return the mean over the batch of T² · KL(softmax(teacher / T) ‖ softmax(student / T))."""
    target, predicted = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(target) * (target - predicted)).sum(-1).mean()


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (TEMPERATURE, WEIGHT), (20.0, 0.9)])
def test_distillation_equals_the_formula_and_torch(temperature, weight, random, float64):
    torch = pytest.importorskip("torch")
    images, logits = random.normal(0, 1, (BATCH, FEATURES)), random.normal(0, 3, (BATCH, CLASSES))
    teacher_logits = random.normal(0, 3, (BATCH, CLASSES))
    student = tf.constant(logits)
    layer = Distillation(lambda _: tf.constant(teacher_logits), temperature, weight)
    with tf.GradientTape() as tape:
        tape.watch(student)
        output = layer((tf.constant(images), student))
        (loss,) = layer.losses
    assert np.array_equal(output, logits)
    assert loss.numpy() == pytest.approx(weight * divergence(teacher_logits, logits, temperature), rel=1e-12)
    student_probabilities, teacher_probabilities = [
        np.exp(log_softmax(values / temperature)) for values in (logits, teacher_logits)
    ]
    gradient = tape.gradient(loss, student)
    difference = student_probabilities - teacher_probabilities
    np.testing.assert_allclose(gradient, weight * temperature * difference / BATCH, rtol=1e-10, atol=1e-15)

    torch_logits = torch.tensor(logits, requires_grad=True)
    soft = [torch.log_softmax(values / temperature, -1) for values in (torch_logits, torch.tensor(teacher_logits))]
    expected = weight * temperature**2 * torch.nn.KLDivLoss(reduction="batchmean", log_target=True)(*soft)
    expected.backward()
    assert loss.numpy() == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, torch_logits.grad, rtol=1e-10, atol=1e-15)


def entropy(logits):
    """Return the mean entropy of softmax(logits)."""
    return -(np.exp(log_softmax(logits)) * log_softmax(logits)).sum(-1).mean()


def test_distillation_equals_the_distribution_loss_of_reactnet(float64):
    """ReActNet's loss is cross-entropy with soft targets: more by the teacher's entropy, with the same gradients."""
    golden = quantizer_values("quantizers_more")
    teacher, student = golden["kd/teacher"], tf.constant(golden["kd/student"], tf.float64)
    layer = Distillation(lambda _: tf.constant(teacher, tf.float64), 1.0, 1.0)
    with tf.GradientTape() as tape:
        tape.watch(student)
        layer((tf.zeros((len(teacher), 1)), student))
        (loss,) = layer.losses
    assert loss.numpy() + entropy(teacher.astype(float)) == pytest.approx(float(golden["kd/loss"]), rel=1e-9)
    np.testing.assert_allclose(tape.gradient(loss, student), golden["kd/grad"], rtol=1e-9, atol=1e-15)


@pytest.mark.slow
def test_gradients_of_the_distribution_loss_equal_those_of_reactnet(float64):
    """Of all weights of ReAct-ResNet-18, in training mode."""
    golden, meta, _, weights, images, _ = procedural.load(GOLDEN / "reactnet_resnet18.npz")
    network = parity.Evaluation("reactnet_resnet18", meta, weights, images)
    teacher = golden["teacher"].astype(float)
    layer = Distillation(lambda _: tf.constant(teacher), 1.0, 1.0)
    variables = network.model.trainable_variables
    with tf.GradientTape() as tape:
        layer((network.images, network.output(training=True)))
        (loss,) = layer.losses
    assert loss.numpy() + entropy(teacher) == pytest.approx(float(golden["kd_loss"]), rel=1e-9)
    gradients = tape.gradient(loss, [getattr(variable, "latent_variable", variable) for variable in variables])
    computed = dict(zip(interop.reference_names(network.model, variables), gradients, strict=True))
    field = "kd_grad_norm/"
    norms = {key.removeprefix(field): golden[key] for key in golden.files if key.startswith(field)}
    del norms["__input__"]
    assert computed.keys() == norms.keys()
    slack = 1e-12 * max(norms.values())
    for name, gradient in computed.items():
        assert np.linalg.norm(gradient) == pytest.approx(norms[name], rel=1e-9, abs=slack)
        rounding = 1e-12 * np.abs(gradient).sum() + slack  # terms of the sum cancel
        assert np.sum(gradient) == pytest.approx(golden[f"kd_grad_sum/{name}"], rel=1e-9, abs=rounding)


def test_equal_logits_have_no_divergence(random, float64):
    logits = tf.constant(random.normal(0, 30, (BATCH, CLASSES)))
    layer = Distillation(lambda images: logits, TEMPERATURE, 1.0)
    layer((tf.zeros((BATCH, FEATURES)), logits))
    assert layer.losses[0].numpy() == pytest.approx(0, abs=1e-14)


def test_no_gradient_reaches_the_teacher(random):
    student, teacher = dense_model("student"), dense_model("teacher")
    model = distilled(student, teacher)
    with tf.GradientTape() as tape:
        model(tf.constant(random.normal(0, 1, (BATCH, FEATURES)), tf.float32), training=True)
        (loss,) = model.losses
    gradients = tape.gradient(loss, [*student.trainable_weights, *teacher.trainable_weights])
    assert [gradient is None for gradient in gradients] == [False, False, True, True]
    assert np.abs(gradients[0]).max() > 0


def test_teacher_weights_are_not_weights_of_the_model(tmp_path):
    student, teacher = dense_model("student"), dense_model("teacher", batch_norm=True)
    model = distilled(student, teacher)
    names = [weight.name for weight in student.weights]
    assert [weight.name for weight in model.weights] == [weight.name for weight in model.trainable_weights] == names
    assert not model.layers[-1].variables
    model.save_weights(tmp_path / "weights.h5", save_format="h5")
    before = student.get_weights()
    student.set_weights([np.zeros_like(weight) for weight in before])
    student.load_weights(tmp_path / "weights.h5", by_name=True)
    for saved, loaded in zip(before, student.get_weights(), strict=True):
        assert np.array_equal(saved, loaded)


@pytest.mark.parametrize("eagerly", [False, True])
def test_training_loss_includes_the_divergence_from_the_teacher(eagerly, random):
    student, teacher = dense_model("student"), dense_model("teacher")
    model = distilled(student, teacher)
    images, labels = random.normal(0, 1, (BATCH, FEATURES)).astype(np.float32), random.integers(0, CLASSES, BATCH)
    logits, teacher_logits = student(images).numpy(), teacher(images).numpy()
    model.compile("sgd", build_loss(), loss_weights=[1 - WEIGHT], run_eagerly=eagerly)
    expected = (1 - WEIGHT) * cross_entropy(logits, labels, 0).mean() + WEIGHT * divergence(teacher_logits, logits)
    assert model.evaluate(images, labels, verbose=0) == pytest.approx(expected, rel=1e-5)
    history = model.fit(images, labels, batch_size=BATCH, epochs=20, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected, rel=1e-5)
    assert history[-1] < history[0]


def test_teacher_with_batch_norm_runs_in_inference_mode_and_is_unchanged(random):
    student, teacher = dense_model("student"), dense_model("teacher", batch_norm=True)
    teacher.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in teacher.get_weights()])
    before = teacher.get_weights()
    model = distilled(student, teacher)
    images, labels = random.normal(2, 3, (BATCH, FEATURES)).astype(np.float32), random.integers(0, CLASSES, BATCH)
    expected = divergence(teacher(images, training=False).numpy(), student(images).numpy())
    model.compile("sgd", build_loss(), loss_weights=[0.0])
    history = model.fit(images, labels, batch_size=BATCH, verbose=0).history["loss"]
    assert history[0] == pytest.approx(WEIGHT * expected, rel=1e-5)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        assert np.array_equal(old, new)
