"""Training an experiment into a run directory, and going on where it stopped."""

from bnn_keras.training.trainer import train

__all__ = ["train"]
