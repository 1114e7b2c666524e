"""One table of networks × schemes: every format of each predicts what the network predicts."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_network, build_scheme
from bnn_keras.experiment import resolve
from bnn_keras.export.job import ExportJob
from bnn_keras.export.kernels import has_binary_inputs
from bnn_keras.export.random_weights import randomize_weights

# Images that keep the large ones quick, with maps of 3 × 3 at the least: Larq Compute Engine's zero padding is wrong
# where a map is smaller than the kernel.
SMALLEST = {
    **{"alexnet": 67, "binary_alexnet": 64, "xnornet": 217, "zoo/xnornet": 217, "resnet18_cifar": 32},
    **{"birealnet": 96, "resnet18": 96, "resnet34": 96, "zoo/": 96},
}
SMALL = ("lenet5", "nin", "wrn_20_1", "binarynet", "resnet20", "vgg_small", "zoo/quicknet", "zoo/real_to_binary_net")
QUICK = ("lenet5", "resnet20")


def _mark(network, own):
    """Quick, slow, or more than CI has time for: large networks with schemes that are not their own."""
    if network in QUICK and own:
        return []
    zoo = network.startswith("zoo/")
    in_time = network in SMALL or (own and not zoo)
    return [pytest.mark.slow if in_time else pytest.mark.nightly]


def _table():
    for network, row in catalog.NETWORKS.items():
        for scheme in catalog.SCHEMES:
            if (scheme == "zoo") == network.startswith("zoo/"):
                yield pytest.param(network, scheme, marks=_mark(network, scheme == row.scheme))


def source(network, scheme):
    """A network with weights that look trained, and images."""
    experiment = resolve(network, scheme=scheme, optimizer="adam").experiment
    height, _, channels = catalog.NETWORKS[network].input_shape
    size = next((size for name, size in SMALLEST.items() if network.startswith(name)), height)
    structure = {"structure": experiment.network.structure} if experiment.network.structure else {}
    tf.keras.utils.set_random_seed(3)
    shape, options = (size, size, channels), experiment.network.choices
    model = build_network(network, build_scheme(experiment), shape, 10, **options, **structure)
    images = randomize_weights(model)
    return ExportJob(model, experiment, [str(label) for label in range(10)]), images


def expected_in_float(source, row):
    """The binary layers that a format has in float."""
    layers = [source.model.get_layer(name) for name in source.kernels]
    real = {"all": [], "binary inputs": [layer for layer in layers if not has_binary_inputs(layer)], "none": layers}
    wide = [layer for layer in layers if row.name == "openvino" and max(getattr(layer, "dilation_rate", (1,))) > 2]
    return [layer.name for layer in layers if layer in real[row.packs] or layer in wide]  # padding as wide as kernels


@pytest.mark.parametrize(("network", "scheme"), list(_table()))
def test_every_format_predicts_what_the_network_predicts(network, scheme, tmp_path):
    exported, images = source(network, scheme)
    predict = tf.function(lambda images: exported.model(images, training=False))
    for row in catalog.FORMATS.values():
        if row.name == "packed" or (row.name == "onnx" and scheme != catalog.NETWORKS[network].scheme):
            continue  # packed: test_packed.py; ONNX: no other operators with other schemes, and its converter is slow
        module = importlib.import_module(row.module)
        file = tmp_path / f"model{row.suffix or ''}"
        assert list(module.convert(exported, file)) == expected_in_float(exported, row)
        logits, found = predict(images).numpy(), module.load(file)(images)
        errors = np.sort(np.linalg.norm(found - logits, axis=-1) / np.linalg.norm(logits, axis=-1))
        # Deep networks of random weights magnify a sign that rounding turned, in some images; a wrong layer is wrong in
        # all of them.
        assert errors[2] < 1e-2, (row.name, errors)
        assert (logits.argmax(-1) == found.argmax(-1)).mean() >= 0.5, (row.name, errors)
