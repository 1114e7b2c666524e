"""The commands `train`, `launch`, `evaluate`, `predict`, `import` and `repair`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from bnn_keras import BnnError, pretrained
from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_table, quiet_tensorflow
from bnn_keras.experiment import Experiment, all_experiments, resolve_continued
from bnn_keras.launching import RESTARTS
from bnn_keras.launching import launch as launch_
from bnn_keras.location import DataLocation
from bnn_keras.runs import KEPT, SAVE_EVERY, Run
from bnn_keras.text import some

# Without the current folder, a module in it cannot replace a library of the same name; Python 3.10 has no option -P.
_BNNK = "import sys; sys.path = [path for path in sys.path if path]; from bnn_keras.cli import main; main()"
EXAMPLES = """\b
Examples:
  bnnk train lenet5
  bnnk train lenet5 --dataset fashion_mnist --manual-dir /usr/share/datasets/fashion-mnist
  bnnk train lenet5 --epochs 5 --set stages.0.optimizer.learning_rate=0.001 --run runs/slow
  bnnk train lenet5 --from runs/float
  bnnk train --continue runs/slow --epochs 8
"""


@click.command(epilog=EXAMPLES)
@options.recipe_or_run
@options.durations
@click.option("--seed", type=click.IntRange(min=0), help="Seed of weights, shuffle order and augmentation.")
@options.data_location
@click.option(
    "--from",
    "start_from",
    metavar="RUN_OR_WEIGHTS",
    help="Start from the weights of a run, from its weights_best.h5, from a packed file, or from a model of the "
    "package. They may be of another scheme, other bits or other classes; with other classes, the last layer is new.",
    shell_complete=options.complete_names(pretrained.cards),
)
@click.option("--run", "directory", metavar="DIR", help="Run directory (default: runs/<experiment>-…).")
@click.option(
    "--resume/--fresh",
    default=True,
    help="Resume an unfinished run in the directory (default), or start over. The run before is kept as DIR.old-N "
    "until the first epoch is finished, and then removed.",
)
@click.option(
    "--save-every",
    default=SAVE_EVERY,
    metavar="INTERVAL",
    help=f"How often to write a checkpoint within an epoch: {SAVE_EVERY} (default), 90s, 2h, or steps: 500steps.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=KEPT,
    metavar="N",
    help=f"Checkpoints to keep, apart from the last epoch's and the best epoch's (default: {KEPT}).",
)
@options.strategy
@options.precision
@options.jit
@click.option("--profile", metavar="DIR", help="Write a TensorBoard profile of ten training steps to this folder.")
@options.quiet
@options.as_json
def train(
    network: str | None,
    continued: str | None,
    directory: str | None,
    start_from: str | None,
    data_dir: str | None,
    manual_dir: str | None,
    strategy: str,
    precision: str,
    jit: bool,
    profile: str | None,
    resume: bool,
    save_every: str,
    keep: int,
    quiet: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Train NETWORK, or resume its training.

    The recipe is the experiment that matches NETWORK and the options best. --set overrides its keys. With
    --from, images are normalized and rotated as in the run that the weights are of.

    Ctrl-C and SIGTERM stop after the current step: its state is saved, and the same command goes on from there. A
    second one ends at once.
    """
    from bnn_keras.sources import resolve_start

    if continued:
        run = Path(continued)
        kept = {name: recipe.pop(name) for name in ("epochs", "overrides")}
        options.require_none_beside_continue(network, start_from, directory, not resume, **recipe)
        experiment = resolve_continued(Run.read(run).experiment, **kept)
    elif network is None:
        raise click.UsageError("Missing argument 'NETWORK', or --continue RUN.")
    else:
        recipe["dataset"] = options.resolve_dataset(recipe["dataset"], DataLocation(data_dir, manual_dir))
        resolution, run = resolve_start(network, start_from, directory, not resume, **recipe)
        options.print_note(resolution)
        experiment = resolution.experiment
    print_line(f"{experiment.name} → {run}", err=True)
    with quiet_tensorflow():
        from bnn_keras.training import train as train_
    result = train_(
        experiment,
        run,
        start_from=start_from,
        data_dir=data_dir,
        manual_dir=manual_dir,
        strategy=strategy,
        precision=precision,
        jit=jit,
        profile=profile,
        fresh=not resume,
        change=continued is not None,
        save_every=save_every,
        keep=keep,
        plain=quiet,
        command=["bnnk", *sys.argv[1:]],
    )
    if as_json:
        print_json(result)
        return
    published = result["published"] or {}
    figure = f" (published {published['top1']:.2f} %)" if published else ""
    last, best = ("", figure) if published.get("of") == "best" else (figure, "")
    print_table(
        ["result", ""],
        [
            ["experiment", _recipe(experiment)],
            ["top-1", f"{result['top1']:.2f} %{last}"],
            ["top-5", f"{result['top5']:.2f} %"],
            ["best top-1", f"{_best(result)}{best}"],
            ["parameters", f"{result['parameters']:,}, {100 * result['binary_share']:.1f} % binary"],
            [
                "time",
                f"{result['seconds']:.0f} s for {result['epochs']} epochs, {result['images_per_second']:,.0f} images/s",
            ],
            ["run", str(run)],
        ],
    )


