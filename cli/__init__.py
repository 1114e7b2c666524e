"""The command `bnnk`: each command reads options, calls the library once and prints. Imports no TensorFlow."""

from bnn_keras.cli.main import main

__all__ = ["main"]
