"""Train experiments into run directories, resume interrupted trainings, and import checkpoints of the references.

`repair` restores missing and damaged files of a run from its checkpoints.
"""

from bnn_keras.training.callbacks import Anneal
from bnn_keras.training.importing import import_checkpoint
from bnn_keras.training.repairing import repair
from bnn_keras.training.trainer import train

__all__ = ["Anneal", "import_checkpoint", "repair", "train"]
