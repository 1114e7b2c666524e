"""Find the experiment that a command line selects, and apply its overrides. Needs no TensorFlow."""

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
    """Split "key=value". The value is TOML (3, 0.1, true, [1, 2]), True or False; otherwise it is the text itself.

    Raises:
        BnnError: The text has no "=" or no key.

    Examples:
        >>> parse_override("stages.0.epochs=3")
        ('stages.0.epochs', 3)
        >>> parse_override("scheme.bits=1/1")
        ('scheme.bits', '1/1')
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BnnError(f"cannot read the override {text!r}; expected key=value, such as stages.0.epochs=3")
    return key.strip(), toml_value(value)


def _override(document: Document, key: str, value: Any) -> None:
    """Set a dotted key in place. Unknown keys are set too: the schema reports them."""
    *parents, last = key.split(".")
    table: Any = document
    for depth, part in enumerate([*parents, last]):
        if isinstance(table, list):
            if not part.isdigit() or int(part) >= len(table):
                raise BnnError(
                    f"cannot set {key!r}: expected a number below {len(table)} in place of {part!r}; `bnnk show` "
                    "prints all keys"
                )
            index: Any = int(part)
        elif isinstance(table, dict):
            index = part
        else:
            value = ".".join(key.split(".")[:depth])
            raise BnnError(f"cannot set {key!r}: {value!r} is a value, not a table; set {value!r} itself")
        if depth == len(parents):
            table[index] = value
        else:
            table = table.setdefault(index, {}) if isinstance(table, dict) else table[index]


@dataclasses.dataclass(frozen=True)
class Resolution:
    """The result of `resolve`.

    Attributes:
        experiment: The experiment to run.
        note: A line that tells the user how the experiment differs from a recipe, and what the network's row notes on
            its name; None if there is nothing to tell.
        recipe: Whether the experiment is a recipe, unchanged by the choices.
    """

    experiment: Experiment
    note: str | None = None
    recipe: bool = True


_PLAIN = "plain"
_WITH_ARRAYS = ("mean_image", "whiten")  # keys of preprocessing with arrays, which belong to a dataset

# For each option: the key that it sets (in every stage), and the catalog table of its values.
_KEYS: Mapping[str, tuple[str, str | None]] = {
    "network": ("network.name", "network"),
    "dataset": ("data.name", "dataset"),
    "scheme": ("scheme.name", "scheme"),
    "bits": ("scheme.bits", None),
    "optimizer": ("stages.{stage}.optimizer.name", "optimizer"),
}

# Keys of an optimizer that may have names of the network's weights: key, type that has names, value without names.
_NAMES_OF_WEIGHTS: tuple[tuple[str, type, Any], ...] = (
    ("weight_decay_of", list, "kernels"),
    ("learning_rate_factors", dict, {}),
)


def _keys(option: str, stages: int) -> list[str]:
    pattern, _ = _KEYS[option]
    return list(dict.fromkeys(pattern.format(stage=stage) for stage in range(stages)))


def _choose(
    document: Document, changes: Mapping[str, str], other_dataset: catalog.DatasetRow | None = None
) -> dict[str, Any]:
    """Apply choices to a document, and remove the keys that belong to the names they replace.

    Args:
        document: Changed in place.
        changes: Option → new value.
        other_dataset: The chosen dataset, if it is not in the catalog.

    Returns:
        The new values, by dotted key.
    """
    stages = document["stages"]
    values: dict[str, Any] = {key: value for option, value in changes.items() for key in _keys(option, len(stages))}
    if "network" in changes:
        document["network"] = {}
    if "scheme" in changes or "bits" in changes:
        _reset_scheme(document, replaced="scheme" in changes)
        offered = catalog.SCHEMES[changes.get("scheme", document["scheme"].get("name"))].bits
        bits = document["scheme"]["bits"]
        if "bits" not in changes and (bits not in offered or bits.startswith("32/")):
            values["scheme.bits"] = offered[0]  # a scheme that replaces real weights binarizes them
    if "dataset" in changes:
        network = catalog.NETWORKS[changes.get("network", document["network"].get("name"))]
        values |= _reset_dataset(document, other_dataset or catalog.DATASETS.get(changes["dataset"]), network)
    if "optimizer" in changes:
        for stage in stages:
            kept = ("learning_rate", "weight_decay", "weight_decay_of", "learning_rate_factors")
            stage["optimizer"] = {key: stage["optimizer"][key] for key in kept if key in stage["optimizer"]}
    if "network" in changes or "scheme" in changes:
        values |= {
            f"stages.{index}.optimizer.{key}": everywhere
            for index, stage in enumerate(stages)
            for key, kind, everywhere in _NAMES_OF_WEIGHTS
            if isinstance(stage["optimizer"].get(key), kind)
        }
    for key, value in values.items():
        _override(document, key, value)
    return values


def _row(kind: str, document: Document) -> Any:
    """Return the catalog row that a document names; None if it names none."""
    return catalog.TABLES[kind].get(document[kind].get("name"))


def _reset_scheme(document: Document, replaced: bool) -> None:
    """Remove the options of a replaced scheme, or those that depend on its bits; also from stages."""
    name = document["scheme"]["name"]
    for stage in document["stages"]:
        if stage.get("scheme", {}).get("name") == name:
            del stage["scheme"]
    if replaced:
        document["scheme"] = {"bits": document["scheme"]["bits"]}
    for kind in ("scheme", "network"):
        row = _row(kind, document)
        for key in row.options.by_bits() if row else ():
            document[kind].pop(key, None)


def _reset_dataset(document: Document, row: catalog.DatasetRow | None, network: catalog.NetworkRow) -> dict[str, Any]:
    """Remove the description of the replaced dataset; return the keys that describe the new one.

    Mean and standard deviation become those of the new dataset. If `row` is None, the new dataset is "fake": images are
    generated with shape, classes and normalization of the replaced dataset.
    """
    data = document["data"]
    source = data.get("like", data["name"])
    before = {
        key: data.pop(key, None)
        for key in ("like", "examples", "max_damaged", "test_examples", "shape", "classes", "channels", *_WITH_ARRAYS)
    }
    if row is None:
        kept = {key: before[key] for key in ("shape", "classes") if before[key]}
        return {"data.like": source, **{f"data.{key}": value for key, value in kept.items()}}
    described = _normalization(network, row) | ({"validation": row.validation} if row.validation else {})
    return {f"data.{key}": value for key, value in described.items() if data.get(key) != value}


def _normalization(network: catalog.NetworkRow, dataset: catalog.DatasetRow) -> dict[str, list[float]]:
    """Return `mean` and `std` for a network on a dataset: those of its pre-trained weights, else the dataset's."""
    pretrained = network.normalization
    fits = pretrained and len(pretrained.mean) in (1, dataset.input_shape[-1])
    source = pretrained if pretrained and fits else dataset
    return {"mean": list(source.mean), "std": list(source.std)}