def _recipe(experiment: Experiment) -> str:
    """Return the name of an experiment and, if one of this name ships with the package, what was changed in it."""
    shipped = next((other for other in all_experiments() if other.name == experiment.name), None)
    if not shipped:
        return experiment.name
    differences = experiment.model_copy(update={"seed": shipped.seed}).differences(shipped)
    if differences:
        return f"{experiment.name}, changed: {some([line.split(':')[0] for line in differences], 3)}"
    return experiment.name + (" (reconstructed)" if experiment.reconstructed else "")


def _best(result: dict[str, Any]) -> str:
    """Return the best accuracy, and the images that the best epoch was chosen on."""
    images = result.get("best_chosen_on", "test")
    accuracy = "lost" if result["best_top1"] is None else f"{result['best_top1']:.2f} %"
    chosen = f" with {result['best_validation_top1']:.2f} %" if images == "validation" else ""
    return f"{accuracy} (epoch chosen on {images} images{chosen})"


@click.command()
@click.argument("run", nargs=-1, metavar="[RUN]")
@click.option(
    "--dataset", metavar="D", help="Dataset to test on, of the same image shape and classes (default: the run's)."
)
@click.option("--per-class", is_flag=True, help="Also print the accuracy of each class.")
@click.option("--confusion", metavar="FILE", help="Plot the confusion matrix: .png, .svg or .pdf.")
@options.predicting
@options.data_location
@options.as_json
def evaluate(run: tuple[str, ...], model: str | None, as_json: bool, **arguments: Any) -> None:
    """Measure the accuracy of a RUN, or of an exported model, on the test images."""
    (source,) = options.run_or_model(run, model)
    with quiet_tensorflow():
        from bnn_keras.evaluation import evaluate as evaluate_
    measured = evaluate_(source, **arguments)
    if as_json:
        print_json(measured)
        return
    print_line(
        f"top-1 {measured['top1']:.2f} %   top-5 {measured['top5']:.2f} %   loss {measured['loss']:.4f}   "
        f"({measured['images']:,} images of {measured['dataset']}, {measured['weights']} weights)"
    )
    if "per_class" in measured:
        click.echo()
        print_table(
            ["class", "images", "correct", "top-1"],
            (
                [
                    row["label"],
                    f"{row['images']:,}",
                    f"{row['correct']:,}",
                    f"{row['top1']:.2f} %" if row["images"] else None,
                ]
                for row in measured["per_class"]
            ),
        )


