"""Commands about files for devices: `export`, `benchmark`."""

from __future__ import annotations

from typing import Any

import click

from bnn_keras import catalog
from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_message, print_table, quiet_tensorflow

FORMATS = "\n".join(f"  {row.name:<12} {row.description}" for row in catalog.FORMATS.values())
EPILOG = f"""\b
Formats:
{FORMATS}

\b
Examples:
  bnnk export runs/lenet5 --to packed -o lenet5.safetensors
  bnnk export runs/lenet5 --to tflite -o lenet5.tflite
  bnnk export runs/resnet18 --to openvino -o resnet18.xml --verify-on my-images
"""

BENCHMARK_EPILOG = """\b
Engines:
  keras            the network as it is trained, as a function of TensorFlow
  tflite_float     TensorFlow Lite, every layer in float
  tflite_lce       TensorFlow Lite with Larq Compute Engine, which is made for ARM; one image at a time
  openvino_float   OpenVINO, every layer in float
  openvino_binary  OpenVINO with binary convolutions, for x86

A RUN is measured in all engines, an exported FILE in its own. Either may be the name of a network, which gets random
weights: they do not change its speed. Files of one network take turns in one process; "times as fast" is in comparison
with the first of them.

\b
Examples:
  bnnk benchmark runs/lenet5
  bnnk benchmark birealnet18 --threads 1 --plot latency.png
  bnnk benchmark lenet5.xml lenet5.tflite -o lenet5.csv
"""


@click.command(epilog=EPILOG)
@options.run
@click.option("--to", required=True, metavar="FORMAT", help="The format, see below.")
@click.option("--output", "-o", "file", required=True, metavar="FILE", help="The file to write; FILE.json goes beside.")
@options.best
@click.option("--floats", metavar="TYPE", help="What is not binary: float32 (default), float16, bfloat16, int8.")
@click.option("--softmax", is_flag=True, help="Give probabilities instead of logits.")
@options.positive("--batch-size", "Images of a batch, which OpenVINO's files settle (default 1).")
@click.option("--allow-float", is_flag=True, help="Accept binary layers that the format has in float.")
@click.option(
    "--verify-on",
    metavar="FOLDER|DATASET",
    help="Images to compare on; by default the run's test images, or random ones where those are not prepared.",
)
@click.option("--verify-images", default=1000, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@click.option("--min-agreement", type=float, metavar="PERCENT", help="Least agreement of likeliest classes (99.9).")
@click.option(
    "--tolerance", type=float, metavar="T", help="Largest median error of logits (0.1; on random images 0.001)."
)
@options.data_location
@options.as_json
def export(run: str, to: str, file: str, as_json: bool, **arguments: Any) -> None:
    """Write a RUN's network as a file for a device, and check that it predicts the same."""
    catalog.find("format", to)
    with quiet_tensorflow():
        from bnn_keras.export import export_run
    said = export_run(run, to, file, **arguments)
    if as_json:
        print_json(said)
        return
    for name, reason in said["float_layers"].items():
        print_message(f"binary layer {name} is float in the file: {reason}", "Note")
    agreement = f"{said['agreement']:.2f} % on {said['images']:,} images of {said['verified_on']}"
    print_table(
        ["export", ""],
        [
            ["file", f"{file}, {said['bytes']:,} bytes (arithmetic minimum: {said['bytes_minimum']:,})"],
            ["binary layers", f"{said['packed_layers']} of {said['binary_layers']} in one bit"],
            ["agreement", agreement],
            ["error of logits", f"{said['logit_error']:.1e} (median), {said['largest_logit_error']:.1e} (largest)"],
        ],
    )


@click.command(epilog=BENCHMARK_EPILOG)
@click.argument("sources", nargs=-1, required=True, metavar="RUN_OR_FILE…")
@click.option(
    "--engine", "engines", multiple=True, metavar="NAME", help="For runs and networks, see below; may be repeated."
)
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Images of a batch, for the throughput (default 1 and 32); may be repeated.",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads to compute with (default 1 and all of the machine); may be repeated.",
)
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(min=1), help="Turns of each file.")
@click.option(
    "--seconds", default=0.2, show_default=True, type=click.FloatRange(min=0), help="Length of a turn, at the least."
)
@options.best
@click.option("--output", "-o", metavar="FILE", help="A table of everything: .csv, .json or .md.")
@click.option("--plot", metavar="FILE", help="A picture of the latencies: .png, .svg or .pdf.")
@options.as_json
def benchmark(sources: tuple[str, ...], as_json: bool, **arguments: Any) -> None:
    """Measure latency, throughput, size and memory of runs, exported files or networks on this machine's CPU."""
    with quiet_tensorflow():
        from bnn_keras import benchmark as library
    rows = library.benchmark(sources, **arguments, log=lambda line: click.echo(line, err=True))
    if as_json:
        print_json([row.to_document() for row in rows])
    else:
        print_table(library.columns(rows), library.cells(rows))


COMMANDS = (export, benchmark)
