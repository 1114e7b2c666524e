"""Kernels of SavedModels in one bit per weight, compared with the Keras model."""

import types

import numpy as np
import pytest
import tensorflow as tf
from helpers import network_with_binary_kernels

from bnn_keras.export import saved_model
from bnn_keras.export.saved_graph import save_graph


def convert(model, folder):
    """Return the folder of a model, and its real kernels."""
    save_graph(model, folder / "graph")
    saved_model.convert(types.SimpleNamespace(graph=folder / "graph", kernels={}), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two networks with different weights and the same names, and their folders."""
    models = [network_with_binary_kernels(seed) for seed in (0, 1)]
    return [(model, convert(model, tmp_path_factory.mktemp("written"))) for model in models]


def test_kernels_take_one_bit(written):
    (model, folder), _ = written
    bits = sum(model.get_layer(name).kernel.shape.num_elements() for name in ("binary", "logits"))
    numbers = model.count_params() - bits + 7  # and the scales
    (file,) = folder.iterdir()
    assert file.stat().st_size < bits / 8 + 4 * numbers + 256 * 8 + 5 * 1024
    constants, _ = saved_model._constant_graph(folder.parent / "graph")
    with tf.Graph().as_default():
        kernels, (real,) = saved_model._decoded_kernels(constants)
    assert len(kernels) == 2
    assert np.array_equal(real, model.get_layer("real").kernel.numpy())


def test_models_that_are_loaded_together_keep_their_kernels(written):
    images = np.random.default_rng(2).normal(size=(2, 6, 6, 3)).astype(np.float32)
    predictors = [saved_model.load(folder) for _, folder in written]
    for predict, (model, _) in zip(predictors, written, strict=True):
        np.testing.assert_allclose(predict(images), model(images), rtol=1e-4, atol=1e-5)


def test_kernels_are_variables_of_the_loaded_model(written):
    """They are then freed with it. Resources of its graph would be those of the process, found by name."""
    (_, folder), _ = written
    shapes = [variable.shape for variable in tf.saved_model.load(str(folder)).variables]
    assert shapes == [(3, 3, 5, 7), (112, 4)]


def test_a_session_restores_nothing_and_initializes_the_kernels(written):
    """This is how TensorFlow Serving loads a folder."""
    (model, folder), _ = written
    images = np.ones((2, 6, 6, 3), np.float32)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
        signature = meta_graph.signature_def["serving_default"]
        actual = session.run(signature.outputs["outputs"].name, {signature.inputs["images"].name: images})
    np.testing.assert_allclose(actual, model(images), rtol=1e-4, atol=1e-5)
