"""Networks of Larq Zoo, with their own quantizers and, on request, pre-trained weights."""

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
    """Build a network of Larq Zoo, without its final softmax.

    Args:
        network: The name in the catalog, without "zoo/".
        function: Larq Zoo's function: "sota.QuickNet" is `larq_zoo.sota.QuickNet`.
        scheme: Ignored: these networks have their own quantizers.
        images: (batch, height, width, channels), 224×224×3 for the pre-trained weights.
        classes: Number of logits; 1,000 for the pre-trained weights.
        weights: "none", or "imagenet" for pre-trained weights, downloaded unless they are in Keras's cache.

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: Larq Zoo is not installed, or the pre-trained weights are not available.

    Source: larq_zoo.
    """
    with warnings.catch_warnings():
        # QuickNet shares initializers between layers and uses functions as initializers; Keras warns about both.
        warnings.simplefilter("ignore", UserWarning)
        original = _build(_function(network, function), images, classes, None if weights == "none" else weights)
        # Larq Zoo's functions do not accept a Keras tensor, and a nested model would hide its layers. So clone it.
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


def _build(
    function: Callable[..., tf.keras.Model], images: tf.Tensor, classes: int, weights: str | None
) -> tf.keras.Model:
    try:
        return function(input_shape=tuple(images.shape[1:]), num_classes=classes, weights=weights)
    except Exception as error:  # Keras raises a plain Exception if a download fails
        if weights is None:
            raise
        raise BnnError(
            f"cannot load Larq Zoo's weights {weights!r} ({error}); expected 'none' or 'imagenet', and for the latter "
            "images 224×224×3, 1,000 classes and a network connection or a filled Keras cache"
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
