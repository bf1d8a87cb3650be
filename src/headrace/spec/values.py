"""What values of the spec are made of: strict mappings; sizes, durations and counts, as numbers or as people write them."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from headrace.units import (
    COST_PATTERN,
    COUNT_PATTERN,
    DURATION_PATTERN,
    SIZE_PATTERN,
    parse_bytes,
    parse_cost,
    parse_count,
    parse_duration,
)


class Strict(BaseModel):
    """A frozen mapping: unknown keys are refused, and no value becomes one of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def form(value: Any) -> str:
    """The tag of a value that is a name or a mapping of options."""
    return "<name>" if isinstance(value, str) else "<options>"


def read(parse: Any) -> BeforeValidator:
    """A validator that lets numbers through and reads text with `parse`."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _as_written(number: str, pattern: str) -> dict[str, Any]:
    return {"type": [number, "string"], "pattern": f"^{pattern}$"}


Bytes = Annotated[int, read(parse_bytes), Field(gt=0, le=2**50, json_schema_extra=_as_written("integer", SIZE_PATTERN))]
# A week at most: event loops refuse timers of many years, and nobody waits that long for a request.
Seconds = Annotated[
    float,
    read(parse_duration),
    Field(gt=0, le=604_800, json_schema_extra=_as_written("number", DURATION_PATTERN)),
]
Count = Annotated[int, read(parse_count), Field(gt=0, le=2**24, json_schema_extra=_as_written("integer", COUNT_PATTERN))]
Cost = Annotated[
    float,
    BeforeValidator(lambda value: parse_cost(str(value))),
    Field(gt=0, le=1e6, json_schema_extra={"type": "string", "pattern": f"^{COST_PATTERN}$"}),
]
"""US dollars per hour; a number without its unit is refused."""