def plain(network: str) -> Experiment:
    """Return a recipe for a network without experiments: Adam at 0.001 for 100 epochs, dataset and scheme of its row.

    The best epoch is chosen on held-out training images. The recipe is not published. It exists so that every network
    can be built, trained and loaded with weights.
    """
    row = catalog.find("network", network)
    document = {
        "network": {"name": network},
        "scheme": {"name": row.scheme, "bits": row.bits},
        "data": {
            "name": row.dataset,
            "validation": catalog.VALIDATION,
            **_normalization(row, catalog.DATASETS[row.dataset]),
        },
        "stages": [{"epochs": 100, "batch_size": 128, "optimizer": {"name": "adam", "learning_rate": 0.001}}],
    }
    return validate(document, f"{_PLAIN}/{network.replace('/', '-')}_{row.dataset}")


def unmet(experiment: Experiment, choices: Mapping[str, str]) -> dict[str, str]:
    """Return the choices whose values differ from the experiment's."""
    values = experiment.flat()
    return {
        option: value
        for option, value in choices.items()
        if any(values[key] != value for key in _keys(option, len(experiment.stages)))
    }


def find_experiment(
    network: str, choices: Mapping[str, str], candidates: Iterable[Experiment] | None = None
) -> Experiment:
    """Find the experiment of a network that matches the choices best.

    Experiments with `by_name = true` are never found. Of the network's other experiments, those that match all choices
    are kept; if there are none, all are kept. Of several, the default one is taken, else the one that is most similar
    to the default in the options that were not chosen. `unmet` tells which choices the result does not match.

    Args:
        network: Name of a network.
        choices: Required values of some of `network`, `dataset`, `scheme`, `bits` and `optimizer`.
        candidates: Experiments to search; by default those that ship with the package.

    Raises:
        BnnError: Several experiments match and none is the default or most similar to it, or the network has no
            experiment.

    Examples:
        >>> from bnn_keras.experiment import find_experiment
        >>> find_experiment("lenet5", {"dataset": "mnist"}).name
        'xnor_net/lenet5_mnist'
    """
    known = all_experiments() if candidates is None else candidates
    of_network = [experiment for experiment in known if experiment.network.name == network and not experiment.by_name]
    if not of_network:
        raise BnnError(f"no experiment trains network {network!r}; give a file with --experiment FILE")
    matching = [experiment for experiment in of_network if not unmet(experiment, choices)] or of_network
    defaults = [experiment for experiment in of_network if experiment.default]
    chosen = [experiment for experiment in matching if experiment.default] or _nearest(matching, defaults, choices)
    if len(chosen) != 1:
        names = ", ".join(experiment.name for experiment in matching)
        raise BnnError(f"{len(matching)} experiments match network {network!r}; choose one with --experiment: {names}")
    return chosen[0]


