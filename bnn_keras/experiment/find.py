"""The experiment that a command line means: overrides, and the choice between recipes. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnn_keras import catalog
from bnn_keras.errors import BnnError
from bnn_keras.experiment.files import Document, all_experiments, load_experiment, toml_value, validate
from bnn_keras.experiment.schema import FAKE, Experiment


def parse_override(text: str) -> tuple[str, Any]:
    """Splits "key=value". The value is TOML where it can be read so (3, 0.1, true, [1, 2]), else plain text.

    Raises:
        BnnError: There is no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BnnError(f"cannot read the override {text!r}; expected key=value, such as stages.0.epochs=3")
    return key.strip(), toml_value(value)


def _override(document: Document, key: str, value: Any) -> None:
    """Sets a dotted key in place. Keys the schema does not know are left for it to refuse."""
    *parents, last = key.split(".")
    place: Any = document
    for depth, part in enumerate([*parents, last]):
        final = depth == len(parents)
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise BnnError(f"cannot set {key!r}: expected a number below {len(place)} in place of {part!r}")
            index: Any = int(part)
        elif isinstance(place, dict):
            index = part
        else:
            raise BnnError(f"cannot set {key!r}: {'.'.join(key.split('.')[:depth])!r} is a value, not a table")
        if final:
            place[index] = value
        else:
            place = place.setdefault(index, {}) if isinstance(place, dict) else place[index]


@dataclasses.dataclass(frozen=True)
class Resolution:
    """The experiment to run, and a line for the user where it is not a recipe as it stands."""

    experiment: Experiment
    note: str | None = None


_PLAIN = "plain"

# What an option chooses: the key that it stands for (in every stage), and the table of the catalog that has its values.
_KEYS = {
    "network": ("network.name", "network"),
    "dataset": ("data.name", "dataset"),
    "scheme": ("scheme.name", "scheme"),
    "bits": ("scheme.bits", None),
    "optimizer": ("stages.{stage}.optimizer.name", "optimizer"),
}


def _keys(option: str, stages: int) -> list[str]:
    pattern, _ = _KEYS[option]
    return list(dict.fromkeys(pattern.format(stage=stage) for stage in range(stages)))


def _choose(
    document: Document, changes: Mapping[str, Any], described: catalog.DatasetRow | None = None
) -> dict[str, Any]:
    """Puts choices into a document, and takes out what belonged to the names they replace.

    Args:
        document: Is changed in place.
        changes: The choices, by option.
        described: The dataset chosen, where the catalog does not have it.

    Returns:
        What is set, by dotted key.
    """
    stages = document["stages"]
    keys = {key: value for option, value in changes.items() for key in _keys(option, len(stages))}
    if "network" in changes:
        document["network"] = {}
    if "scheme" in changes or "bits" in changes:
        _forget_scheme(document, replaced="scheme" in changes)
        offered = catalog.SCHEMES[changes.get("scheme", document["scheme"].get("name"))].bits
        if "bits" not in changes and document["scheme"]["bits"] not in offered:
            keys["scheme.bits"] = offered[0]
    if "dataset" in changes:
        row = described or catalog.DATASETS.get(changes["dataset"])
        keys |= _forget_dataset(document, row)
    if "optimizer" in changes:
        for stage in stages:
            kept = ("learning_rate", "weight_decay", "weight_decay_of")
            stage["optimizer"] = {key: stage["optimizer"][key] for key in kept if key in stage["optimizer"]}
    for key, value in keys.items():
        _override(document, key, value)
    return keys


def _forget_scheme(document: Document, replaced: bool) -> None:
    """Takes out what is the scheme's own, or only what depends on its bits; stages have it too."""
    name = document["scheme"]["name"]
    for stage in document["stages"]:
        if stage.get("scheme", {}).get("name") == name:
            del stage["scheme"]
    if replaced:
        document["scheme"] = {"bits": document["scheme"]["bits"]}
    document["scheme"].pop("activation", None)
    document["network"].pop("structure", None)


