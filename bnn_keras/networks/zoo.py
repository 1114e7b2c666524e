"""Networks of Larq Zoo, with their own quantizers and, on request, pre-trained weights."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import larq_zoo
import tensorflow as tf

from bnn_keras.errors import BnnError
from bnn_keras.schemes import Scheme


def zoo(
    function: Callable[..., tf.keras.Model], scheme: Scheme, images: tf.Tensor, classes: int, weights: str = "none"
) -> tf.Tensor:
    """Build a network of Larq Zoo, without its final softmax.

    Args:
        function: Larq Zoo's function.
        scheme: Ignored: these networks have their own quantizers.
        images: (batch, height, width, channels), 224×224×3 for the pre-trained weights.
        classes: Number of logits; 1,000 for the pre-trained weights.
        weights: "none", or "imagenet" for pre-trained weights, downloaded unless they are in Keras's cache.

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: The pre-trained weights are not available.

    Source: larq_zoo.
    """
    with warnings.catch_warnings():
        # QuickNet shares initializers between layers and uses functions as initializers; Keras warns about both.
        warnings.simplefilter("ignore", UserWarning)
        original = _build(function, images, classes, None if weights == "none" else weights)
        # Larq Zoo's functions do not accept a Keras tensor, and a nested model would hide its layers. So clone it.
        model = tf.keras.models.clone_model(original, input_tensors=images)
    model.set_weights(original.get_weights())
    return model.layers[-1].input


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


quicknet_small = functools.partial(zoo, larq_zoo.sota.QuickNetSmall)
quicknet = functools.partial(zoo, larq_zoo.sota.QuickNet)
quicknet_large = functools.partial(zoo, larq_zoo.sota.QuickNetLarge)
binary_alexnet = functools.partial(zoo, larq_zoo.literature.BinaryAlexNet)
xnornet = functools.partial(zoo, larq_zoo.literature.XNORNet)
dorefanet = functools.partial(zoo, larq_zoo.literature.DoReFaNet)
birealnet = functools.partial(zoo, larq_zoo.literature.BiRealNet)
binary_resnet_e18 = functools.partial(zoo, larq_zoo.literature.BinaryResNetE18)
binary_densenet28 = functools.partial(zoo, larq_zoo.literature.BinaryDenseNet28)
binary_densenet37 = functools.partial(zoo, larq_zoo.literature.BinaryDenseNet37)
binary_densenet37_dilated = functools.partial(zoo, larq_zoo.literature.BinaryDenseNet37Dilated)
binary_densenet45 = functools.partial(zoo, larq_zoo.literature.BinaryDenseNet45)
meliusnet22 = functools.partial(zoo, larq_zoo.literature.MeliusNet22)
real_to_binary_net = functools.partial(zoo, larq_zoo.literature.RealToBinaryNet)
