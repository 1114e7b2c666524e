"""Train experiments into run directories, resume interrupted trainings, and import checkpoints of the references."""

from bnn_keras.training.importing import import_checkpoint
from bnn_keras.training.trainer import train

__all__ = ["import_checkpoint", "train"]
