"""Write a network as a SavedModel, the input of every converter."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from bnn_keras.data.readers import reason_of

# TensorFlow's errors for those of the operating system: no space, no permission, a file that is too large, others.
_WRITE_ERRORS = (
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.OutOfRangeError,
    tf.errors.UnknownError,
)

INPUT, OUTPUT = "images", "outputs"


def save_graph(network: tf.keras.Model, folder: Path, softmax: bool = False) -> None:
    """Write a SavedModel with one signature: `images` (batch, height, width, channels) → `outputs` (batch, classes).

    Args:
        network: The network; usually frozen.
        folder: The folder to write.
        softmax: Return probabilities instead of logits.

    Raises:
        OSError: The folder cannot be written.
    """
    module = tf.Module()
    module.variables_of_network = network.variables

    def outputs(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(images, training=False)
        return {OUTPUT: tf.nn.softmax(logits) if softmax else logits}

    images = tf.TensorSpec((None, *network.input_shape[1:]), name=INPUT)
    module.serve = tf.function(outputs, input_signature=[images])
    # Gradient functions of quantizers capture variables that are not tracked, and inference needs no gradients.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, str(folder), signatures=module.serve, options=options)
    except _WRITE_ERRORS as error:
        *_, reason = reason_of(error).split("; ")  # behind the file's name
        raise OSError(reason) from error