def _forget_dataset(document: Document, row: catalog.DatasetRow | None) -> dict[str, Any]:
    """Takes out what described the old dataset, and makes the normalisation one of the new one's channels.

    Without a new one images are made up, like those of the old one.
    """
    data = document["data"]
    source = data.get("like", data["name"])
    described = {key: data.pop(key, None) for key in ("like", "examples", "shape", "classes")}
    if row is None:
        kept = {key: described[key] for key in ("shape", "classes") if described[key]}
        return {"data.like": source, **{f"data.{key}": value for key, value in kept.items()}}
    channels = row.input_shape[-1]
    averages = {key: [round(sum(data[key]) / len(data[key]), 4)] for key in ("mean", "std")}
    return {f"data.{key}": value for key, value in averages.items() if len(data[key]) not in (1, channels)}


def plain(network: str) -> Experiment:
    """A recipe for a network that has none: Adam at 0.001 for 100 epochs, dataset and scheme of its row.

    Nobody published it; it is there so that every network builds, trains and takes in weights.
    """
    row = catalog.find("network", network)
    document = {
        "network": {"name": network},
        "scheme": {"name": row.scheme, "bits": row.bits},
        "data": {"name": row.dataset, "mean": list(row.mean), "std": list(row.std)},
        "stages": [{"epochs": 100, "batch_size": 128, "optimizer": {"name": "adam", "learning_rate": 0.001}}],
    }
    return validate(document, f"{_PLAIN}/{network.replace('/', '-')}_{row.dataset}")


def unmet(experiment: Experiment, choices: Mapping[str, str]) -> dict[str, str]:
    """Those of the choices that the experiment does not have."""
    values = experiment.flat()
    return {
        option: value
        for option, value in choices.items()
        if any(values[key] != value for key in _keys(option, len(experiment.stages)))
    }


def find_experiment(
    network: str, choices: Mapping[str, str], candidates: Iterable[Experiment] | None = None
) -> Experiment:
    """The experiment of a network that fits the choices best.

    Candidates are the network's experiments but for those found by name alone; each choice keeps those that have its
    value. One left: it. Several left: the default one, else the one that has most in common with it in what was not
    chosen. None left: the network's default, though it does not have them all (see `unmet`).

    Args:
        network: Name of a network.
        choices: Some of `network`, `dataset`, `scheme`, `bits` and `optimizer` with the value each shall have.
        candidates: The experiments to choose from; those that ship with the package where absent.

    Raises:
        BnnError: Several fit, none is the default, and none is nearer to it than the others; or the network has no
            experiment at all.
    """
    known = all_experiments() if candidates is None else list(candidates)
    of_network = [one for one in known if one.network.name == network and not one.by_name]
    if not of_network:
        raise BnnError(f"no experiment trains network {network!r}; give a file with --experiment FILE")
    fitting = [one for one in of_network if not unmet(one, choices)]
    group = fitting or of_network
    defaults = [one for one in of_network if one.default]
    chosen = [one for one in group if one.default] or _nearest(group, defaults, choices)
    if len(chosen) != 1:
        names = ", ".join(one.name for one in group)
        raise BnnError(f"{len(group)} experiments fit network {network!r}; choose one with --experiment: {names}")
    return chosen[0]


def _nearest(group: list[Experiment], defaults: list[Experiment], choices: Mapping[str, str]) -> list[Experiment]:
    """Those of a group that have most in common with the network's default, in what is not among the choices."""
    if len(defaults) != 1:
        return group
    values = defaults[0].flat()
    others = {option: values[_keys(option, 1)[0]] for option in _KEYS if option not in choices}
    differences = [len(unmet(one, others)) for one in group]
    return [one for one, number in zip(group, differences, strict=True) if number == min(differences)]


