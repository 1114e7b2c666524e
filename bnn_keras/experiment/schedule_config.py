"""Values that change while a network trains: one table per schedule, and the union of a number with any of them."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Annotated, Any, Literal, get_args

import pydantic

from bnn_keras.errors import unknown
from bnn_keras.experiment.tables import NotNegative, Positive, Table


def _rising(epochs: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
        raise ValueError("expected epochs in rising order")
    return epochs


class WarmUp(Table):
    """A straight line from `initial` to what the schedule has after so many epochs; the schedule goes on from there."""

    initial: NotNegative
    epochs: Positive


class ScheduleConfig(Table):
    """A value as a function of the epochs since its stage began.

    It changes from epoch to epoch, or from step to step with `every = "step"`. It is `ahead` of the stage by so many
    epochs: 1 where a reference steps its scheduler before the first epoch.
    """

    every: Literal["epoch", "step"] = "epoch"
    ahead: NotNegative = 0.0
    warm_up: WarmUp | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the schedule's own function."""
        common = {"schedule", *ScheduleConfig.model_fields}
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}

    @property
    def lead(self) -> float:
        """Epochs by which the function's clock is ahead."""
        return self.ahead


class Step(ScheduleConfig):
    """A value multiplied by `factor` every `period` epochs."""

    schedule: Literal["step"]
    initial: Positive
    factor: Positive
    period: Positive


class MultiStep(ScheduleConfig):
    """A value multiplied by `factor` at each of the `boundaries` (in epochs since the stage began)."""

    schedule: Literal["multi_step"]
    initial: Positive
    factor: Positive
    boundaries: list[NotNegative]

    _rising = pydantic.field_validator("boundaries")(_rising)


class Exponential(ScheduleConfig):
    """A value multiplied by `factor` in `period` epochs, smoothly, or all at once after them (`staircase`)."""

    schedule: Literal["exponential"]
    initial: Positive
    factor: Positive
    period: Positive
    staircase: bool = False


class Geometric(ScheduleConfig):
    """A value that goes from `initial` to `final` by the same factor in each epoch; it is there after the last one."""

    schedule: Literal["geometric"]
    initial: Positive
    final: Positive


class Linear(ScheduleConfig):
    """A value that goes from `initial` to `final` in a straight line; it is there after the last epoch."""

    schedule: Literal["linear"]
    initial: NotNegative
    final: NotNegative


class Polynomial(ScheduleConfig):
    """A value that goes from `initial` to `final` as the remaining share of the stage to the `power`."""

    schedule: Literal["polynomial"]
    initial: NotNegative
    final: NotNegative
    power: Positive


class Cosine(ScheduleConfig):
    """A value that goes from `initial` to `final` as half a cosine; it is there after the last epoch."""

    schedule: Literal["cosine"]
    initial: NotNegative
    final: NotNegative


class CosineRestarts(ScheduleConfig):
    """Half a cosine from `initial` to `final` in each cycle; a new one starts at each epoch of `restarts`.

    Only the first cycle is ever `ahead`: a restart sets the clock.
    """

    schedule: Literal["cosine_restarts"]
    initial: NotNegative
    final: NotNegative
    restarts: list[Positive]

    _rising = pydantic.field_validator("restarts")(_rising)

    @property
    def arguments(self) -> dict[str, Any]:
        """Its function's, which sets the clock itself."""
        return {**super().arguments, "ahead": self.ahead}

    @property
    def lead(self) -> float:
        """None: its function sets the clock itself."""
        return 0.0


SCHEDULES = {
    get_args(model.model_fields["schedule"].annotation)[0]: model
    for model in (Step, MultiStep, Exponential, Geometric, Linear, Polynomial, Cosine, CosineRestarts)
}


def _kind_of_schedule(value: Any) -> str:
    if not isinstance(value, dict | Table):
        return "<number>"
    name = value.get("schedule") if isinstance(value, dict) else value.schedule
    return f"<{name}>" if isinstance(name, str) and name in SCHEDULES else "<schedule>"


class UnknownSchedule(Table):
    """A table that names no known schedule, for the sake of its error."""

    model_config = pydantic.ConfigDict(extra="ignore")

    schedule: str

    @pydantic.field_validator("schedule")
    @classmethod
    def _unknown(cls, name: str) -> str:
        raise ValueError(unknown("schedule", name, SCHEDULES))


def scheduled(number: Any) -> Any:
    """Such a number, or a schedule.

    The tags stand in the locations of pydantic's errors; no key can be spelt so, which is how they are told apart.
    """
    tagged = {"number": number, **SCHEDULES, "schedule": UnknownSchedule}
    members = [Annotated[member, pydantic.Tag(f"<{name}>")] for name, member in tagged.items()]
    return Annotated[functools.reduce(operator.or_, members), pydantic.Discriminator(_kind_of_schedule)]


Scheduled = scheduled(Positive)
ScheduledOrNothing = scheduled(NotNegative)
