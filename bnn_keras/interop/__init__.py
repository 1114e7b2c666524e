"""Exchange weights with the reference code: tensor names, layouts and checkpoint files.

Our layers have the names of the reference's modules, so tensor names follow a rule instead of a table: the kernel of
the layer `bin_conv2.conv` is the reference's `bin_conv2.conv.weight`. Exceptions are in the catalog
(`catalog.ReferenceLayout`). If a network rotates its images (`network.rotated`), its kernels are the reference's
kernels rotated by 180°.
"""

from bnn_keras.interop.files import find_checkpoint, read_checkpoint, read_content
from bnn_keras.interop.progress import Progress, read_progress
from bnn_keras.interop.reference import (
    classes_of,
    from_reference,
    load_reference,
    reference_names,
    tensors_of,
    to_reference,
    with_layer_names,
)
from bnn_keras.interop.writing import optimizer_groups, state_dict, write_checkpoint

__all__ = [
    "Progress",
    "classes_of",
    "find_checkpoint",
    "from_reference",
    "load_reference",
    "optimizer_groups",
    "read_checkpoint",
    "read_content",
    "read_progress",
    "reference_names",
    "state_dict",
    "tensors_of",
    "to_reference",
    "with_layer_names",
    "write_checkpoint",
]
