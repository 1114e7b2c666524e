"""Commands for exported models: `export`, `benchmark`."""

from __future__ import annotations

from typing import Any

import click

from bnn_keras import catalog, pretrained
from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_message, print_table, quiet_tensorflow
from bnn_keras.tables import MAX_BATCH_SIZE

FORMATS = "\n".join(f"  {row.name:<17} {row.description}" for row in catalog.FORMATS.values())
EPILOG = f"""\b
Formats:
{FORMATS}

\b
Examples:
  bnnk export runs/lenet5 --to packed -o lenet5.safetensors
  bnnk export runs/lenet5 --to tflite -o lenet5.tflite
  bnnk export runs/resnet18 --to openvino -o resnet18.xml --verify-on my-images
  bnnk export runs/lenet5 --to c -o lenet5.c
  bnnk export runs/resnet20 --to reference -o resnet20.th
  bnnk export --model lenet5_mnist_5k_bireal --to tflite -o lenet5.tflite
"""

BENCHMARK_EPILOG = """\b
Engines:
  keras            the trained network, as a TensorFlow function
  tflite_float     TensorFlow Lite, every layer float
  tflite_lce       TensorFlow Lite with Larq Compute Engine, optimized for ARM; one image at a time
  openvino_float   OpenVINO, every layer float
  openvino_binary  OpenVINO with binary convolutions, for x86
  c                C99, compiled with -O3 -march=native; one thread, one image at a time

A RUN, or a model of the package, is measured in all engines that are installed and have its layers, an exported FILE in
its own engine. The name of a network is measured like a run, with random weights, which do not affect its speed. Files
of one network take turns in one process; "times as fast" compares with the first of them.

\b
Examples:
  bnnk benchmark runs/lenet5
  bnnk benchmark birealnet18 --threads 1 --plot latency.png
  bnnk benchmark lenet5.xml lenet5.tflite -o lenet5.csv
  bnnk benchmark --model lenet5_mnist_5k_bireal
"""


@click.command(epilog=EPILOG)
@click.argument("run", nargs=-1, metavar="[RUN]")
@options.model
@click.option("--to", required=True, metavar="FORMAT", help="File format, see below.")
@click.option(
    "--output",
    "-o",
    "file",
    required=True,
    metavar="FILE",
    help="New file or earlier export; its sidecar is FILE.json.",
)
@options.best
@click.option(
    "--floats", metavar="TYPE", help="Type of non-binary numbers: float32 (default), float16, bfloat16, int8."
)
@click.option("--softmax", is_flag=True, help="Export a model that returns probabilities instead of logits.")
@options.positive("--batch-size", "Images per batch, fixed in OpenVINO files (default 1).")
@click.option("--allow-float", is_flag=True, help="Accept binary layers that are computed in float.")
@click.option(
    "--verify-on",
    metavar="FOLDER|DATASET",
    help="Images to verify on; by default the run's test images, or random images if the dataset is not prepared.",
)
@click.option(
    "--verify-images", default=1000, show_default=True, type=click.IntRange(min=1), help="Maximum number of images."
)
@click.option("--min-agreement", type=float, metavar="PERCENT", help="Minimum top-1 agreement (default 99.9).")
@click.option(
    "--tolerance", type=float, metavar="T", help="Maximum median logit error (default 0.1; on random images 0.001)."
)
@options.data_location
@options.as_json
def export(run: tuple[str, ...], model: str | None, to: str, file: str, as_json: bool, **arguments: Any) -> None:
    """Export a RUN's network to a file for a device, and verify that the file predicts the same.

    Instead of a run, --model takes a model of the package or a packed file.

    A file for a reference's own code holds the latent weights, under the reference's names and in its layout. It is
    verified by reading it back, bit for bit.
    """
    (source,) = options.run_or_model(run, model)
    catalog.find("format", to)
    with quiet_tensorflow():
        from bnn_keras.export import export_run
    sidecar = export_run(source, to, file, **arguments)
    if as_json:
        print_json(sidecar)
        return
    rows = [
        ["file", f"{file}, {sidecar['bytes']:,} bytes (arithmetic minimum: {sidecar['bytes_minimum']:,})"],
        ["stored in one bit", f"{sidecar['packed_layers']} of {sidecar['binary_layers']} binary layers"],
        *([name.replace("_", " "), f"{sidecar[name]:,}"] for name in catalog.FORMATS[to].measured),
    ]
    if not catalog.FORMATS[to].opens:
        print_table(["export", ""], [*rows, ["tensors", f"{sidecar['tensors']}, read back bit for bit"]])
        return
    if catalog.FORMATS[to].computes != "none":
        for name, reason in sidecar["float_layers"].items():
            print_message(f"binary layer {name} is computed in float: {reason}", "Note")
    rows.append(["computed in one bit", f"{sidecar['computed_layers']} of {sidecar['binary_layers']} binary layers"])
    agreement = f"{sidecar['agreement']:.2f} % on {sidecar['images']:,} images of {sidecar['verified_on']}"
    logit_error = f"{sidecar['logit_error']:.1e} (median), {sidecar['largest_logit_error']:.1e} (maximum)"
    opened = f"{sidecar['load_seconds']:.2f} s to the first prediction"
    print_table(["export", ""], [*rows, ["opening", opened], ["agreement", agreement], ["logit error", logit_error]])


@click.command(epilog=BENCHMARK_EPILOG)
@click.argument("sources", nargs=-1, metavar="RUN_OR_FILE…")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME_OR_FILE",
    help="A model of the package (`bnnk list models`), or an exported file, beside the others; may be repeated.",
    shell_complete=options.complete_names(pretrained.cards),
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME",
    help="Engine for runs, models and networks, see below; may be repeated.",
)
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(1, MAX_BATCH_SIZE),
    metavar="N",
    help="Images per batch for the throughput (default 1 and 32); may be repeated.",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of threads (default 1 and all CPU cores); may be repeated.",
)
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(min=1), help="Turns of each file.")
@click.option(
    "--seconds", default=0.2, show_default=True, type=click.FloatRange(min=0), help="Minimum length of a turn."
)
@options.best
@options.trust
@click.option("--output", "-o", metavar="FILE", help="Write all results as a table: .csv, .json or .md.")
@click.option("--plot", metavar="FILE", help="Plot the latencies: .png, .svg or .pdf.")
@options.as_json
def benchmark(sources: tuple[str, ...], models: tuple[str, ...], as_json: bool, **arguments: Any) -> None:
    """Measure latency, throughput, size and memory of runs, exported files or networks on this machine's CPU."""
    if not (sources or models):
        raise click.UsageError("got nothing; expected RUN_OR_FILE… or --model NAME_OR_FILE")
    with quiet_tensorflow():
        from bnn_keras import benchmark as library
    rows = library.benchmark((*sources, *models), **arguments, log=lambda line: print_line(line, err=True))
    if as_json:
        print_json([row.to_document() for row in rows])
    else:
        print_table(library.columns(rows), library.cells(rows))


COMMANDS = (export, benchmark)
