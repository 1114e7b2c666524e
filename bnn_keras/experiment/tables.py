"""What tables of an experiment have in common: their base, and the kinds of numbers in them."""

from __future__ import annotations

from typing import Annotated

import pydantic


class Table(pydantic.BaseModel):
    """A TOML table: no unknown keys, no coercion between types, no change after loading."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Positive = Annotated[float, pydantic.Field(gt=0)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
Count = Annotated[int, pydantic.Field(ge=1)]
Percent = Annotated[float, pydantic.Field(ge=0, le=100)]
Range = Annotated[list[Positive], pydantic.Field(min_length=2, max_length=2)]
Size = Annotated[int, pydantic.Field(ge=0)]
