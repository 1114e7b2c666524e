"""Record in environment.json which images a run is trained on, and compare a dataset with such a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnn_keras.data.datasets import Dataset
from bnn_keras.errors import BnnError
from bnn_keras.text import some


def record_of(dataset: Dataset) -> dict[str, Any]:
    """Return the record of a dataset: name, version, numbers of images, classes, and what identifies its files.

    Example:
        >>> import bnn_keras
        >>> from bnn_keras.data import open_data
        >>> experiment = bnn_keras.resolve("lenet5", dataset="fake", overrides=["data.examples=6"]).experiment
        >>> record = record_of(open_data(experiment))
        >>> record["name"], record["train_examples"], record["labels"][:3]
        ('fake', 6, ['0', '1', '2'])
    """
    return {
        "name": dataset.info.name,
        "version": dataset.version,
        "train_examples": dataset.examples(dataset.info.train),
        "test_examples": dataset.examples(dataset.info.test),
        "labels": dataset.labels,
        **dataset.reader.details,
    }


def check_record(dataset: Dataset, recorded: Mapping[str, Any], run: str) -> None:
    """Verify that a dataset has the version, the classes and the image files of a record.

    What is not in the record, which may be of an earlier version, is not compared.

    Args:
        dataset: The dataset to resume a training with.
        recorded: The record, as in environment.json.
        run: Name of the run, for the message.

    Raises:
        BnnError: Something differs.
    """
    found = record_of(dataset)
    same = {**found, **recorded}
    digests = {**found.get("digests", {}), **same.get("digests", {})}
    changed = [split for split, digest in digests.items() if found.get("digests", {}).get(split) != digest]
    problems = [
        f"version {found['version']} instead of {same['version']}" if same["version"] != found["version"] else "",
        label_differences(same["labels"], found["labels"]),
        f"other image files (by name or size) in {', '.join(changed)}" if changed else "",
    ]
    if any(problems):
        raise BnnError(
            f"{run!r} was trained on other images of {dataset.info.name!r}; {_location(dataset)} has "
            f"{'; '.join(filter(None, problems))}; resume with the images of the run, or give another --run DIR"
        )


def check_labels(dataset: Dataset, labels: Sequence[str], source: str) -> None:
    """Verify that a dataset has the classes of a network, in their order.

    Args:
        dataset: The dataset to evaluate on.
        labels: Names of the classes, in the order of the network's logits.
        source: Run or file of the network, for the message.

    Raises:
        BnnError: Names or order differ.
    """
    differences = label_differences(labels, dataset.labels)
    if differences:
        raise BnnError(
            f"dataset {dataset.info.name!r} in {_location(dataset)} has other classes than {source!r}: {differences}; "
            "choose a dataset with the same classes"
        )


def label_differences(expected: Sequence[str], found: Sequence[str]) -> str:
    """Return how names or order of classes differ, as text; "" if they do not.

    Example:
        >>> label_differences(["cat", "dog"], ["cat", "wolf"])
        'class wolf instead of dog'
        >>> label_differences(["cat", "dog"], ["dog", "cat"])
        "class 0 'dog' instead of 'cat'"
        >>> label_differences(["cat"], ["cat"])
        ''
    """
    lacking = [name for name in expected if name not in set(found)]
    other = [name for name in found if name not in set(expected)]
    if lacking or other:
        return f"class {some(other)} instead of {some(lacking)}"
    pairs = zip(range(len(expected)), found, expected, strict=False)
    return next(
        (f"class {number} {name!r} instead of {wanted!r}" for number, name, wanted in pairs if name != wanted), ""
    )


def _location(dataset: Dataset) -> str:
    return repr(dataset.reader.folder) if dataset.reader.folder else "it"
