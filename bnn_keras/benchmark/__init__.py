"""Compare engines on the same network: latency, throughput, memory, file size and share of binary layers.

Engines run in separate processes (`export.worker`): a crash of an engine becomes an error, each process sets its own
number of TensorFlow threads, and converters do not affect the measurements. Only the CPU is measured.
"""

from bnn_keras.benchmark.comparing import BATCH_SIZES, benchmark
from bnn_keras.benchmark.engines import ENGINES, Entrant
from bnn_keras.benchmark.tables import BenchmarkRow, cells, columns, draw

__all__ = ["BATCH_SIZES", "ENGINES", "BenchmarkRow", "Entrant", "benchmark", "cells", "columns", "draw"]
