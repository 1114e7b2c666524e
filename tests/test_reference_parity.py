"""Every network computes what its reference computes: one test per golden file, in float64."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import interop
from bnn_keras.build import build_model
from bnn_keras.constraints import apply_constraints
from bnn_keras.experiment import resolve

FOLDER = Path(os.environ.get("BNN_KERAS_GOLDENS", Path(__file__).parent / "golden"))
FILES = sorted(path for path in FOLDER.glob("*.npz") if path.stem != "quantizers")

# The network, and the options with it, that each golden is a reference of.
NETWORKS = {"xnor_lenet5": ("lenet5", {"scheme": "xnor"}), "xnor_lenet5_clip": ("lenet5", {"scheme": "xnor"})}

STEP_SIZE = 0.01


def distance(ours, reference):
    """The largest difference, relative to the reference's largest value."""
    return np.max(np.abs(np.asarray(ours) - reference)) / np.max(np.abs(reference))


def step(model, images, labels):
    """One pass in training mode: output, loss, gradients of the variables, gradient of the images."""
    latents = [getattr(variable, "latent_variable", variable) for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(images)
        output = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, output))
    *gradients, image_gradient = tape.gradient(loss, [*latents, images])
    return output, loss, gradients, image_gradient


def check_gradients(golden, gradients, image_gradient):
    # Biases in front of a batch norm have gradients that are zero but for rounding: the slack is theirs.
    slack = 1e-12 * max(golden[key] for key in golden.files if key.startswith("grad_norm/"))
    norms = {**gradients, "__input__": image_gradient}
    assert {key.split("/", 1)[1] for key in golden.files if key.startswith("grad_norm/")} == set(norms)
    for name, gradient in norms.items():
        expected = golden[f"grad_norm/{name}"]
        assert abs(np.linalg.norm(gradient) - expected) <= 1e-8 * expected + slack, name
    for name, gradient in gradients.items():
        flat = gradient.ravel()
        if f"grad_full/{name}" in golden:
            parts = [(flat, golden[f"grad_full/{name}"], 1e-6)]
        else:
            parts = [(flat[:64], golden[f"grad_head/{name}"], 1e-8), (flat[-64:], golden[f"grad_tail/{name}"], 1e-8)]
        for ours, reference, tolerance in parts:
            assert np.max(np.abs(ours - reference)) <= tolerance * np.max(np.abs(reference)) + slack, name


def test_golden_files_are_there():
    assert {path.stem for path in FILES} >= set(NETWORKS)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("float64")
def test_equals_reference(file, procedural):
    golden, _, _, weights, images, labels = procedural.load(file)
    network, options = NETWORKS[file.stem]
    model = build_model(resolve(network, **options).experiment)
    interop.load_reference(model, weights)
    images = tf.constant(images.transpose(0, 2, 3, 1), tf.float64)

    assert distance(model(images, training=False), golden["eval_out"]) <= 1e-9

    losses = []
    names = interop.reference_names(model, model.trainable_variables)
    for number in range(5):
        output, loss, gradients, image_gradient = step(model, images, labels)
        losses.append(loss.numpy())
        if number == 0:
            assert distance(output, golden["train_out"]) <= 1e-9
            assert distance(loss, golden["train_loss"]) <= 1e-9
            values = {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}
            check_gradients(golden, interop.to_reference(model, values), image_gradient)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(tf.constant(STEP_SIZE, tf.float64) * gradient)
        after_update = interop.to_reference(model)
        apply_constraints(model)
    np.testing.assert_allclose(losses, golden["loss_steps"], rtol=1e-8)
    for key in golden.files:
        if key.startswith("param_norm_after/"):
            ours = np.linalg.norm(after_update[key.removeprefix("param_norm_after/")])
            np.testing.assert_allclose(ours, golden[key], rtol=1e-8, err_msg=key)
        if key.startswith("latent_norm_after_eval/"):
            ours = np.linalg.norm(interop.to_reference(model)[key.removeprefix("latent_norm_after_eval/")])
            np.testing.assert_allclose(ours, golden[key], rtol=1e-8, err_msg=key)
    assert distance(model(images, training=False), golden["eval_out_after"]) <= 1e-8


def test_float32_evaluation_equals_reference(procedural):
    golden, _, _, weights, images, _ = procedural.load(FOLDER / "xnor_lenet5.npz")
    model = build_model(resolve("lenet5").experiment)
    interop.load_reference(model, weights)
    assert distance(model(images.transpose(0, 2, 3, 1), training=False), golden["eval_out"]) <= 1e-5


def test_evaluation_changes_no_weight(procedural):
    _, _, _, weights, images, _ = procedural.load(FOLDER / "xnor_lenet5_clip.npz")
    model = build_model(resolve("lenet5").experiment)
    interop.load_reference(model, weights)
    before = model.get_weights()
    model(images.transpose(0, 2, 3, 1), training=False)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
