"""What a knob can be: fixed, a range, a choice or a grid; and how a space file's words say so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from samtune.messages import nearest, quoted
from samtune.space.schema import ChoiceShape, GridShape, RangeShape, not_a_number
from samtune.space.strict_yaml import Node, Problem
from samtune.space.trainable import Declared

if TYPE_CHECKING:
    from samtune.optimizers.knobs import Knob

Value = float | int | str | bool
When = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Fixed:
    """One value."""

    value: Value
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; with `step` only low, low + step, ..."""

    low: float
    high: float
    scale: Literal["linear", "log"]
    step: float | None
    type: Literal["int", "float"]
    default: float
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One of the values, as the search picks."""

    values: tuple[Value, ...]
    default: Value
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Each of the values, together with each of the other grids'."""

    values: tuple[Value, ...]
    default: Value
    when: When = field(default_factory=dict)


Domain = Fixed | Range | Choice | Grid


def among(value: Value, values: Iterable[Value]) -> bool:
    """Whether the value is one of them; `true` is not 1."""
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)


def contains(domain: Domain, value: Value) -> bool:
    """Whether the domain can give this value."""
    if isinstance(domain, Fixed):
        return among(value, (domain.value,))
    if isinstance(domain, Choice | Grid):
        return among(value, domain.values)
    if isinstance(value, bool | str) or not domain.low <= value <= domain.high:
        return False
    if domain.type == "int" and value != int(value):
        return False
    return domain.step is None or _whole((value - domain.low) / domain.step)


def default_of(domain: Domain) -> Value:
    """What the domain gives when nothing is searched."""
    return domain.value if isinstance(domain, Fixed) else domain.default


def active(domains: Mapping[str, Domain], values: Mapping[str, Value]) -> dict[str, Value]:
    """`values` without the knobs whose `when` does not hold; a tied knob is always active."""

    def holds(name: str) -> bool:
        if name not in domains:
            return True
        return all(
            other in values and holds(other) and among(values[other], allowed)
            for other, allowed in domains[name].when.items()
        )

    return {name: value for name, value in values.items() if holds(name)}


def written(domain: Domain) -> Any:
    """The domain as a space file writes it, every word explicit."""
    if isinstance(domain, Fixed):
        return domain.value
    words: dict[str, Any]
    if isinstance(domain, Range):
        words = {"min": domain.low, "max": domain.high, "scale": domain.scale}
        words |= {} if domain.step is None else {"step": domain.step}
        words |= {"type": domain.type, "default": domain.default}
    else:
        word = "choice" if isinstance(domain, Choice) else "grid"
        words = {word: list(domain.values), "default": domain.default}
    if domain.when:
        words["when"] = {other: list(allowed) for other, allowed in domain.when.items()}
    return words


