"""The types of the values of a space file, each with a check that says what to type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from samtune.messages import quoted
from samtune.space.strict_yaml import scalar as yaml_scalar

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
NOTHING = "nothing is written here; write a value, or remove the line"


def not_a_number(value: object) -> str:
    """Return why `value` is no number, and what to type."""
    if value is None:
        return NOTHING
    if isinstance(value, dict | list):
        return f"a {'map' if isinstance(value, dict) else 'list'} where a number belongs"
    if isinstance(value, bool):
        return f"{str(value).lower()} is not a number"
    meant = yaml_scalar(str(value).replace("_", "").replace(",", "."))
    if isinstance(meant, float | int) and not isinstance(meant, bool):
        return f"{quoted(value)} is text, not a number; write {meant} without quotes"
    return f"{quoted(value)} is text, not a number"


def scalar(value: Any) -> Any:
    """Return a value that is one value, neither a list nor a map. Raises ValueError."""
    if value is None:
        raise ValueError(NOTHING)
    if isinstance(value, list):
        message = "a list where one value belongs; to try each: {choice: [...]} or {grid: [...]}"
        raise ValueError(message)
    if isinstance(value, dict):
        raise ValueError("a map where one value belongs")
    return value


def number(value: Any) -> Any:
    """Return a value that is a number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(not_a_number(value))
    return value


def whole(value: Any) -> Any:
    """Return a value that is a whole number. Raises ValueError."""
    number(value)
    if not isinstance(value, int):
        raise ValueError(f"{value} is not a whole number")
    return value


def auto_or(check: Callable[[Any], Any], kind: str) -> Callable[[Any], Any]:
    """Return a validator that accepts `auto`, and what `check` accepts if it is above 0."""

    def validate(value: Any) -> Any:
        if value == "auto":
            return value
        try:
            found = check(value)
        except ValueError as error:
            raise ValueError(f"{error}; or write `auto`") from None
        if found <= 0:
            raise ValueError(f"{value} is neither {kind} nor `auto`")
        return value

    return validate


Value = Annotated[bool | int | float | str, BeforeValidator(scalar)]
Number = Annotated[float, BeforeValidator(number)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(number)]
Count = Annotated[int, Field(ge=1), BeforeValidator(whole)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32), BeforeValidator(whole)]
Values = Annotated[list[Value], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
# The check of names has its own message; the JSON Schema says the same by these words.
NAMES: dict[str, Any] = {"propertyNames": {"pattern": f"^{NAME.pattern}$"}}
Named = Annotated[dict[str, Value], Field(json_schema_extra=NAMES)]
# A list only where the trainable says that the word takes one; there it may be empty.
Task = Annotated[dict[str, Value | list[Value]], Field(json_schema_extra=NAMES)]
When = Annotated[dict[str, Value | Values], Field(json_schema_extra=NAMES)]


class Words(BaseModel):
    """A section of a space file: no other words than its own, and no conversion of values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)
