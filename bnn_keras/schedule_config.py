"""Schedules of hyper-parameters: one table per schedule, and the type of a number or schedule."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import Annotated, Any, Literal, get_args

import pydantic

from bnn_keras.errors import unknown
from bnn_keras.tables import NotNegative, Positive, Table


def _rising(epochs: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
        raise ValueError("expected epochs in rising order")
    return epochs


class WarmUp(Table):
    """A straight line from `initial` to the schedule's value after `epochs`; the schedule continues from there."""

    initial: NotNegative
    epochs: Positive


class ScheduleConfig(Table):
    """A value as a function of the epochs since its stage began. Subclasses add the name `schedule` and its arguments.

    It changes once per epoch, or with `every = "step"` in each step. It is evaluated `ahead` epochs later than the
    current one: 1 for references that step their scheduler before the first epoch.
    """

    every: Literal["epoch", "step"] = "epoch"
    ahead: NotNegative = 0.0
    warm_up: WarmUp | None = None
    schedule: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the schedule's function."""
        common = ScheduleConfig.model_fields
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}

    def torch_state(self, epoch: int) -> dict[str, Any]:
        """Return the state of PyTorch's schedule in an epoch; empty without one that references store."""
        return {}

    @property
    def lead(self) -> float:
        """Epochs to add to the current epoch before calling the schedule's function."""
        return self.ahead


class Step(ScheduleConfig):
    """Multiply the value by `factor` every `period` epochs."""

    schedule: Literal["step"] = "step"
    initial: Positive
    factor: Positive
    period: Positive


class MultiStep(ScheduleConfig):
    """Multiply the value by `factor` at each of the `boundaries`, in epochs since the stage began."""

    schedule: Literal["multi_step"] = "multi_step"
    initial: Positive
    factor: Positive
    boundaries: list[NotNegative]

    _rising = pydantic.field_validator("boundaries")(_rising)


class Exponential(ScheduleConfig):
    """Multiply the value by `factor` in `period` epochs, smoothly, or at once after each period with `staircase`."""

    schedule: Literal["exponential"] = "exponential"
    initial: Positive
    factor: Positive
    period: Positive
    staircase: bool = False


class Geometric(ScheduleConfig):
    """Change from `initial` to `final` by the same factor in each epoch. `final` is the value after the last epoch."""

    schedule: Literal["geometric"] = "geometric"
    initial: Positive
    final: Positive


class ShiftedExponential(ScheduleConfig):
    """Change from `initial` to `final` along a scaled and shifted exp(e / E). `final` comes after the last epoch."""

    schedule: Literal["shifted_exponential"]
    initial: NotNegative
    final: NotNegative


class Linear(ScheduleConfig):
    """Change from `initial` to `final` in a straight line. `final` is the value after the last epoch."""

    schedule: Literal["linear"] = "linear"
    initial: NotNegative
    final: NotNegative


class Polynomial(ScheduleConfig):
    """Change from `initial` to `final` with the remaining share of the stage to the `power`."""

    schedule: Literal["polynomial"] = "polynomial"
    initial: NotNegative
    final: NotNegative
    power: Positive


class Cosine(ScheduleConfig):
    """Change from `initial` to `final` along half a cosine. `final` is the value after the last epoch."""

    schedule: Literal["cosine"] = "cosine"
    initial: NotNegative
    final: NotNegative


class CosineRestarts(ScheduleConfig):
    """Half a cosine from `initial` to `final` per cycle. A cycle starts at epoch 0 and at each epoch of `restarts`.

    `ahead` applies to the first cycle only: each restart resets the clock.
    """

    schedule: Literal["cosine_restarts"] = "cosine_restarts"
    initial: NotNegative
    final: NotNegative
    restarts: list[Positive]

    _rising = pydantic.field_validator("restarts")(_rising)

    def torch_state(self, epoch: int) -> dict[str, Any]:
        """Return the state of CosineAnnealingLR in an epoch, which is made anew at each restart.

        As in binary-wide-resnet, main.py, a cycle is as long as the time before it.
        """
        start = max((restart for restart in self.restarts if restart <= epoch), default=0)
        steps = int(epoch - start if start else epoch + self.ahead)
        length = int(start or self.restarts[0])
        rate = self.final + (self.initial - self.final) * (1 + math.cos(math.pi * steps / length)) / 2
        state = {"T_max": length, "eta_min": self.final, "base_lrs": [self.initial], "last_epoch": steps}
        return {**state, "_step_count": steps + 1, "_last_lr": [rate]}

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the schedule's function, which handles `ahead` itself."""
        return {**super().arguments, "ahead": self.ahead}

    @property
    def lead(self) -> float:
        """Always 0: the schedule's function handles `ahead` itself."""
        return 0.0


SCHEDULES: dict[str, type[ScheduleConfig]] = {
    get_args(model.model_fields["schedule"].annotation)[0]: model
    for model in (
        Step,
        MultiStep,
        Exponential,
        Geometric,
        ShiftedExponential,
        Linear,
        Polynomial,
        Cosine,
        CosineRestarts,
    )
}


def _tag(value: Any) -> str:
    if isinstance(value, ScheduleConfig):
        return f"<{value.schedule}>"
    if not isinstance(value, dict):
        return "<number>"
    name = value.get("schedule")
    return f"<{name}>" if isinstance(name, str) and name in SCHEDULES else "<schedule>"


class UnknownSchedule(Table):
    """A table without the name of a known schedule. Validation always fails, with an error that lists the schedules."""

    model_config = pydantic.ConfigDict(extra="ignore")

    schedule: str

    @pydantic.field_validator("schedule")
    @classmethod
    def _unknown(cls, name: str) -> str:
        raise ValueError(unknown("schedule", name, SCHEDULES))


def scheduled(number: Any) -> Any:
    """Return the type of a number or schedule.

    Tags appear in the locations of pydantic's errors. Their angle brackets tell them from keys of the document.
    """
    tagged = {"number": number, **SCHEDULES, "schedule": UnknownSchedule}
    members = [Annotated[member, pydantic.Tag(f"<{name}>")] for name, member in tagged.items()]
    return Annotated[functools.reduce(operator.or_, members), pydantic.Discriminator(_tag)]


Scheduled = scheduled(Positive)
ScheduledOrNothing = scheduled(NotNegative)
