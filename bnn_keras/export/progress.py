"""How far the training of a run is, as a reference's trainer stores it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import checkpoints, interop
from bnn_keras.build import build_optimizer, build_schedules
from bnn_keras.models import build_empty, stage_at
from bnn_keras.optimizers import set_hyperparameter
from bnn_keras.runs import Run
from bnn_keras.schedule_config import ScheduleConfig


def progress_of(run: Run, best: bool) -> interop.Progress:
    """Return how far the training of a run was when its weights were written.

    The optimizer's state is that of the newest checkpoint, so it belongs to the last weights only.

    Args:
        run: The run.
        best: Whether the weights are those of the best epoch instead of the last.

    Raises:
        BnnError: Every checkpoint is damaged.
    """
    checkpoint = checkpoints.latest(run, lambda state: not state.steps_of_epoch)
    if checkpoint is None:
        return interop.Progress()
    state = checkpoint.state
    accuracy = None if state.best_top1 < 0 else state.best_top1
    if best:
        epochs = [row["epoch"] for row in run.metrics_until(state.metrics_length) if row["val_top1"] == accuracy]
        return interop.Progress(epochs[0] if epochs else state.imported, accuracy)
    return dataclasses.replace(_optimizer_state(run, checkpoint), epoch=state.epoch, best_top1=accuracy)


def _optimizer_state(run: Run, checkpoint: checkpoints.Checkpoint) -> interop.Progress:
    """Return the state of the optimizer, as far as PyTorch has the same."""
    experiment, epoch = run.experiment, checkpoint.state.epoch
    stage = stage_at(experiment, epoch)
    optimizer = build_optimizer(stage.optimizer, stage.epochs)
    names = getattr(optimizer, "torch_state", {})
    if not names or not checkpoint.has_slots:
        return interop.Progress()
    model = build_empty(experiment, stage)
    optimizer._create_all_weights(model.trainable_variables)
    checkpoint.restore(model, optimizer)
    begin = sum(other.epochs for other in experiment.stages[: experiment.stages.index(stage)])
    last = max(epoch - begin - 1, 0)
    for name, schedule in build_schedules(stage.optimizer, stage.epochs).items():
        set_hyperparameter(optimizer, name, schedule(last))
    tensors = [tensor for tensor in interop.tensors_of(model) if tensor.variable.trainable]
    slots = {
        theirs: {tensor.name: tensor.to_reference(_slot(optimizer, tensor.variable, ours)) for tensor in tensors}
        for theirs, ours in names.items()
    }
    rate = stage.optimizer.learning_rate
    scheduler = rate.torch_state(last) if isinstance(rate, ScheduleConfig) else {}
    groups = _groups(optimizer, model, scheduler.get("base_lrs"))
    return interop.Progress(step=_steps(optimizer, names), slots=slots, groups=groups, scheduler=scheduler)


def _slot(optimizer: Any, variable: tf.Variable, name: str) -> np.ndarray:
    return optimizer.get_slot(variable, name).numpy()


def _steps(optimizer: Any, names: Mapping[str, str]) -> int | None:
    """Return the number of steps, which PyTorch stores for optimizers with more than one slot."""
    return int(optimizer.iterations.numpy()) if len(names) > 1 else None


def _groups(optimizer: Any, model: tf.keras.Model, initial_rates: list[float] | None) -> list[dict[str, Any]]:
    """Return the hyper-parameters of each group of the reference's optimizer, to which its scheduler adds its own."""
    scheduled = {"initial_lr": initial_rates[0]} if initial_rates else {}
    decays = {tensor.name: optimizer.decays(tensor.variable) for tensor in interop.tensors_of(model)}
    return [
        {
            **optimizer.torch_group(),
            **scheduled,
            "weight_decay": optimizer.weight_decay if any(map(decays.get, names)) else 0.0,
        }
        for names in interop.optimizer_groups(model)
    ]
