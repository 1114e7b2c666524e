"""One table of networks × schemes: every format of each predicts what the network predicts."""

import re

import numpy as np
import pytest
import tensorflow as tf
from helpers import EXPORTED

from bnn_keras import BnnError, catalog, export_run, train
from bnn_keras.build import build_network, build_scheme
from bnn_keras.counts import count
from bnn_keras.experiment import resolve
from bnn_keras.export.formats import files_of, format_module
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.kernels import has_binary_inputs

# Image sizes that keep large networks fast. Maps have at least 3 × 3 pixels: Larq Compute Engine pads maps that are
# smaller than the kernel wrongly.
SMALLEST = {
    **{"alexnet": 67, "binary_alexnet": 64, "xnornet": 217, "zoo/xnornet": 217, "resnet18_cifar": 32},
    **{"birealnet": 96, "resnet18": 96, "resnet34": 96, "zoo/": 96},
    **{"reactnet_a": 96, "torchvision": 96},
}
SLOW = ("lenet5", "resnet20")  # with every scheme
# Blocks of birealnet18, reactnet_a, resnet18, binary_alexnet, wrn_20_1 and torchvision_resnet18.
NIGHTLY = ("birealnet34", "birealnet50", "resnet34", "xnornet", "wrn_20_2", "wrn_20_10", "torchvision_resnet34")
LEARNT = ("reactnet", "recu")  # schemes with parts that learn
# Networks of CI with few, narrow layers of each kind; in full they are nightly.
RESIDUAL = {"blocks": (1, 1), "filters": (32, 64)}
SHALLOW = {
    "wrn_20_1": {"depth": 8},
    **dict.fromkeys(("resnet20", "resnet18_cifar", "resnet18", "birealnet18", "torchvision_resnet18"), RESIDUAL),
    **{name: {"filters": (32,) * 5, "units": (64, 64)} for name in ("alexnet", "binary_alexnet")},
    "binarynet": {"filters": 32, "multiples": (1, 2), "dense_units": 64, "dense_layers": 1},
    "nin": {"filters": (32,) * 8},
    "vgg_small": {"convolutions": ((32, False), (32, True), (64, True), (64, True))},
    "reactnet_a": {"stem": 16, "blocks": ((32, False), (32, True), (64, False))},
}
# A plain network with all schemes, of which two have parts that learn, and a residual network.
QUICK = [*(("lenet5", scheme) for scheme in catalog.SCHEMES if scheme != "recu"), ("resnet20", "irnet")]


def _mark(network, scheme):
    """Return the mark of a case: most networks are slow with the scheme of their paper and nightly with others."""
    if (network, scheme) in QUICK:
        return ()
    published = scheme == catalog.NETWORKS[network].scheme and network not in NIGHTLY and scheme != "zoo"
    return pytest.mark.slow if published or network in SLOW else pytest.mark.nightly


def _cases():
    """Yield network, scheme, and the options that make the network shallow."""
    for network in catalog.NETWORKS:
        for scheme in catalog.SCHEMES:
            if (scheme == "zoo") == network.startswith("zoo/"):
                mark = _mark(network, scheme)
                if network in SHALLOW and mark != pytest.mark.nightly:
                    yield pytest.param(network, scheme, SHALLOW[network], id=f"{network}-{scheme}-shallow", marks=mark)
                    mark = pytest.mark.nightly
                yield pytest.param(network, scheme, {}, id=f"{network}-{scheme}", marks=mark)


def job_of(network, scheme, shallow):
    """Return the export job of a network with random weights, and images."""
    experiment = resolve(network, scheme=scheme, optimizer="adam").experiment
    height, _, channels = catalog.NETWORKS[network].input_shape
    size = next((size for name, size in SMALLEST.items() if network.startswith(name)), height)
    tf.keras.utils.set_random_seed(3)
    options = {**experiment.network.choices, **shallow}
    model = build_network(network, build_scheme(experiment), (size, size, channels), 10, **options)
    images = randomize_weights(model)
    return ExportJob(model, experiment, [str(label) for label in range(10)]), images


def expected_float_layers(job, row, part):
    """Return the binary layers that are float in a format, in the part `packs` or `computes` of its row."""
    layers = [job.model.get_layer(name) for name in job.kernels]
    real = {"all": [], "binary inputs": [layer for layer in layers if not has_binary_inputs(layer)], "none": layers}
    # OpenVINO cannot compute binary convolutions whose padding is as wide as the kernel.
    openvino = (row.name, part) == ("openvino", "computes")
    wide = [layer for layer in layers if openvino and max(getattr(layer, "dilation_rate", (1,))) > 2]
    return [layer.name for layer in layers if layer in real[getattr(row, part)] or layer in wide]


@pytest.mark.parametrize(("network", "scheme", "shallow"), list(_cases()))
def test_every_format_predicts_what_the_network_predicts(network, scheme, shallow, tmp_path):
    job, images = job_of(network, scheme, shallow)
    expected = job.model(images, training=False).numpy()
    for row in catalog.FORMATS.values():
        if (
            not row.opens
            or row.self_contained
            or (row.name in ("onnx", "qonnx", "c") and scheme not in (catalog.NETWORKS[network].scheme, *LEARNT))
        ):
            continue  # tested elsewhere; ONNX and C have the same operators for the other schemes
        module = format_module(row)
        file = tmp_path / f"model{row.suffix or ''}"
        try:
            float_layers = module.convert(job, file)
        except BnnError as error:
            if re.search("cannot be written as C|bytes of constants", str(error)):
                continue
            raise
        assert list(float_layers.stored) == expected_float_layers(job, row, "packs")
        assert list(float_layers.computed) == expected_float_layers(job, row, "computes")
        if row.packs == "all":
            weights = [part for part in files_of(file) if part.suffix in row.companions] or files_of(file)
            limit = 1.05 * count(job.model)["bytes_minimum"] + 32 * 1024
            assert sum(part.stat().st_size for part in weights) <= limit, row.name
        actual = module.load(file)(images)
        errors = np.sort(np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1))
        # In deep networks with random weights, rounding that flips a sign changes the logits of some images. A wrong
        # layer changes those of all images.
        assert errors[2] < 1e-2, (row.name, errors)
        assert (expected.argmax(-1) == actual.argmax(-1)).mean() >= 0.5, (row.name, errors)


@pytest.mark.parametrize(
    "scheme", [pytest.param("reactnet", marks=pytest.mark.slow), pytest.param("recu", marks=pytest.mark.nightly)]
)
def test_trained_network_with_learnt_parts_agrees_on_every_image(scheme, tmp_path, data_dir):
    train(resolve("lenet5", scheme=scheme, epochs=1).experiment, tmp_path / "run", data_dir=data_dir)
    for to, name in EXPORTED.items():
        assert (
            export_run(tmp_path / "run", to, tmp_path / name, data_dir=data_dir, verify_images=200)["agreement"] == 100
        ), to
