"""The four kinds of a knob (fixed, range, choice, grid) and what their values have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

Value = float | int | str | bool
When = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Fixed:
    """One value."""

    value: Value
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included.

    With `step` there are only low, low + step, ... With `mean` and `sd` the numbers are normally
    distributed, cut off at both ends. With `prior` the points that a search places lie near it.
    """

    low: float
    high: float
    scale: Literal["linear", "log"]
    step: float | None
    type: Literal["int", "float"]
    default: float
    when: When = field(default_factory=dict)
    mean: float | None = None
    sd: float | None = None
    prior: float | None = None
    confidence: Literal["low", "medium", "high"] | None = None


@dataclass(frozen=True)
class Choice:
    """Several values, of which the search picks one for each trial."""

    values: tuple[Value, ...]
    default: Value
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Several values, each of which is tried with each value of the other grids."""

    values: tuple[Value, ...]
    default: Value
    when: When = field(default_factory=dict)


Domain = Fixed | Range | Choice | Grid


def same(one: Value, other: Value) -> bool:
    """Return whether two values are equal in type and value: 1, 1.0 and true differ."""
    return type(one) is type(other) and one == other


def among(value: Value, values: Iterable[Value]) -> bool:
    """Return whether one of the values is the same as `value`."""
    return any(same(value, other) for other in values)


def listed(value: Value, values: Iterable[Value]) -> Value | None:
    """Return the listed value that a file means by `value`: the same one, or an equal number."""
    equal = [other for other in values if other == value]
    if among(value, equal):
        return value
    numbers = [other for other in equal if not isinstance(other, bool)]
    return numbers[0] if numbers and not isinstance(value, bool) else None


def listed_values(domain: Fixed | Choice | Grid) -> tuple[Value, ...]:
    """Return all values of a domain that is no range."""
    return (domain.value,) if isinstance(domain, Fixed) else domain.values


def fitted(domain: Domain, value: Value) -> Value | None:
    """Return the domain's own value that a file means by `value`, or None if it has none."""
    if not isinstance(domain, Range):
        return listed(value, listed_values(domain))
    if isinstance(value, bool | str) or not domain.low <= value <= domain.high:
        return None
    if domain.type == "int" and value != int(value):
        return None
    size, above = step_size(domain), _decimal(value, domain.low)
    if domain.type == "int":
        return None if above % size else int(value)
    return None if size and not is_whole(above / size) else float(value)


def step_size(domain: Range) -> Decimal:
    """Return the distance between two values of a range; 0 if it has no steps."""
    return Decimal(str(domain.step or (1 if domain.type == "int" else 0)))


def steps(domain: Range) -> int | None:
    """Return the number of values of a range, or None if it has no steps."""
    size = step_size(domain)
    return round(_decimal(domain.high, domain.low) / size) + 1 if size else None


def is_whole(count: Decimal) -> bool:
    """Return whether a number of steps is whole, up to the rounding of floats."""
    return abs(count - round(count)) <= Decimal("1e-9") * max(1, round(abs(count)))


def default_of(domain: Domain) -> Value:
    """Return the value that the domain has when nothing is searched."""
    return domain.value if isinstance(domain, Fixed) else domain.default


def active(domains: Mapping[str, Domain], values: Mapping[str, Value]) -> dict[str, Value]:
    """Return `values` without the knobs whose `when` is false; a tied knob is always active."""

    def holds(name: str) -> bool:
        if name not in domains:
            return True
        return all(
            other in values and holds(other) and among(values[other], allowed)
            for other, allowed in domains[name].when.items()
        )

    return {name: value for name, value in values.items() if holds(name)}


def written(domain: Domain) -> Any:
    """Return the domain as a space file writes it, with every word explicit."""
    if isinstance(domain, Fixed):
        return domain.value
    words: dict[str, Any]
    if isinstance(domain, Range):
        words = {"min": domain.low, "max": domain.high, "scale": domain.scale}
        rest = {
            **{"step": domain.step, "mean": domain.mean, "sd": domain.sd},
            **{"prior": domain.prior, "confidence": domain.confidence},
        }
        words |= {word: value for word, value in rest.items() if value is not None}
        words |= {"type": domain.type, "default": domain.default}
    else:
        word = "choice" if isinstance(domain, Choice) else "grid"
        words = {word: list(domain.values), "default": domain.default}
    if domain.when:
        words["when"] = {other: list(allowed) for other, allowed in domain.when.items()}
    return words


def _decimal(value: float, low: float) -> Decimal:
    return Decimal(str(value)) - Decimal(str(low))
