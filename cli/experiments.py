"""The commands `list`, `show`, `check`, `summary` and `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from bnn_keras import BnnError, catalog, pretrained
from bnn_keras.cli import options
from bnn_keras.cli.output import print_json, print_line, print_table, quiet_tensorflow
from bnn_keras.experiment import Experiment, all_experiments, load_experiment, resolve, resolve_continued
from bnn_keras.location import DEFAULT_LOCATION
from bnn_keras.pretrained import Card
from bnn_keras.runs import Run
from bnn_keras.symptoms import find_symptoms, has_probes


def _shape(shape: tuple[int | None, ...]) -> str:
    return "×".join("any" if size is None else str(size) for size in shape)


def _experiment_row(experiment: Experiment) -> dict[str, Any]:
    return {
        "name": experiment.name,
        **experiment.chosen,
        "epochs": experiment.epochs,
        "best_chosen_on": experiment.best_chosen_on,
        "published": experiment.published.model_dump(exclude_none=True) if experiment.published else None,
        "reconstructed": experiment.reconstructed,
        "default": experiment.default,
    }


def _model_row(card: Card) -> dict[str, Any]:
    return {**card.model_dump(), "top1": card.accuracy.top1}


_LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "networks": lambda: [
        {
            "name": row.name,
            "input_shape": row.input_shape,
            "classes": row.classes,
            "scheme": row.scheme,
            "bits": row.bits,
            "description": row.description,
        }
        for row in catalog.NETWORKS.values()
    ],
    "schemes": lambda: [
        {"name": row.name, "bits": row.bits, "description": row.description} for row in catalog.SCHEMES.values()
    ],
    "optimizers": lambda: [
        {"name": row.name, "options": row.options.defaults(), "description": row.description}
        for row in catalog.OPTIMIZERS.values()
    ],
    "datasets": lambda: [
        {
            "name": row.name,
            "input_shape": row.input_shape,
            "classes": row.classes,
            "train_examples": row.train_examples,
            "test_examples": row.test_examples,
            "description": row.description,
        }
        for row in catalog.DATASETS.values()
    ],
    "experiments": lambda: [_experiment_row(experiment) for experiment in all_experiments()],
    "models": lambda: [_model_row(card) for card in pretrained.cards().values()],
}


def _published(figures: dict[str, float] | None) -> str | None:
    """Format top-1 with its deviation, top-5, and in parentheses those of the float network."""
    if figures is None:
        return None
    spread = f" ± {figures['top1_deviation']:g}" if "top1_deviation" in figures else ""
    float_network = _join_figures(figures, "float_top1", "float_top5")
    return _join_figures(figures, "top1", "top5") + spread + (f" ({float_network})" if float_network else "")


def _join_figures(figures: dict[str, float], *keys: str) -> str:
    return " / ".join(f"{figures[key]:g}" for key in keys if key in figures)


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return ", ".join(value) if all(isinstance(part, str) for part in value) else _shape(value)
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {inner:g}" if isinstance(inner, float) else f"{key} {inner}"
            for key, inner in value.items()
            if inner is not None
        )
    if isinstance(value, bool):
        return "yes" if value else None
    return f"{value:,}" if isinstance(value, int) else value


# What a table shows of a row, where that is not the row itself.
_TABLE_ROWS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "experiments": lambda row: {**row, "published": _published(row["published"])},
    "models": lambda row: {
        **{key: row[key] for key in ("name", "network", "scheme", "bits", "dataset")},
        "top-1": f"{row['top1']:.2f} %",
        "test images": row["accuracy"]["images"],
        "bytes": row["bytes"],
    },
}


@click.command("list")
@click.argument("what", type=click.Choice(list(_LISTS)))
@options.as_json
def list_(what: str, as_json: bool) -> None:
    """List networks, schemes, optimizers, datasets, experiments or trained models."""
    rows = _LISTS[what]()
    if as_json:
        print_json(rows)
        return
    if what in _TABLE_ROWS:
        rows = [_TABLE_ROWS[what](row) for row in rows]
    print_table([key.replace("_", " ") for key in rows[0]], ([_cell(value) for value in row.values()] for row in rows))


@click.command()
@click.argument(
    "experiment",
    metavar="EXPERIMENT_OR_NETWORK",
    shell_complete=options.complete_names(options.shown_names),
)
@options.overrides
@click.option("--plot", metavar="FILE", help="Also draw the schedules over the epochs, as .png, .svg or .pdf.")
@click.option("--diagram", metavar="FILE", help="Also draw the network: layers, shapes, bits and shortcuts, as .svg.")
@options.as_json
def show(experiment: str, overrides: tuple[str, ...], plot: str | None, diagram: str | None, as_json: bool) -> None:
    """Print an experiment, given by name or file, or a network's, with all defaults filled in.

    Of a model of the package: its card, as comments, and the experiment that trained it. The output is a valid
    experiment file.
    """
    card = pretrained.cards().get(experiment)
    if experiment in catalog.NETWORKS:
        shown = resolve(experiment, overrides=overrides).experiment
    elif card:
        from bnn_keras.sources import Source

        shown = resolve_continued(Source(card.file).experiment, overrides=overrides)
    else:
        shown = resolve(experiment=experiment, overrides=overrides).experiment
    if diagram:
        with quiet_tensorflow():
            from bnn_keras.build import build_model
            from bnn_keras.diagrams import draw_network, require_svg
        require_svg(diagram)
        draw_network(build_model(shown), diagram, f"{shown.network.name} · {shown.scheme.name} {shown.scheme.bits}")
    if plot:
        with quiet_tensorflow():
            from bnn_keras.plots import plot_schedules
        plot_schedules(shown, plot)
    if as_json:
        print_json(shown.to_document())
    else:
        click.echo((card.to_comments() if card else "") + shown.to_toml(named=False), nl=False)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.pass_context
def check(context: click.Context, files: tuple[str, ...]) -> None:
    """Check experiment files.

    Prints all errors of each file, with their keys and the most similar known names.
    """
    failed = False
    for file in files:
        try:
            load_experiment(file)
        except BnnError as error:
            failed = True
            for problem in getattr(error, "problems", [str(error)]):
                print_line(f"{file}: {problem}", err=True)
        else:
            print_line(f"{file}: ok")
    context.exit(1 if failed else 0)


@click.command()
@options.recipe
@options.as_json
def summary(as_json: bool, **recipe: Any) -> None:
    """Show the layers, weights and operations of a network."""
    experiment = options.resolve_recipe(location=DEFAULT_LOCATION, **recipe)
    with quiet_tensorflow():
        from bnn_keras.build import build_model
        from bnn_keras.counts import count, footer
    model = build_model(experiment)
    counts = count(model)
    if as_json:
        row = {"network": experiment.network.name, "scheme": experiment.scheme.name, "bits": experiment.scheme.bits}
        print_json({**row, "input_shape": list(model.input_shape[1:]), "classes": model.output_shape[-1], **counts})
        return
    import larq

    larq.models.summary(model, print_fn=click.echo)
    click.echo()
    print_table(["counted by bnnk", ""], ([name.replace("_", " "), f"{value:,}"] for name, value in counts.items()))
    print_line(f"\n{footer(counts)}")


@click.command()
@click.argument("run", required=False, metavar="[RUN]")
@click.option(
    "--need",
    "needs",
    multiple=True,
    metavar="NAME",
    help="Fail if this is missing: an extra such as openvino, gpu, or a dataset. Repeatable.",
)
@click.option("--no-self-test", is_flag=True, help="Do not train and export a network, which takes about ten seconds.")
@options.data_dir
@options.as_json
@click.pass_context
def doctor(
    context: click.Context,
    run: str | None,
    needs: tuple[str, ...],
    no_self_test: bool,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Check the machine and the installed packages, or the training in RUN.

    For the machine: versions, extras, GPU, datasets, free disk, and a short training with an export. Exits with 1 if
    something necessary is wrong or missing, or something of --need.

    For a RUN: what looks wrong in its layers, and what usually helps. Exits with 1 if anything does.
    """
    if run:
        given = [name for name, value in (("--data-dir", data_dir), ("--need", needs)) if value]
        if given:
            raise click.UsageError(f"got {', '.join(given)} beside RUN; expected one of them")
        context.exit(1 if _print_symptoms(Run.read(run), as_json) else 0)
    with quiet_tensorflow():
        from bnn_keras import doctor as doctor_
    findings = doctor_.examine(data_dir, needs)
    if not no_self_test:
        print_line("self-test: training and exporting a small network; --no-self-test leaves it out", err=True)
        with quiet_tensorflow():
            findings.append(doctor_.self_test())
    if as_json:
        print_json([finding.to_document() for finding in findings])
    else:
        print_table(["", "what", "found", "to do"], ([row.mark, row.name, row.found, row.cure] for row in findings))
    context.exit(0 if all(finding.ok or finding.optional for finding in findings) else 1)


def _print_symptoms(run: Run, as_json: bool) -> int:
    """Print what looks wrong in a run; return the number of symptoms."""
    symptoms = find_symptoms(run)
    if as_json:
        print_json([symptom.to_document() for symptom in symptoms])
        return len(symptoms)
    for symptom in symptoms:
        print_line(f"{symptom}.\n  What usually helps: {symptom.rule.advice}.\n  Source: {symptom.rule.source}.")
    epochs = run.metrics[-1]["epoch"]
    if not has_probes(run):
        print_line("Inputs and gradients of the layers are not measured yet: it takes 500 steps of a stage.")
    if not symptoms:
        print_line(f"{run.directory}: after {epochs} epochs, nothing looks wrong.")
    return len(symptoms)


COMMANDS = (summary, list_, show, check, doctor)
