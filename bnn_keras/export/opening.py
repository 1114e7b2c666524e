"""From an exported file to predictions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bnn_keras import catalog
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment, parse
from bnn_keras.export.exporting import SIDECAR_VERSION, digest_of, load, sidecar_of
from bnn_keras.export.graphs import Predictor, limit_threads, with_keras
from bnn_keras.export.packed import load_packed


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network that left.

    Attributes:
        format: The file's format.
        experiment: What it is.
        labels: Names of its classes.
        logits: Images as it takes them → logits.
    """

    format: str
    experiment: Experiment
    labels: list[str]
    logits: Predictor


def open_export(file: str | Path, batch_size: int | None = None, threads: int | None = None) -> Exported:
    """A file that `export_run` wrote.

    A packed file stands on its own; others need their sidecar, which has labels, preprocessing and checksums: no
    library is given a damaged file.

    Args:
        file: The file, or folder.
        batch_size: Images of a batch, where the file settles that.
        threads: Threads to compute with; what the library thinks best where absent.

    Raises:
        BnnError: The file or its sidecar is missing or damaged, or the file takes other batches.
    """
    path = Path(file)
    if not path.exists():
        raise BnnError(f"no file or folder {str(path)!r}; give one that `bnnk export` wrote")
    if path.is_file() and path.suffix not in {row.suffix for row in catalog.FORMATS.values() if row.suffix}:
        limit_threads(threads)
        experiment, labels, network = load_packed(path)
        return Exported("packed", experiment, labels, with_keras(lambda images: network(images, training=False)))
    sidecar = read_sidecar(path)
    experiment = parse(sidecar["experiment"], str(sidecar_of(path)))
    row = catalog.find("format", sidecar["format"])
    softmax = sidecar["outputs"] == "probabilities"
    logits = load(row, path, sidecar["floats"], softmax, batch_size, threads)
    return Exported(row.name, experiment, sidecar["labels"], logits)


def read_sidecar(file: Path) -> dict[str, Any]:
    """The sidecar of a file, whose checksums fit.

    Raises:
        BnnError: It is missing, damaged or of a later version, or the file is not the one it is of.
    """
    path = sidecar_of(file)
    if not path.is_file():
        raise BnnError(
            f"{str(file)!r} has no {path.name} beside it, which says what the file is; keep the two together, or "
            "export it again"
        )
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        version, digests = sidecar["sidecar_version"], sidecar["sha256"]
        found = {name: digest_of(file.parent / name) for name in digests}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BnnError(f"cannot read {str(path)!r}, or a file that it names ({error}); export it again") from error
    if version != SIDECAR_VERSION:
        raise BnnError(f"{str(path)!r} has version {version}; expected {SIDECAR_VERSION}: export it again")
    changed = [name for name in digests if found[name] != digests[name]]
    if changed:
        raise BnnError(f"{changed[0]!r} is not the file that {str(path)!r} is of: it was changed; export it again")
    return sidecar
