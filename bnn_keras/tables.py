"""Base class of an experiment's tables, and types of numbers."""

from __future__ import annotations

from typing import Annotated

import pydantic

MAX_BATCH_SIZE = 65_536


class Table(pydantic.BaseModel):
    """A TOML table. Unknown keys are errors, types are not coerced, and instances are immutable."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Positive = Annotated[float, pydantic.Field(gt=0)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]
Count = Annotated[int, pydantic.Field(ge=1)]
BatchSize = Annotated[int, pydantic.Field(ge=1, le=MAX_BATCH_SIZE)]
Percent = Annotated[float, pydantic.Field(ge=0, le=100)]
Range = Annotated[list[Positive], pydantic.Field(min_length=2, max_length=2)]
Size = Annotated[int, pydantic.Field(ge=0)]
