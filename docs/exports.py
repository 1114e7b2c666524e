"""The table of exported files: `python docs/exports.py [RUN...] > docs/exports.md`, some twenty minutes.

Every network of the catalog, with random weights that look trained; and runs, which are trained.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_model
from bnn_keras.counts import count
from bnn_keras.experiment import resolve
from bnn_keras.export import verify
from bnn_keras.export.exporting import files_of
from bnn_keras.export.graphs import Source
from bnn_keras.export.trial import look_trained
from bnn_keras.models import load_run
from bnn_keras.runs import Run

FORMATS = ("packed", "tflite", "openvino")
IMAGES = 1000

HEAD = """# Exported files

Made by `python docs/exports.py RUN... > docs/exports.md`. Sizes are in bytes; *minimum* is one bit for each binary
weight and four bytes for each other number. *Binary* is the number of binary layers that the file holds in one bit, of
all; *agreement* the share of images whose likeliest class is the Keras model's, in percent, and *error* the median
over the images of |file − Keras| / |Keras|, logits.

TFLite's binary convolutions have input channels in thirty-twos, OpenVINO's in eights. Layers whose inputs are real
stay float in both: those of networks at 1/32 and the first layers of `binarynet` and `binary_alexnet`. OpenVINO's size
is that of its `.bin`; its `.xml`, the graph, has some 10 kB for each ten layers more.

"""
COLUMNS = f"""| network | minimum |{"".join(f" {name} |" for name in FORMATS)}{
    "".join(f" {name} binary | agreement | error |" for name in FORMATS)
}
|---{"|---" * (1 + 4 * len(FORMATS))}|
"""
TRAINED = """## Trained networks

On their test images.

"""
RANDOM = """
## Every network

With random weights that look trained, at the input shape of its own paper, on eight random images. Deep networks of
random weights magnify the rounding of one sign until other classes win; trained ones do not.

"""


def cells(source, images):
    """Sizes, and how each format predicts."""
    predict = tf.function(lambda images: source.model(images, training=False))
    sizes, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            row = catalog.FORMATS[name]
            module = importlib.import_module(row.module)
            file = Path(folder) / f"model{row.suffix or '.safetensors'}"
            left = module.convert(source, file)
            measured = verify.compare(lambda batch: predict(batch).numpy(), module.load(file), images)
            sizes.append(f"{sum(part.stat().st_size for part in files_of(file) if part.suffix != '.xml'):,}")
            binary = f"{len(source.kernels) - len(left)} / {len(source.kernels)}"
            found += [binary, f"{measured['agreement']:g}", f"{measured['logit_error']:.0e}"]
    return [f"{count(source.model)['bytes_minimum']:,}", *sizes, *found]


def line(experiment, source, images, note=""):
    """One line of a table."""
    bop = ", Bop" if experiment.latent_free else ""
    name = f"`{experiment.network.name}` {experiment.scheme.name} {experiment.scheme.bits}{bop}{note}"
    return f"| {' | '.join([name, *cells(source, images)])} |\n"


def trained(directory):
    """The line of a run."""
    experiment, model = load_run(directory)
    source = Source(model, experiment, Run.read(directory).environment["dataset"]["labels"])
    return line(experiment, source, verify.sample(experiment, None, IMAGES).images, f", {experiment.data.name}")


def random(network):
    """The line of a network nobody trained."""
    experiment = resolve(network, dataset=catalog.NETWORKS[network].dataset).experiment
    model = build_model(experiment)
    images = look_trained(model)
    labels = [str(label) for label in range(experiment.data.row.classes)]
    return line(experiment, Source(model, experiment, labels), images)


def main():
    """Prints the document."""
    sys.stdout.write(HEAD)
    for head, function, names in ((TRAINED, trained, sys.argv[1:]), (RANDOM, random, catalog.NETWORKS)):
        sys.stdout.write(head + COLUMNS)
        for name in names:
            sys.stdout.write(function(name))
            sys.stdout.flush()
            tf.keras.backend.clear_session()


if __name__ == "__main__":
    main()
