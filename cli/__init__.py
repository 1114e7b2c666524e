"""The command `bnnk`: options, one call of the library, a print. Importing it imports no TensorFlow."""

from bnn_keras.cli.main import main

__all__ = ["main"]
