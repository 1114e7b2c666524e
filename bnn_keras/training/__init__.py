"""Training an experiment into a run directory, going on where it stopped, starting from a reference's checkpoint."""

from bnn_keras.training.importing import import_checkpoint
from bnn_keras.training.trainer import train

__all__ = ["import_checkpoint", "train"]