class KnobReader:
    """Turns the shapes of a space file into domains, and gathers what is wrong with them."""

    def __init__(self, declared: Declared | None) -> None:
        self.declared = declared
        self.knobs: Mapping[str, Knob] = (declared and declared.knobs) or {}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def domain(self, name: str, shape: Any, node: Node) -> Domain | None:
        """The knob's domain, with `when` still as written; None after a problem."""
        before = len(self.problems)
        domain: Domain | None
        if isinstance(shape, RangeShape):
            domain = self._range(name, shape, node)
        elif isinstance(shape, ChoiceShape):
            domain = self._listed(name, shape.choice, shape, node, Choice)
        elif isinstance(shape, GridShape):
            domain = self._listed(name, shape.grid, shape, node, Grid)
        else:
            value = self.checked(name, shape, node)
            domain = None if value is None else Fixed(value)
        return domain if len(self.problems) == before else None

    def checked(self, name: str, value: Value, node: Node, warn: bool = True) -> Value | None:
        """The value as the trainable's knob takes it; None after a problem."""
        knob = self.knobs.get(name)
        if knob is None:
            return value
        return self.fitting(knob, value, node, name, warn)

    def fitting(
        self, knob: Knob, value: Value, node: Node, where: str, warn: bool = True
    ) -> Value | None:
        """The value if it lies within the knob's hard bounds; a warning outside the safe range."""
        number = knob.kind in {int, float} and not knob.choices
        if number and isinstance(value, str | bool):
            self.problems.append((node.mark, f"{where}: {not_a_number(value)}"))
            return None
        try:
            fit = knob.check(value)
        except ValueError as error:
            self.problems.append((node.mark, str(error)))
            return None
        if warn and knob.safe is not None and not isinstance(fit, str | bool):
            low, high = knob.safe
            if not low <= fit <= high:
                message = (
                    f"{where}: {fit:g} is outside {low:g} to {high:g}, "
                    f"the range worth searching ({knob.source})"
                )
                self.warnings.append((node.mark, message))
        return fit

    def _range(self, name: str, shape: RangeShape, node: Node) -> Range | None:
        words = node.value if isinstance(node.value, dict) else {}

        def wrong(word: str, message: str) -> None:
            self.problems.append((words.get(word, node).mark, f"{name}: {message}"))

        knob = self.knobs.get(name)
        kind = shape.type or ("int" if knob is not None and knob.kind is int else "float")
        fault = _range_fault(shape, knob, words)
        if fault is not None:
            wrong(*fault)
            return None
        before = len(self.problems)
        numbers: dict[str, Any] = {
            word: words[word].value
            for word in ("min", "max", "step", "default")
            if word in words and words[word].value is not None
        }
        for word, number in numbers.items():
            if kind == "int" and not isinstance(number, int):
                wrong(word, f"{word} {number} is not a whole number, and the type is int")
            elif kind == "float":
                numbers[word] = float(number)
        if len(self.problems) > before:
            return None
        low, high, step = numbers["min"], numbers["max"], numbers.get("step")
        if low == high:
            wrong("max", f"min and max are both {low}; for one value write `{name}: {low}`")
        elif low > high:
            wrong("max", f"min {low} is above max {high}; swap them")
        if shape.scale == "log" and low <= 0:
            wrong("min", f"a log scale needs a min above 0, not {low}; or write scale: linear")
        if step is not None and shape.scale == "log":
            wrong("step", "step and scale: log do not go together; remove one of them")
        elif step is not None and low < high < low + step:
            wrong("step", f"step {step} is wider than the range, {low} to {high}")
        elif step is not None and low < high and not _whole((high - low) / step):
            last = low + (high - low) // step * step
            wrong("step", f"max {high} is not min plus whole steps; the last one is {last:g}")
        for end in ("min", "max"):
            self.checked(name, numbers[end], words[end])
        if len(self.problems) > before:
            return None
        domain = Range(low, high, shape.scale or "linear", step, kind, low, _when(shape))
        default: Any = numbers.get("default")
        if default is None:
            default = self._usual(name, domain, _middle(domain))
        elif not contains(domain, default):
            between = "" if step is None else f" in steps of {step}"
            wrong("default", f"default {default} is not in {low} to {high}{between}")
        return dataclasses.replace(domain, default=float(default) if kind == "float" else default)

    def _listed(
        self,
        name: str,
        listed: Sequence[Value] | None,
        shape: ChoiceShape | GridShape,
        node: Node,
        kind: type[Choice] | type[Grid],
    ) -> Domain | None:
        words = node.value if isinstance(node.value, dict) else {}
        at = words["choice" if kind is Choice else "grid"]
        if not listed or not isinstance(at.value, list):
            self.problems.append((at.mark, f"{name}: the list is empty; give it a value"))
            return None
        values: list[Value] = []
        for value, item in zip(listed, at.value, strict=True):
            fit = self.checked(name, value, item)
            if fit is not None and among(fit, values):
                self.problems.append((item.mark, f"{name}: {quoted(fit)} is listed twice"))
            elif fit is not None:
                values.append(fit)
        if not values:
            return None
        domain = kind(tuple(values), values[0], _when(shape))
        if shape.default is None:
            return dataclasses.replace(domain, default=self._usual(name, domain, values[0]))
        default = self.checked(name, shape.default, words["default"], warn=False)
        if default is not None and not among(default, values):
            message = f"{name}: default {quoted(default)} is not in the list"
            near = nearest(default, values, "it has")
            self.problems.append((words["default"].mark, f"{message}; {near}"))
        return None if default is None else dataclasses.replace(domain, default=default)

    def _usual(self, name: str, domain: Domain, otherwise: Value) -> Value:
        knob = self.knobs.get(name)
        return knob.default if knob and contains(domain, knob.default) else otherwise


def _range_fault(
    shape: RangeShape, knob: Knob | None, words: Mapping[str, Node]
) -> tuple[str, str] | None:
    """The word at fault, and why these words make no range at all for this knob."""
    missing = [end for end in ("min", "max") if getattr(shape, end) is None]
    if len(missing) == 2:
        return "", "write a value, {min: ..., max: ...}, {choice: [...]} or {grid: [...]}"
    if missing:
        return "", f"{missing[0]!r} is missing; a range is {{min: ..., max: ...}}"
    if knob is not None and knob.kind in {str, bool}:
        values = ", ".join(knob.choices or ("true", "false"))
        return "", f"not a number, so no range; write {{choice: [{values}]}}"
    if knob is not None and knob.kind is int and shape.type == "float":
        return "type", "whole numbers only; write type: int, or leave it out"
    if isinstance(shape.default, str | bool):
        return "default", not_a_number(shape.default)
    return None


def _when(shape: RangeShape | ChoiceShape | GridShape) -> dict[str, tuple[Value, ...]]:
    return {
        other: tuple(allowed) if isinstance(allowed, list) else (allowed,)
        for other, allowed in (shape.when or {}).items()
    }


def _whole(steps: float) -> bool:
    return math.isfinite(steps) and math.isclose(steps, round(steps), rel_tol=1e-9, abs_tol=1e-9)


def _middle(domain: Range) -> float:
    low, high, step = domain.low, domain.high, domain.step
    if step is not None:
        return low + round((high - low) / step / 2) * step
    middle = math.sqrt(low) * math.sqrt(high) if domain.scale == "log" else low / 2 + high / 2
    return round(middle) if domain.type == "int" else min(max(middle, low), high)
