"""From a run to files for devices, each checked to predict what the network predicts; and from them to predictions."""

from bnn_keras.export.exporting import export_run
from bnn_keras.export.opening import Exported, open_export

__all__ = ["Exported", "export_run", "open_export"]
