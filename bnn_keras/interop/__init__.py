"""Our networks in the names and layouts of the references, and back; the references' checkpoint files.

Layers bear the names of the references' modules, so a rule replaces a table: the layer `bin_conv2.conv` with its kernel
is the reference's `bin_conv2.conv.weight`. Where a reference says it otherwise, the catalog has it
(`catalog.ReferenceLayout`). A network that rotates its images (`network.rotated`) has the reference's kernels rotated.
"""

from bnn_keras.interop.files import read_checkpoint
from bnn_keras.interop.reference import classes_of, from_reference, load_reference, reference_names, to_reference

__all__ = ["classes_of", "from_reference", "load_reference", "read_checkpoint", "reference_names", "to_reference"]
