"""How far a training of a reference is: epoch, best accuracy, and the state of its optimizer."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.errors import BnnError
from bnn_keras.interop.files import Content
from bnn_keras.interop.reference import layout_of, tensors_of

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "tau")  # no parameters, so no optimizer has them
_STEP = "step"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: Finished epochs.
        best_top1: Best test accuracy so far, in percent; None if it is unknown.
        step: Steps of the optimizer; None if they are unknown.
        slots: State of the optimizer: PyTorch's name of a slot ("exp_avg") → name of a tensor → array in the layout of
            the reference.
        groups: Hyper-parameters of each group of the optimizer's parameters, by PyTorch's names.
        scheduler: State of PyTorch's schedule of the learning rate; empty if it has none like ours.

    Example:
        >>> Progress(epoch=3, best_top1=61.5).step is None
        True
    """

    epoch: int = 0
    best_top1: float | None = None
    step: int | None = None
    slots: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    groups: Sequence[Mapping[str, Any]] = ()
    scheduler: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_progress(model: tf.keras.Model, content: Content) -> Progress:
    """Return how far the training of a checkpoint is, as far as its reference stores that.

    PyTorch numbers the parameters in an optimizer's state by their order in the network and their group. They are
    matched with the tensors by that order.

    Args:
        model: The network that the checkpoint belongs to.
        content: The content of the file.

    Raises:
        BnnError: An entry has another type or value than the reference's trainer stores, or the state of the optimizer
            has other parameters than the network.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("nin").experiment)
        >>> read_progress(model, Content({}, {"best_acc": 86.28})).best_top1
        86.28
    """
    layout, entries = layout_of(model).file, content.entries
    epoch = _number(entries, layout.epoch)
    step, slots = _optimizer_state(model, content) if entries.get(layout.optimizer or "") else (None, {})
    return Progress(
        0 if epoch is None else int(epoch) + layout.epoch_of, _number(entries, layout.best, 100.0), step, slots
    )


def _number(entries: Mapping[str, Any], key: str | None, largest: float = 1e6) -> float | None:
    """Return the number of an entry, which may be an array of one element; None if there is no entry.

    Raises:
        BnnError: It is no number from 0 to `largest`.
    """
    if key is None or key not in entries:
        return None
    try:
        number = float(np.asarray(entries[key]).item())
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= largest:
        raise BnnError(
            f"the checkpoint has {key} = {entries[key]!s:.40}; expected a number from 0 to {largest:g}: import its "
            "weights alone with --weights-only"
        )
    return number


def parameter_groups(layout: catalog.ReferenceFile, shapes: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Return the names of the parameters in each group of the reference's optimizer, in its order.

    Args:
        layout: The file of the reference.
        shapes: The shapes of all tensors by name, in the order of the state dict.

    Example:
        >>> layout = catalog.NETWORKS["birealnet18"].reference.file
        >>> parameter_groups(layout, {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "bn1.running_mean": (64,)})
        [['bn1.weight'], ['conv1.weight']]
    """
    names = [name for name in shapes if name.rpartition(".")[2] not in _BUFFERS]
    if layout.second_group is None:
        return [names]
    rank, pattern = layout.second_group
    second = [name for name in names if len(shapes[name]) == rank or fnmatch.fnmatchcase(name, pattern)]
    return [[name for name in names if name not in second], second]


def _optimizer_state(model: tf.keras.Model, content: Content) -> tuple[int | None, dict[str, dict[str, np.ndarray]]]:
    """Return the number of steps, and the slots by PyTorch's names and those of the tensors."""
    layout = layout_of(model).file
    key = str(layout.optimizer)
    try:
        state, groups = content.entries[key]["state"], content.entries[key]["param_groups"]
        indices = [list(group["params"]) for group in groups]
        slots_of = {index: dict(slots) for index, slots in state.items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _unexpected(key, "is no state of an optimizer") from error
    if not slots_of:  # of an optimizer that has taken no step
        return None, {}
    names = parameter_groups(layout, {name: value.shape for name, value in content.tensors.items()})
    if [len(group) for group in indices] != [len(group) for group in names]:
        counts = [" and ".join(str(len(group)) for group in listed) for listed in (indices, names)]
        raise _unexpected(key, f"has {counts[0]} parameters, expected {counts[1]}")
    expected = {tensor.name: tensor.shape for tensor in tensors_of(model)}
    steps: set[int] = set()
    slots: dict[str, dict[str, np.ndarray]] = {}
    for index, name in zip(itertools.chain(*indices), itertools.chain(*names), strict=True):
        for slot, value in slots_of.get(index, {}).items():
            if slot == _STEP:
                steps.add(int(np.asarray(value).item()))
            elif isinstance(value, np.ndarray) and name in expected:
                if value.shape != expected[name] or not np.isfinite(value).all():
                    problem = f"has another shape than {expected[name]}, NaN or infinite numbers in {slot} of {name}"
                    raise _unexpected(key, problem)
                slots.setdefault(slot, {})[name] = value
    return max(steps, default=None), slots


def _unexpected(key: str, problem: str) -> BnnError:
    return BnnError(
        f"the entry {key!r} of the checkpoint {problem}; it is of another network or trainer: import the weights alone "
        "with --weights-only"
    )