def resolve(
    network: str | None = None,
    *,
    experiment: str | Path | None = None,
    dataset: str | catalog.DatasetRow | None = None,
    scheme: str | None = None,
    bits: str | None = None,
    optimizer: str | None = None,
    overrides: Iterable[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Resolution:
    """The experiment that a command line means.

    Args:
        network: Name of the network; may be left out where `experiment` is given.
        experiment: Name or file; found from the other options (`find_experiment`) where absent.
        dataset: Dataset of the catalog, "fake", or what `bnn_keras.data.describe` says of another one; this and the
            next three choose between recipes, and override one where no recipe has them.
        scheme: Scheme.
        bits: Bits of weights / activations, "1/1".
        optimizer: Optimizer, in every stage.
        overrides: "dotted.key=value" strings, applied last.
        epochs: Epochs of the only stage.
        batch_size: Images per step, in every stage.
        seed: Of initial weights, order and augmentation.

    A network without any experiment gets a plain recipe (`plain`), and a line says so.

    Raises:
        BnnError: An unknown name, several experiments, an override that does not fit.
    """
    described = dataset if isinstance(dataset, catalog.DatasetRow) else None
    name = described.name if described else dataset
    options = {"network": network, "dataset": name, "scheme": scheme, "bits": bits, "optimizer": optimizer}
    choices = {option: value for option, value in options.items() if value is not None}
    for option, value in choices.items():
        _, table = _KEYS[option]
        if table and not (option == "dataset" and (described or value == FAKE)):
            catalog.find(table, value)

    base = _base(network, experiment, choices)
    document = base.to_document()
    changes = unmet(base, choices)
    note = None
    if changes:
        changed = ", ".join(f"{key} = {value!r}" for key, value in _choose(document, changes, described).items())
        wanted = ", ".join(value for option, value in changes.items() if option != "network") or "this experiment"
        note = f"no recipe for {network or base.network.name} with {wanted}; based on {base.name} with {changed}"
        document = _renamed(document, base)
    elif experiment is None and base.name.startswith(f"{_PLAIN}/"):
        note = f"no recipe for {network}; a plain one instead, {base.name}: Adam at 0.001 for 100 epochs"
    if described:
        shape = [size or 0 for size in described.input_shape]
        document["data"] |= {"shape": shape, "classes": described.classes}
    _apply(document, base, overrides, epochs, batch_size, seed)
    return Resolution(validate(document, document["name"]), note)


def _apply(
    document: Document,
    base: Experiment,
    overrides: Iterable[str],
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
) -> None:
    """Puts what is not a choice between recipes into a document."""
    if epochs is not None:
        if len(document["stages"]) > 1:
            raise BnnError(
                f"--epochs {epochs} is unclear: {base.name} has {len(document['stages'])} stages; "
                "use --set stages.N.epochs=…"
            )
        _override(document, "stages.0.epochs", epochs)
    if batch_size is not None:
        for index in range(len(document["stages"])):
            _override(document, f"stages.{index}.batch_size", batch_size)
    if seed is not None:
        _override(document, "seed", seed)
    for text in overrides:
        key, value = parse_override(text)
        if (key, value) == ("data.name", FAKE) and document["data"]["name"] != FAKE:
            document["data"] |= {"like": document["data"]["name"]}
        _override(document, key, value)


def _base(network: str | None, experiment: str | Path | None, choices: Mapping[str, str]) -> Experiment:
    """The experiment that options start from."""
    if experiment is not None:
        return load_experiment(experiment)
    if network is None:
        raise BnnError("neither a network nor an experiment is given; expected one of the two")
    candidates = [one for one in all_experiments() if one.network.name == network and not one.by_name]
    return find_experiment(network, choices, candidates) if candidates else plain(network)


def _renamed(document: Document, base: Experiment) -> Document:
    """A derived experiment: named after what it trains, without the figures published for its base."""
    paper = base.name.split("/")[0] if "/" in base.name else "own"
    name = f"{paper}/{document['network']['name'].replace('/', '-')}_{document['data']['name']}"
    kept = {key: value for key, value in document.items() if key != "published"}
    return {**kept, "name": name, "default": False}