def _nearest(matching: list[Experiment], defaults: list[Experiment], choices: Mapping[str, str]) -> list[Experiment]:
    """Return the experiments that are most similar to the network's default in the options that were not chosen."""
    if len(defaults) != 1:
        return matching
    values = defaults[0].flat()
    others = {option: values[_keys(option, 1)[0]] for option in _KEYS if option not in choices}
    differences = [len(unmet(experiment, others)) for experiment in matching]
    return [experiment for experiment, number in zip(matching, differences, strict=True) if number == min(differences)]


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
    """Return the experiment that the options of a command line select.

    `dataset`, `scheme`, `bits` and `optimizer` choose between the network's recipes. If no recipe has them, they
    replace the values of the nearest one, and `note` says so. A new dataset brings its own mean and standard deviation.
    A network without experiments gets a plain recipe: Adam at 0.001 for 100 epochs.

    Args:
        network: Name of the network. Optional if `experiment` is given.
        experiment: Name or file of an experiment. By default it is found from the other options (`find_experiment`).
        dataset: Name of a dataset of the catalog, "fake", or the row that `bnn_keras.data.describe` returns for another
            dataset.
        scheme: Name of a scheme.
        bits: Bits of weights / activations, such as "1/1".
        optimizer: Name of an optimizer, used in every stage.
        overrides: "dotted.key=value" strings, applied last.
        epochs: Number of epochs; for experiments with one stage.
        batch_size: Images per step, in every stage.
        seed: Seed of initial weights, shuffle order and augmentation.

    Raises:
        BnnError: A name is unknown, several experiments match, or an override cannot be applied.

    Examples:
        >>> from bnn_keras import resolve
        >>> resolve("lenet5", dataset="mnist").experiment.name
        'xnor_net/lenet5_mnist'
        >>> resolve("lenet5", epochs=3, overrides=["data.mean=[0.5]"]).experiment.epochs
        3
        >>> resolve("lenet5", bits="1/32").note
        "no recipe for lenet5 with 1/32; based on xnor_net/lenet5_mnist_5k with scheme.bits = '1/32'"
    """
    other_dataset = dataset if isinstance(dataset, catalog.DatasetRow) else None
    options = {
        "network": network,
        "dataset": dataset.name if isinstance(dataset, catalog.DatasetRow) else dataset,
        "scheme": scheme,
        "bits": bits,
        "optimizer": optimizer,
    }
    choices = {option: value for option, value in options.items() if value is not None}
    for option, value in choices.items():
        _, table = _KEYS[option]
        if table and not (option == "dataset" and (other_dataset or value == FAKE)):
            catalog.find(table, value)

    base = _base(network, experiment, choices)
    document = base.to_document()
    changes = unmet(base, choices)
    if "scheme" in changes and "bits" in choices:  # also if the recipe has the same bits: another scheme brings its own
        changes["bits"] = choices["bits"]
    parsed = [parse_override(text) for text in overrides]
    note = None
    if changes:
        values = _choose(document, changes, other_dataset)
        final = {**values, **{key: value for key, value in parsed if key in values}}
        before = base.flat()
        changed = ", ".join(f"{key} = {value!r}" for key, value in final.items() if before.get(key) != value)
        wanted = ", ".join(value for option, value in changes.items() if option != "network") or "this experiment"
        note = f"no recipe for {network or base.network.name} with {wanted}; based on {base.name} with {changed}"
        document = _renamed(document, base)
    elif experiment is None and base.name.startswith(f"{_PLAIN}/"):
        note = f"no recipe for {network}; using the plain recipe {base.name}: Adam at 0.001 for 100 epochs"
    named = catalog.NETWORKS[network].note if network and experiment is None else None
    notes = "; ".join(filter(None, (note, named))) or None
    if other_dataset:
        shape = [size or 0 for size in other_dataset.input_shape]
        document["data"] |= {"shape": shape, "classes": other_dataset.classes}
    _apply(document, base, parsed, epochs, batch_size, seed)
    return Resolution(validate(document, document["name"]), notes, recipe=note is None)


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return an experiment with other values, by dotted key or by option (network, dataset, scheme, bits, optimizer).

    As in `resolve`, an option also removes the keys that belong to the name it replaces.

    Raises:
        BnnError: A key or a name is unknown, or a value is invalid.

    >>> with_values(resolve("lenet5").experiment, {"stages.0.epochs": 3, "scheme": "irnet"}).scheme.name
    'irnet'
    """
    document = experiment.to_document()
    choices = {key: value for key, value in values.items() if key in _KEYS}
    for option, value in choices.items():
        _, table = _KEYS[option]
        if table:
            catalog.find(table, value)
    changes = unmet(experiment, choices)
    if changes:
        _choose(document, changes)
        document = _renamed(document, experiment)
    for key, value in values.items():
        if key not in choices:
            _override(document, key, value)
    return validate(document, document["name"])


def resolve_continued(
    experiment: Experiment, *, overrides: Iterable[str] = (), epochs: int | None = None
) -> Experiment:
    """Return the experiment of a run with other values, to train the run further.

    Args:
        experiment: The experiment.
        overrides: "dotted.key=value" strings.
        epochs: Number of epochs; for experiments with one stage.

    Raises:
        BnnError: A key is unknown, or a value is invalid.

    >>> resolve_continued(resolve("lenet5").experiment, epochs=90).epochs
    90
    """
    document = experiment.to_document()
    _apply(document, experiment, map(parse_override, overrides), epochs, None, None)
    return validate(document, document["name"])


def resolve_for_weights(network: str, *, overrides: Iterable[str] = (), **choices: Any) -> Resolution:
    """Return the experiment that `resolve` selects, for weights that a reference has trained.

    On another dataset it keeps the normalization of the network's recipe, which the weights need, unless the number of
    channels differs.
    """
    resolution = resolve(network, overrides=overrides, **choices)
    recipe = resolve(network, **{**choices, "dataset": None}).experiment
    kept = _normalization_of(recipe, resolution.experiment)
    if kept and not resolution.recipe:
        return resolve(network, overrides=[*_as_overrides(kept), *overrides], **choices)
    return resolution


def resolve_with_images_of(
    other: Experiment, network: str, *, overrides: Iterable[str] = (), **choices: Any
) -> Resolution:
    """Return the experiment that `resolve` selects, for weights that another experiment has trained.

    Its images are rotated and normalized as those of the other experiment, which the weights need, unless the number of
    channels differs or `overrides` has other values. The note says so.

    >>> other = resolve("lenet5", overrides=["data.mean=[0.5]"]).experiment
    >>> resolution = resolve_with_images_of(other, "lenet5", dataset="fashion_mnist")
    >>> resolution.experiment.data.mean
    [0.5]
    """
    overrides = list(overrides)
    resolution = resolve(network, overrides=overrides, **choices)
    needed = {"network.rotated": other.network.rotated, **_normalization_of(other, resolution.experiment)}
    before = resolution.experiment.flat()
    set_by_user = {key for key, _ in map(parse_override, overrides)}
    changed = {key: value for key, value in needed.items() if before.get(key) != value and key not in set_by_user}
    if not changed:
        return resolution
    resolution = resolve(network, overrides=[*_as_overrides(changed), *overrides], **choices)
    values = ", ".join(f"{key} = {value!r}" for key, value in changed.items())
    note = f"{values}, as in the training that it starts from"
    return dataclasses.replace(resolution, note=f"{resolution.note}; {note}" if resolution.note else note)


def _normalization_of(experiment: Experiment, other: Experiment) -> dict[str, Any]:
    """Return the normalization of an experiment by its keys; nothing if images of the other have another number."""
    data, channels = experiment.data, (1, other.input_shape[-1])
    arrays = {f"data.{key}": getattr(data, key) for key in _WITH_ARRAYS if getattr(data, key)}
    fits = len(data.mean) in channels and len(data.std) in channels
    return {"data.mean": data.mean, "data.std": data.std, "data.channels": data.channels, **arrays} if fits else {}


def _as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return values by dotted key as the overrides that set them."""
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]


