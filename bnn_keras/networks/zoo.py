"""The networks of Larq Zoo, which bring their own quantizers and, where asked for, their pre-trained weights."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable

import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.schemes import Scheme


def zoo(
    network: str, function: str, scheme: Scheme, images: tf.Tensor, classes: int, weights: str = "none"
) -> tf.Tensor:
    """A network of Larq Zoo, less the softmax that ends it.

    Args:
        network: The name in the catalog, without "zoo/".
        function: Larq Zoo's function: "sota.QuickNet" is `larq_zoo.sota.QuickNet`.
        scheme: Not used: these networks have their own.
        images: (batch, height, width, channels), 224×224×3 for the pre-trained weights.
        classes: Number of logits; 1,000 for the pre-trained weights.
        weights: "none", or "imagenet": downloaded where they are not in Keras's cache.

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: Larq Zoo is not installed, or the pre-trained weights are not available.

    Source: larq_zoo.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # QuickNet shares initializers, and has functions for some
        original = _made(_function(network, function), images, classes, None if weights == "none" else weights)
        # Larq Zoo takes no Keras tensor, and a model inside a model would hide its layers: the same ones on our images.
        model = tf.keras.models.clone_model(original, input_tensors=images)
    model.set_weights(original.get_weights())
    return model.layers[-1].input


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


def _made(
    function: Callable[..., tf.keras.Model], images: tf.Tensor, classes: int, weights: str | None
) -> tf.keras.Model:
    try:
        return function(input_shape=tuple(images.shape[1:]), num_classes=classes, weights=weights)
    except Exception as error:  # Keras raises just that where a download fails
        if weights is None:
            raise
        raise BnnError(
            f"cannot load Larq Zoo's weights {weights!r} ({error}); expected 'none' or 'imagenet', and for the latter "
            "images 224×224×3, 1,000 classes and a network or a filled Keras cache"
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
