"""Kernels of TFLite files, compared with those of Larq Compute Engine's converter."""

import larq_compute_engine
import numpy as np
from helpers import network_with_binary_kernels
from larq_compute_engine.tflite.python.interpreter import Interpreter

from bnn_keras.export import tflite
from bnn_keras.export.saved_graph import save_graph


def test_kernels_of_layers_with_real_inputs_take_eight_bits(tmp_path):
    model = network_with_binary_kernels(0)
    save_graph(model, tmp_path / "graph")
    floats = larq_compute_engine.convert_saved_model(str(tmp_path / "graph"))
    signs, kernels = tflite.convert_graph(str(tmp_path / "graph"), "float32")
    assert len(kernels) == 3
    weights = sum(model.get_layer(name).kernel.shape.num_elements() for name in ("binary", "logits"))
    assert len(signs) < len(floats) - 3 * weights + 1024
    images = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
    for threads in (1, 2):
        assert np.array_equal(Interpreter(signs, threads).predict(images), Interpreter(floats, threads).predict(images))
