"""The networks of Larq Zoo, which bring their own quantizers and, where asked for, their pre-trained weights."""

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
    """A network of Larq Zoo, less the softmax that ends it.

    Args:
        function: Larq Zoo's function.
        scheme: Not used: these networks have their own.
        images: (batch, height, width, channels), 224×224×3 for the pre-trained weights.
        classes: Number of logits; 1,000 for the pre-trained weights.
        weights: "none", or "imagenet": downloaded where they are not in Keras's cache.

    Returns:
        Logits, (batch, classes).

    Raises:
        BnnError: The pre-trained weights cannot be had.

    Source: larq_zoo.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # QuickNet shares initializers, and has functions for some
        original = _made(function, images, classes, None if weights == "none" else weights)
        # Larq Zoo takes no Keras tensor, and a model inside a model would hide its layers: the same ones on our images.
        model = tf.keras.models.clone_model(original, input_tensors=images)
    model.set_weights(original.get_weights())
    return model.layers[-1].input


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
