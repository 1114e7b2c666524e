"""The commands `sweep` and `plot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_table, quiet_tensorflow
from bnn_keras.location import DataLocation

EXAMPLES = """\b
Examples:
  bnnk sweep binarynet --experiment rethinking_bnn/binarynet_cifar10_sec51 --name sec51
  bnnk sweep lenet5 --vary stages.0.batch_size=32,128 --vary scheme=xnor,irnet --seeds 3 --name batches
  bnnk sweep lenet5 --search stages.0.optimizer.learning_rate.initial=log:1e-4..1e-1 --trials 20 --prune --name rates
  bnnk sweep show rates --plot rates.png
"""

SWEEP = "run"


class SweepGroup(click.Group):
    """A group whose command `run` is meant if none is named: `bnnk sweep NETWORK …`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put `run` in front of arguments that begin with neither a command nor --help."""
        if args and args[0] not in (*self.commands, *context.help_option_names):
            args = [SWEEP, *args]
        return super().parse_args(context, args)


@click.group(cls=SweepGroup, epilog=EXAMPLES)
def sweep() -> None:
    """Train many variants of an experiment, and compare them.

    `bnnk sweep NETWORK …` is short for `bnnk sweep run NETWORK …`.
    """


@sweep.command(SWEEP, epilog=EXAMPLES)
@options.recipe
@options.durations
@click.option("--seed", type=click.IntRange(min=0), help="First seed (default: the recipe's).")
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=A,B,C",
    help="Values to try of a key, or of an option such as scheme. Repeatable: every combination.",
)
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=LOW..HIGH",
    help="Range to search of a key; log:LOW..HIGH draws the logarithm. Repeatable; needs --trials.",
)
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Number of points to try with --search.")
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Trainings of each point, with further seeds.")
@click.option("--prune", is_flag=True, help="Stop trainings that are below the median of the others.")
@click.option("--name", required=True, metavar="S", help="Name of the sweep, whose folder is sweeps/S.")
@options.data_location
@options.strategy
@options.precision
@options.jit
@options.quiet
@options.as_json
def run(
    network: str,
    vary: tuple[str, ...],
    search: tuple[str, ...],
    trials: int | None,
    seeds: int | None,
    prune: bool,
    name: str,
    data_dir: str | None,
    manual_dir: str | None,
    strategy: str,
    precision: str,
    jit: bool,
    quiet: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Train variants of NETWORK's recipe: every combination of --vary, or points that Optuna searches.

    The options choose the experiment as those of `bnnk train`. Without --vary and --search, the sweep is that of the
    experiment's table [sweep]. All combinations are checked before the first training. Each trial is a run,
    sweeps/S/NNN. Start the same command several times, also on machines that share the folder, to share the
    work; start it again to continue.
    """
    from bnn_keras.sweeps import definition
    from bnn_keras.sweeps.study import import_optuna

    folder = definition.directory_of(name)
    import_optuna()
    experiment = options.resolve_recipe(network, DataLocation(data_dir, manual_dir), **recipe)
    defined = definition.define(
        experiment,
        definition.parse_vary(vary),
        definition.parse_search(search),
        trials=trials,
        seeds=seeds,
        prune=prune,
    )
    print_line(f"{experiment.name}: {defined.trials} trials → {folder}", err=True)
    with quiet_tensorflow():
        from bnn_keras.sweeps.running import sweep as sweep_
    done = sweep_(
        defined,
        folder,
        data_dir=data_dir,
        manual_dir=manual_dir,
        strategy=strategy,
        precision=precision,
        jit=jit,
        plain=quiet,
        command=["bnnk", *sys.argv[1:]],
    )
    _print_trials(done, as_json)


def _print_trials(trials: list[Any], as_json: bool) -> None:
    if as_json:
        print_json([trial.to_document() for trial in trials])
        return
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    print_table(
        ["trial", *keys, "seed", "state", "epochs", "top-1", "run"],
        (
            [
                trial.number,
                *(trial.values.get(key) for key in keys),
                trial.seed,
                trial.state,
                trial.epochs,
                None if trial.accuracy is None else f"{trial.accuracy:.2f} %",
                trial.run,
            ]
            for trial in trials
        ),
    )
    finished = [trial for trial in trials if trial.accuracy is not None]
    if finished:
        best = max(finished, key=lambda trial: trial.accuracy)
        print_line(f"best: trial {best.number} with {best.accuracy:.2f} %; {len(finished)} of {len(trials)} finished")
    else:
        print_line("no trial is finished", err=True)


@sweep.command()
@click.argument("name", metavar="S")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV and nothing else.")
@options.as_json
@click.option(
    "--plot",
    "--png",
    "plot_file",
    metavar="FILE",
    help="Also draw the accuracies over the one or two keys that vary, as .png, .svg or .pdf: a curve, a heat map, or "
    "points of ranges.",
)
def show(name: str, as_csv: bool, as_json: bool, plot_file: str | None) -> None:
    """Print the trials of the sweep S, a name or a folder.

    Accuracies are those after the last epoch, on the images that the best epoch is chosen on.
    """
    from bnn_keras.sweeps import definition
    from bnn_keras.sweeps.results import plot as plot_
    from bnn_keras.sweeps.results import results, to_csv

    folder = Path(name) if (Path(name) / definition.FILE).exists() else definition.directory_of(name)
    trials = results(folder)
    if plot_file:
        with quiet_tensorflow():
            plot_(folder, plot_file)
    if as_csv:
        click.echo(to_csv(definition.read(folder), trials), nl=False)
    else:
        _print_trials(trials, as_json)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="Picture to write: .png, .svg or .pdf.")
def plot(runs: tuple[str, ...], output: str) -> None:
    """Plot training (dashed) and test error of each RUN over the epochs, its flip ratio, and scheduled values."""
    with quiet_tensorflow():
        from bnn_keras.plots import plot_runs
    plot_runs(runs, output)
    print_line(f"written to {output}", err=True)


COMMANDS = (sweep, plot)
