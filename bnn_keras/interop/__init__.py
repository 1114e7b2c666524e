"""Our networks in the names and layouts of the PyTorch references, and back.

Layers bear the names of the references' modules, so a rule replaces a table: the layer `bin_conv2.conv` with its kernel
is the reference's `bin_conv2.conv.weight`.
"""

from bnn_keras.interop.reference import from_reference, load_reference, reference_names, to_reference

__all__ = ["from_reference", "load_reference", "reference_names", "to_reference"]
