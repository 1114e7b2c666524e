"""The command `bnnk`. Each command parses options, calls the library once and prints. Imports no TensorFlow."""

from bnn_keras.cli.main import main

__all__ = ["main"]