@click.command()
@click.argument("words", nargs=-1, metavar="[RUN] INPUT…")
@click.option("--logits", "logits_file", metavar="OUT.npy", help="Also write the logits to this file, in their order.")
@click.option("--top", type=click.IntRange(min=1), help="Classes per image (default: 3 in the table, all in JSON).")
@options.predicting
@options.as_json
def predict(
    words: tuple[str, ...],
    model: str | None,
    logits_file: str | None,
    top: int | None,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Classify images with a RUN, or with an exported model.

    INPUT is an image file, a folder of images (also in folders inside), or a .npy array of NHWC images. Image files and
    uint8 arrays are preprocessed like the run's test images. Image files are also rotated (EXIF), put on white where
    transparent, and resized if needed. Float arrays are not preprocessed: they hold normalised images.

    A file that cannot be read is reported, in JSON as {"input": …, "error": …} after the predictions. The other images
    are predicted, and the exit code is 1.
    """
    source, *images = options.run_or_model(words, model, inputs=True)
    with quiet_tensorflow():
        from bnn_keras.evaluation import predict as predict_
        from bnn_keras.evaluation import write_logits
    predictions = predict_(source, images, **arguments)
    if logits_file:
        write_logits(predictions, logits_file)
    rows = predictions.ranked(top or (len(predictions.labels) if as_json else 3))
    if as_json:
        print_json(
            [
                *({"input": name, "label": classes[0][0], "classes": dict(classes)} for name, classes in rows),
                *({"input": name, "error": message} for name, message in predictions.failed.items()),
            ]
        )
    else:
        ranks = range(1, 1 + max(len(classes) for _, classes in rows))
        print_table(
            ["image", *(f"{rank}." for rank in ranks)],
            ([name, *(f"{label} {100 * share:.1f} %" for label, share in classes)] for name, classes in rows),
        )
    if predictions.failed:
        raise BnnError(f"{len(predictions.failed)} input(s) could not be read, see above; all others are predicted")


@click.command("import")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--network", required=True, metavar="N", help="Network that the checkpoint belongs to.")
@options.choices
@options.data_dir
@click.option("--weights-only", is_flag=True, help="Begin a training anew: without epoch and optimizer's state.")
@click.option("--run", "directory", required=True, metavar="DIR", help="Run directory to create.")
def import_(checkpoint: str, directory: str, network: str, **choices: Any) -> None:
    """Create a run from a CHECKPOINT of a reference implementation.

    These are XNOR-Net-PyTorch, binary-wide-resnet, Bi-Real-net, IR-Net, ReActNet, torchvision's ResNets and
    rethinking-bnn-optimization. Weights of ReActNet's first step need --bits 32/1, those of its ResNets --scheme
    reactnet.

    CHECKPOINT is a PyTorch file (.pth, .pth.tar, .th), or an .npz or .safetensors file with the same tensor names; for
    rethinking-bnn-optimization an .h5 file, or the path that a checkpoint of TensorFlow begins with (model). The
    number of classes is that of the checkpoint. The run can be evaluated and exported as it is. Train it further with
    `bnnk train N --experiment DIR/experiment.toml --run DIR`: if the file has the epoch, the best accuracy and the
    optimizer's state, training goes on from there.
    """
    with quiet_tensorflow():
        from bnn_keras.training import import_checkpoint
    choices["dataset"] = options.resolve_dataset(choices["dataset"], DataLocation(choices["data_dir"]))
    resolution = import_checkpoint(checkpoint, directory, network, command=["bnnk", *sys.argv[1:]], **choices)
    options.print_note(resolution)
    experiment = resolution.experiment
    print_line(
        f"{checkpoint} → {directory} ({experiment.network.name}, {experiment.scheme.name} {experiment.scheme.bits})"
    )


@click.command()
@options.run
@options.as_json
@click.pass_context
def repair(context: click.Context, run: str, as_json: bool) -> None:
    """Restore missing and damaged files of a RUN from its checkpoints.

    Prints each missing or damaged file, and how it was restored or what is lost. A damaged file that is replaced is
    renamed to NAME.damaged-N. Exits with 1 if anything is lost.
    """
    with quiet_tensorflow():
        from bnn_keras.training import repair as repair_
    repairs = repair_(run)
    if as_json:
        print_json([dataclasses.asdict(repaired) for repaired in repairs])
    elif repairs:
        rows = [[repaired.name, repaired.defect, repaired.outcome, repaired.kept] for repaired in repairs]
        print_table(["file", "defect", "repair", "kept as"], rows)
    else:
        print_line(f"{run}: all files are intact")
    context.exit(1 if any(repaired.lost for repaired in repairs) else 0)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="Number of processes, which share the GPUs of this machine.",
)
@click.option(
    "--restarts",
    type=click.IntRange(min=0),
    default=RESTARTS,
    metavar="R",
    help=f"How often to start all processes again after one was lost (default: {RESTARTS}).",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- train …", required=True)
@click.pass_context
def launch(context: click.Context, nproc: int, restarts: int, command: tuple[str, ...]) -> None:
    """Train in several processes on this machine.

    The command behind `--` is `train` with its options. The processes find each other by TF_CONFIG, on free ports of
    the loopback interface. If one is lost, all are started again and resume from the last checkpoint. Ctrl-C and
    SIGTERM stop all of them, as in a single process.

    The exit code is that of the training; 75 if a process was lost and no restart is left.
    """
    if command[0] != train.name:
        raise click.UsageError(f"got {command[0]!r}; expected `bnnk launch --nproc N -- train …`")
    plugins = [word for name in context.find_root().params["plugins"] for word in ("--plugin", name)]
    debug = ["--debug"] if context.find_root().params["debug"] else []
    program = [sys.executable, "-c", _BNNK]
    context.exit(
        launch_([*program, *debug, *plugins, *command], nproc, restarts, lambda line: print_line(line, err=True))
    )


COMMANDS = (train, launch, evaluate, predict, import_, repair)
