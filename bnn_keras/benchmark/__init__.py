"""How fast, how large and how binary a network is in each engine: all take turns in one process.

Engines run in processes of their own (`export.worker`): a crash of one is an error, TensorFlow's threads are settled
anew, and what is measured is not what wrote the files. This machine's CPU is measured, whatever else it has.
"""

from bnn_keras.benchmark.comparing import BATCH_SIZES, benchmark
from bnn_keras.benchmark.engines import ENGINES, Entrant
from bnn_keras.benchmark.tables import Row, cells, columns, draw

__all__ = ["BATCH_SIZES", "ENGINES", "Entrant", "Row", "benchmark", "cells", "columns", "draw"]
