"""Open exported models for inference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bnn_keras import catalog
from bnn_keras.errors import BnnError, unknown
from bnn_keras.experiment import parse
from bnn_keras.export.description import Description
from bnn_keras.export.formats import format_of, load_predictor, self_contained_module
from bnn_keras.export.predictors import Predictor
from bnn_keras.export.sidecar import parse_sidecar, read_arrays, read_sidecar, sidecar_path
from bnn_keras.export.trust import is_signed


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        format: The file's format, a name in `catalog.FORMATS`.
        description: What the network is: its name, the shape of its inputs, its labels, and its experiment if it has
            one.
        logits: Predictor from normalised images to logits.
    """

    format: str
    description: Description
    logits: Predictor


def open_export(
    file: str | Path, batch_size: int | None = None, threads: int | None = None, trust: bool = False
) -> Exported:
    """Open a file that `export_run` or `export_model` wrote.

    Packed files are self-contained. All others need their sidecar, which holds labels, preprocessing and checksums; a
    damaged file is never passed to a library. A file and its sidecar may be renamed together, and with them the `.bin`
    file of an OpenVINO model.

    Args:
        file: The file or folder.
        batch_size: Images per batch; None for the file's own.
        threads: Number of threads; None for the library's default.
        trust: Open a SavedModel or a C file that this machine did not export. It is a program, which can read and write
            your files.

    Raises:
        BnnError: The file or its sidecar is missing or damaged, the file has another batch size, or it is a program
            that this machine did not export.

    Example:
        >>> from bnn_keras.export import open_export
        >>> import tempfile
        >>> import numpy as np
        >>> from bnn_keras import build_model, export_run, import_checkpoint, interop, resolve
        >>> tensors = interop.to_reference(build_model(resolve("lenet5").experiment))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/checkpoint.npz", **tensors)
        ...     run, weights, keys = f"{folder}/run", f"{folder}/checkpoint.npz", ["data.examples=8"]
        ...     _ = import_checkpoint(weights, run, "lenet5", dataset="fake", overrides=keys)
        ...     sidecar = export_run(run, "packed", f"{folder}/lenet5.safetensors")
        ...     exported = open_export(f"{folder}/lenet5.safetensors")
        >>> exported.format, exported.logits(np.zeros((3, 28, 28, 1), np.float32)).shape
        ('packed', (3, 10))
        >>> open_export("nothing.tflite")
        Traceback (most recent call last):
        bnn_keras.errors.BnnError: no file or folder 'nothing.tflite'; expected one that `bnnk export` wrote
    """
    path = Path(file)
    if not path.exists():
        raise BnnError(f"no file or folder {str(path)!r}; expected one that `bnnk export` wrote")
    row = format_of(path)
    if row.suffix is None:
        _require_known_format(path)
    if row.self_contained:
        return Exported(row.name, *self_contained_module(row).open_file(path, threads))
    sidecar = read_sidecar(path)
    row = catalog.find("format", sidecar["format"])
    if row.code and not trust and not is_signed(sidecar["sha256"], sidecar.get("signature")):
        raise BnnError(
            f"{str(path)!r} was not exported by you on this machine, and a file of format {row.name!r} is a program, "
            "which can read and write your files; add --trust (trust=True in Python) if you trust the person who made "
            "it, or ask for a packed file"
        )
    description = _description(sidecar, path)
    softmax = sidecar["outputs"] == "probabilities"
    logits = load_predictor(row, path, sidecar["floats"], softmax, batch_size, threads)
    return Exported(row.name, description, logits)


def _require_known_format(path: Path) -> None:
    """Verify that a file of any suffix is of a format that can be opened.

    Raises:
        BnnError: Its sidecar names a format that a plugin had, or one of weights for a reference's code.
    """
    try:
        name = parse_sidecar(path)["format"]
    except BnnError:
        return  # packed files need no sidecar
    if name not in catalog.FORMATS:
        problem = unknown("format", name, catalog.FORMATS)
        raise BnnError(f"cannot open {str(path)!r}: {problem}; give the plugin that wrote it with --plugin")
    if not catalog.FORMATS[name].opens:
        raise BnnError(
            f"{str(path)!r} holds weights for the reference's code and no network; read it with `bnnk import`, or give "
            "the run that it was exported from"
        )


def _description(sidecar: dict[str, Any], file: Path) -> Description:
    """Return the description of the network of a file from its sidecar.

    Raises:
        BnnError: The experiment is not valid, or has another number of classes than there are labels.
    """
    labels, path = sidecar["labels"], sidecar_path(file)
    if sidecar.get("experiment") is None:
        return Description(sidecar["network"], tuple(sidecar["input_shape"]), labels)
    experiment = parse(sidecar["experiment"], str(path))
    classes = experiment.data.row.classes
    if len(labels) != classes:
        raise BnnError(f"{str(path)!r} has {len(labels)} labels for {classes} classes; restore it, or export again")
    return Description.of_experiment(experiment.with_arrays(lambda: read_arrays(file, sidecar)), labels)
