"""Limit TensorFlow's threads."""

from __future__ import annotations

import tensorflow as tf

from bnn_keras.errors import BnnError


def limit_threads(threads: int | None) -> None:
    """Set the number of threads that TensorFlow computes with; None keeps its default.

    TensorFlow accepts a number only before its first operation.

    Raises:
        BnnError: TensorFlow has already started with another number.
    """
    if threads is None or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise BnnError(
            f"cannot limit TensorFlow to {threads} thread(s): it is already running; set the number before the first "
            "use of TensorFlow, in a process of its own"
        ) from error
