"""The table of networks: `python docs/networks.py > docs/networks.md`, some ten minutes.

Counts are those of `bnnk summary`; differences come from the golden values in tests/golden (or in the folder that
BNN_KERAS_GOLDENS names).
"""

import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_model
from bnn_keras.counts import count
from bnn_keras.experiment import all_experiments, resolve

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
FILES = Path(os.environ.get("BNN_KERAS_GOLDENS", GOLDEN))

HEAD = """# Networks

Made by `python docs/networks.py > docs/networks.md`; a test compares all but the differences.

Counts are of one image, at the input shape of the network's own paper. *Parameters* are the trainable ones. A
multiply-accumulate (MAC) is one of a convolution or a dense layer: with binary kernel and binary input, with a binary
kernel alone, or real. *Packed* is the smallest size that holds the network: one bit for each binary weight, four bytes
for each other number, scales of binary kernels included. *Published* is top-1 (/ top-5) accuracy in percent. *Outputs*
is the largest difference from the reference, relative, in float64, of outputs in evaluation and training and of the
loss; *steps* that of the losses in five training steps. `tests/golden/README.md` says what else is compared.

| network | bits | data | parameters | binary | MACs binary | MACs binary kernel | MACs real | packed | published |\
 outputs | steps |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
ZOO = """
## Larq Zoo

These networks bring their own quantizers; what they compute is Larq Zoo's. There is nothing to compare them with.

| network | parameters | binary | MACs binary | MACs binary kernel | MACs real | packed |
|---|---|---|---|---|---|---|
"""


def module(name):
    """A module that stands beside the golden values."""
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def counted(counts):
    """The cells of what is counted."""
    real = counts["macs"] - counts["binary_macs"] - counts["binary_weight_macs"]
    numbers = [counts[key] for key in ("parameters", "binary_parameters", "binary_macs", "binary_weight_macs")]
    return [*(f"{number:,}" for number in (*numbers, real)), size(counts["bytes_minimum"])]


def size(number):
    """Bytes as people read them."""
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


def published(experiment):
    """What was published of a network at these bits, on its paper's data and with such an optimizer."""
    asked = (experiment.network.name, experiment.data.name, experiment.scheme.name, experiment.scheme.bits)
    figures = [
        one.published
        for one in all_experiments()
        if one.published
        and (one.network.name, one.data.name, one.scheme.name, one.scheme.bits) == asked
        and one.latent_free == experiment.latent_free
    ]
    return f"{figures[0].top1:g}" + (f" / {figures[0].top5:g}" if figures[0].top5 else "") if figures else "–"


def experiment_of(parity, golden):
    """The experiment of a golden file, on the dataset of the network's paper."""
    network, options, keys = parity.NETWORKS[golden]
    return resolve(network, **{"dataset": catalog.NETWORKS[network].dataset, **options}, overrides=keys).experiment


def row(parity, golden):
    """The cells of a golden file's network but for the differences."""
    experiment = experiment_of(parity, golden)
    network = experiment.network
    name = f"`{network.name}`"
    name += " (rethinking)" if network.variant == "rethinking" else ""
    name += f", {network.structure}" if network.structure else ""
    name += ", Bop" if experiment.latent_free else ""
    cells = [name, experiment.scheme.bits, experiment.data.name, *counted(count(build_model(experiment)))]
    return [*cells, published(experiment)]


def differences(parity, procedural, golden):
    """The largest differences from the reference: of outputs and loss, and of the steps' losses."""
    path = FILES / f"{golden}.npz"
    if not path.is_file():
        return ["–", "–"]
    tf.keras.backend.set_floatx("float64")
    found = parity.compare(path, procedural)
    tf.keras.backend.set_floatx("float32")
    tf.keras.backend.clear_session()
    outputs = max(found["output"], found.get("loss", 0.0))
    return [f"{outputs:.0e}", f"{found['steps']:.0e}" if "steps" in found else "–"]


def line(cells):
    """One line of a table."""
    return f"| {' | '.join(cells)} |\n"


def goldens(parity):
    """The golden files that stand for a network each; one with other weights does not."""
    return [name for name in parity.NETWORKS if not name.endswith("_clip")]


def zoo():
    """The lines of Larq Zoo's networks."""
    for name in catalog.NETWORKS:
        if name.startswith("zoo/"):
            yield line([f"`{name}`", *counted(count(build_model(resolve(name).experiment)))])
            tf.keras.backend.clear_session()


def main():
    """Prints the document."""
    parity, procedural = module("parity"), module("procedural")
    sys.stdout.write(HEAD)
    for golden in goldens(parity):
        sys.stdout.write(line([*row(parity, golden), *differences(parity, procedural, golden)]))
        sys.stdout.flush()
    sys.stdout.write(ZOO)
    sys.stdout.writelines(zoo())


if __name__ == "__main__":
    main()
