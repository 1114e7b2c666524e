"""Networks of Larq Zoo, with their own quantizers and, on request, pre-trained weights."""

from __future__ import annotations

import functools
import operator
import re
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.networks.keras_names import KerasNames
from bnn_keras.schemes import Scheme
from bnn_keras.transfer import assign_weights, head, weights_by_name

IMAGENET_SHAPE, IMAGENET_CLASSES = (224, 224, 3), 1000


def zoo(
    network: str, function: str, scheme: Scheme, images: tf.Tensor, classes: int, weights: str = "none"
) -> tf.Tensor:
    """Build a network of Larq Zoo, without its final softmax.

    Args:
        network: The name in the catalog, without "zoo/".
        function: Larq Zoo's function: "sota.QuickNet" is `larq_zoo.sota.QuickNet`.
        scheme: Ignored: these networks have their own quantizers.
        images: (batch, height, width, channels).
        classes: Number of logits.
        weights: "none", or "imagenet" for pre-trained weights, downloaded unless they are in Keras's cache. With
            another number of classes than 1,000, the last layer keeps its initial weights.

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: Larq Zoo is not installed, or the pre-trained weights are not available, or they do not fit images of
            this shape.

    Source: larq_zoo.
    """
    build = _function(network, function)
    with warnings.catch_warnings():
        # QuickNet shares initializers between layers and uses functions as initializers; Keras warns about both.
        warnings.simplefilter("ignore", UserWarning)
        original = build(input_shape=tuple(images.shape[1:]), num_classes=classes, weights=None)
        # Larq Zoo's functions do not accept a Keras tensor, and a nested model would hide its layers. So clone it.
        model = tf.keras.models.clone_model(original, input_tensors=images, clone_function=_Renamed())
        model.set_weights(original.get_weights())
        if weights != "none":
            values = dict(zip(weights_by_name(model), _pretrained(build, weights), strict=True))
            fresh = head(model) if classes != IMAGENET_CLASSES else ()
            assign_weights(model, {name: value for name, value in values.items() if name not in fresh})
    return model.layers[-1].input


class _Renamed:
    """Copy layers, with Keras's automatic names numbered from the start.

    Keras counts all layers of a process. Weights pass between networks by name, so a network has the same names however
    many were built before.
    """

    def __init__(self) -> None:
        self.names = KerasNames()

    def __call__(self, layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        kind = re.sub(r"_\d+$", "", layer.name)
        automatic = kind.replace("_", "") == type(layer).__name__.lower()
        return type(layer).from_config({**layer.get_config(), "name": self.names(kind) if automatic else layer.name})


def _function(network: str, path: str) -> Callable[..., tf.keras.Model]:
    """Import Larq Zoo, which is needed for its own networks only, and return its function at `path`."""
    try:
        import larq_zoo
    except ImportError as error:
        raise BnnError(
            f"network 'zoo/{network}' needs Larq Zoo, which is not installed; run pip install larq-zoo, or choose a "
            "network without 'zoo/' in its name"
        ) from error
    function: Callable[..., tf.keras.Model] = operator.attrgetter(path)(larq_zoo)
    return function


def _pretrained(build: Callable[..., tf.keras.Model], weights: str) -> list[np.ndarray]:
    """Return Larq Zoo's weights for ImageNet, in the order of the network's weights."""
    try:
        return build(input_shape=IMAGENET_SHAPE, num_classes=IMAGENET_CLASSES, weights=weights).get_weights()
    except Exception as error:  # Keras raises a plain Exception if a download fails
        raise BnnError(
            f"cannot load Larq Zoo's weights {weights!r} ({error}); expected 'none' or 'imagenet', and for the latter "
            "a network connection or a filled Keras cache"
        ) from error


quicknet_small = functools.partial(zoo, "quicknet_small", "sota.QuickNetSmall")
quicknet = functools.partial(zoo, "quicknet", "sota.QuickNet")
quicknet_large = functools.partial(zoo, "quicknet_large", "sota.QuickNetLarge")
binary_alexnet = functools.partial(zoo, "binary_alexnet", "literature.BinaryAlexNet")
xnornet = functools.partial(zoo, "xnornet", "literature.XNORNet")
dorefanet = functools.partial(zoo, "dorefanet", "literature.DoReFaNet")
birealnet = functools.partial(zoo, "birealnet", "literature.BiRealNet")
binary_resnet_e18 = functools.partial(zoo, "binary_resnet_e18", "literature.BinaryResNetE18")
binary_densenet28 = functools.partial(zoo, "binary_densenet28", "literature.BinaryDenseNet28")
binary_densenet37 = functools.partial(zoo, "binary_densenet37", "literature.BinaryDenseNet37")
binary_densenet37_dilated = functools.partial(zoo, "binary_densenet37_dilated", "literature.BinaryDenseNet37Dilated")
binary_densenet45 = functools.partial(zoo, "binary_densenet45", "literature.BinaryDenseNet45")
meliusnet22 = functools.partial(zoo, "meliusnet22", "literature.MeliusNet22")
real_to_binary_net = functools.partial(zoo, "real_to_binary_net", "literature.RealToBinaryNet")
