"""Optimizers."""

from __future__ import annotations

from typing import Literal

from bnn_keras.catalog.options import Options
from bnn_keras.catalog.rows import OptimizerRow, table
from bnn_keras.schedule_config import Scheduled, ScheduledOrNothing
from bnn_keras.tables import Decay, Positive


class Clipped(Options):
    """Options of optimizers that clip gradients."""

    clip_norm: Positive | None = None
    """Largest global norm of all gradients; g ← g · min(1, clip_norm / norm) before weight decay. Default: no
    clipping"""


class Momentum(Clipped):
    """Options of gradient descent."""

    momentum: Decay = 0.0
    """Factor of the velocity"""
    nesterov: bool = False
    """`true`: Nesterov momentum"""
    velocity: Literal["gradients", "steps"] = "gradients"
    """What the velocity sums: `gradients` as in PyTorch; `steps`: steps η · g, as in Caffe and Keras, so that it still
    contains the old learning rate after that has changed"""


class Moments(Options):
    """Options of Adam."""

    beta_1: Decay = 0.9
    """Decay of the mean of gradients"""
    beta_2: Decay = 0.999
    """Decay of the mean of squared gradients"""
    epsilon: Positive = 1e-7
    """ε"""


class Adam(Clipped, Moments):
    """Options of Adam with Keras's ε."""


class TorchAdam(Adam):
    """Options of Adam with PyTorch's ε."""

    epsilon: Positive = 1e-8
    """ε"""


class Flips(Moments):
    """Options of Bop and of its Adam."""

    threshold: ScheduledOrNothing = 1e-8
    """Smallest w · m that flips a binary weight: a number or a schedule"""
    gamma: Scheduled = 1e-4
    """Adaptivity rate γ of binary weights: a number or a schedule"""


OPTIMIZERS = table(
    OptimizerRow(
        name="sgd",
        builder="bnn_keras.optimizers:sgd",
        description="Stochastic gradient descent, with momentum or Nesterov momentum",
        options=Momentum,
    ),
    OptimizerRow(
        name="adam",
        builder="bnn_keras.optimizers:adam",
        description="Adam as in Keras: epsilon is added before bias correction",
        options=Adam,
    ),
    OptimizerRow(
        name="adam_torch",
        builder="bnn_keras.optimizers:adam_torch",
        description="Adam as in PyTorch: epsilon is added after bias correction",
        options=TorchAdam,
    ),
    OptimizerRow(
        name="adamw",
        builder="bnn_keras.optimizers:adamw",
        description="AdamW as in PyTorch: Adam with decoupled weight decay",
        options=TorchAdam,
    ),
    OptimizerRow(
        name="bop",
        builder="bnn_keras.optimizers:bop",
        description="Bop flips binary weights without latent weights; Adam trains all others",
        options=Flips,
        latent_free=True,
    ),
)
