"""Reports of runs: their facts as a typed document, differences between runs, and a page to look at."""

from bnn_keras.report.comparing import compare
from bnn_keras.report.document import make_report
from bnn_keras.report.facts import collect
from bnn_keras.report.writing import watch, write_report

__all__ = ["collect", "compare", "make_report", "watch", "write_report"]
