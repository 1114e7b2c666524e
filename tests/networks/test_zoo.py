"""Larq Zoo's networks: names of layers, and pre-trained weights with other classes and images."""

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import build_model, resolve
from bnn_keras.errors import BnnError
from bnn_keras.transfer import head, weights_by_name

pytest.importorskip("larq_zoo")

NETWORK = "zoo/quicknet_small"


def build(*overrides, network=NETWORK):
    return build_model(resolve(network, overrides=["data.name=fake", *overrides]).experiment)


def shape(height, classes):
    return f"data.shape=[{height}, {height}, 3]", f"data.classes={classes}"


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    from larq_zoo import sota
    from larq_zoo.sota.quicknet import QuickNetSmallFactory

    blocks = {"section_blocks": (1, 1), "section_filters": (8, 16)}
    monkeypatch.setattr(sota, "QuickNetSmall", lambda **options: QuickNetSmallFactory(**blocks, **options).build())


@pytest.fixture
def trained(tmp_path):
    """A file with weights of the network, as Larq Zoo downloads it, and the weights."""
    model = build("seed=5", *shape(224, 1000))
    file = tmp_path / "quicknet_small_weights.h5"
    model.save_weights(file)
    return file, weights_by_name(model)


@pytest.fixture
def downloads(monkeypatch, trained):
    """Download the file, and no other; return the names of the files asked for."""
    from larq_zoo.core import utils

    asked = []

    def download(model, version, file, file_hash, cache_dir=None):
        asked.append(file)
        return str(trained[0])

    monkeypatch.setattr(utils, "download_pretrained_model", download)
    return asked


def test_names_of_layers_do_not_depend_on_earlier_networks():
    tf.keras.layers.Conv2D(1, 1)  # Keras numbers it
    names = [[weight.name for weight in build(*shape(32, 3)).weights] for _ in range(2)]
    assert names[0] == names[1]
    assert {"quant_conv2d/kernel:0", "quant_dense/kernel:0", "batch_normalization/gamma:0"} <= set(names[0])


def test_weights_for_imagenet(downloads, trained):
    for name, value in weights_by_name(build("network.weights=imagenet")).items():
        np.testing.assert_array_equal(value, trained[1][name])
    assert downloads == ["quicknet_small_weights.h5"]


@pytest.mark.parametrize(("size", "classes"), [(224, 3), (64, 3), (64, 1000)])
@pytest.mark.usefixtures("downloads")
def test_weights_with_other_classes_and_images(trained, size, classes):
    """With other classes, the last layer is that of a network without pre-trained weights."""
    model = build("network.weights=imagenet", *shape(size, classes))
    assert model.output_shape == (None, classes)
    random = weights_by_name(build(*shape(size, classes)))
    fresh = head(model) if classes != 1000 else []
    for name, value in weights_by_name(model).items():
        np.testing.assert_array_equal(value, random[name] if name in fresh else trained[1][name])


@pytest.mark.usefixtures("downloads")
def test_weights_for_images_with_other_channels():
    message = (
        r"weight 'quant_conv2d/kernel:0' has shape \(3, 3, 3, 2\) in the network it is taken from, but \(3, 3, 1, 2\)"
    )
    with pytest.raises(BnnError, match=message):
        build("network.weights=imagenet", "data.shape=[64, 64, 1]", "data.classes=3", "data.mean=[0]", "data.std=[1]")


def test_weights_that_cannot_be_downloaded(monkeypatch):
    from larq_zoo.core import utils

    def fail(**arguments):
        raise Exception("URL fetch failure: no connection")

    monkeypatch.setattr(utils, "download_pretrained_model", fail)
    with pytest.raises(BnnError) as caught:
        build("network.weights=imagenet", *shape(64, 3))
    assert str(caught.value) == (
        "cannot load Larq Zoo's weights 'imagenet' (URL fetch failure: no connection); expected 'none' or 'imagenet', "
        "and for the latter a network connection or a filled Keras cache"
    )