def _apply(
    document: Document,
    base: Experiment,
    overrides: Iterable[tuple[str, Any]],
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
) -> None:
    """Apply the options that do not choose between recipes."""
    if epochs is not None:
        if len(document["stages"]) > 1:
            raise BnnError(
                f"--epochs {epochs} is ambiguous: {base.name} has {len(document['stages'])} stages; "
                "use --set stages.N.epochs=…"
            )
        _override(document, "stages.0.epochs", epochs)
    if batch_size is not None:
        for index in range(len(document["stages"])):
            _override(document, f"stages.{index}.batch_size", batch_size)
    if seed is not None:
        _override(document, "seed", seed)
    for key, value in overrides:
        if (key, value) == ("data.name", FAKE) and document["data"]["name"] != FAKE:
            document["data"] |= {"like": document["data"]["name"]}
        _override(document, key, value)


def _base(network: str | None, experiment: str | Path | None, choices: Mapping[str, str]) -> Experiment:
    """Return the experiment that the options change."""
    if experiment is not None:
        return load_experiment(experiment)
    if network is None:
        raise BnnError("neither a network nor an experiment is given; expected one of the two, such as lenet5")
    candidates = [other for other in all_experiments() if other.network.name == network and not other.by_name]
    return find_experiment(network, choices, candidates) if candidates else plain(network)


def _renamed(document: Document, base: Experiment) -> Document:
    """Rename a changed experiment after what it trains, and remove the published figures of its base."""
    paper = base.name.split("/")[0] if "/" in base.name else "own"
    name = f"{paper}/{document['network']['name'].replace('/', '-')}_{document['data']['name']}"
    kept = {key: value for key, value in document.items() if key != "published"}
    return {**kept, "name": name, "default": False}
