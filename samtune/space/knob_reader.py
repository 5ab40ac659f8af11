"""Conversion of the words of a space file into the domain of a knob."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from samtune.messages import nearest, quoted
from samtune.space.knobs import (
    Choice,
    Domain,
    Fixed,
    Grid,
    Range,
    Value,
    among,
    fitted,
    is_whole,
    listed,
    step_size,
    steps,
)
from samtune.space.schema import ChoiceShape, GridShape, RangeShape
from samtune.space.strict_yaml import Node, Problem
from samtune.space.trainable import Declared
from samtune.space.word_types import NOTHING, not_a_number

if TYPE_CHECKING:
    from samtune.optimizers.knobs import Knob

# Without a min or a max, a normal distribution ends this many standard deviations from its mean.
_TAIL = 4


class KnobReader:
    """A reader of knobs, which collects the problems and warnings about them."""

    def __init__(self, declared: Declared | None) -> None:
        self.declared = declared
        self.knobs: Mapping[str, Knob] = (declared and declared.knobs) or {}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def domain(self, name: str, shape: Any, node: Node) -> Domain | None:
        """Return the knob's domain, with an unchecked `when`, or None after a problem."""
        before = len(self.problems)
        domain: Domain | None
        if isinstance(shape, RangeShape):
            domain = _RangeReader(self, name, shape, node).range()
        elif isinstance(shape, ChoiceShape):
            domain = self._listed(name, shape.choice, shape, node, Choice)
        elif isinstance(shape, GridShape):
            domain = self._listed(name, shape.grid, shape, node, Grid)
        else:
            value = self.checked(name, shape, node)
            domain = None if value is None else Fixed(value)
        return domain if len(self.problems) == before else None

    def checked(self, name: str, value: Value, node: Node, warn: bool = True) -> Value | None:
        """Return the value as the trainable's knob takes it, or None after a problem."""
        knob = self.knobs.get(name)
        if knob is None:
            return value
        return self.fitting(knob, value, node, name, warn)

    def fitting(
        self, knob: Knob, value: Value, node: Node, where: str, warn: bool = True
    ) -> Value | None:
        """Return the value if it is within the knob's bounds; warn outside its safe range."""
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

    def usual(self, name: str, domain: Domain, otherwise: Value) -> Value:
        """Return the knob's own default where the domain has it."""
        knob = self.knobs.get(name)
        own = None if knob is None else fitted(domain, knob.default)
        return otherwise if own is None else own

    def _listed(
        self,
        name: str,
        written: Sequence[Value] | None,
        shape: ChoiceShape | GridShape,
        node: Node,
        kind: type[Choice] | type[Grid],
    ) -> Domain | None:
        words = node.value if isinstance(node.value, dict) else {}
        at = words["choice" if kind is Choice else "grid"]
        if written is None or not isinstance(at.value, list):
            self.problems.append((at.mark, f"{name}: {NOTHING}"))
            return None
        values: list[Value] = []
        for value, item in zip(written, at.value, strict=True):
            fit = self.checked(name, value, item)
            if fit is not None and among(fit, values):
                self.problems.append((item.mark, f"{name}: {quoted(fit)} is listed twice"))
            elif fit is not None:
                values.append(fit)
        if not values:
            return None
        domain = kind(tuple(values), values[0], _when(shape))
        if shape.default is None:
            return dataclasses.replace(domain, default=self.usual(name, domain, values[0]))
        checked = self.checked(name, shape.default, words["default"], warn=False)
        default = None if checked is None else listed(checked, values)
        if checked is not None and default is None:
            message = f"{name}: default {quoted(checked)} is not in the list"
            near = nearest(checked, values, "it has")
            self.problems.append((words["default"].mark, f"{message}; {near}"))
        return None if default is None else dataclasses.replace(domain, default=default)


class _RangeReader:
    """A reader of one range, which records problems with the reader of all knobs."""

    def __init__(self, reader: KnobReader, name: str, shape: RangeShape, node: Node) -> None:
        self.reader = reader
        self.name = name
        self.shape = shape
        self.node = node
        self.words = node.value if isinstance(node.value, dict) else {}
        self.knob = reader.knobs.get(name)

    def wrong(self, word: str, message: str) -> None:
        mark = self.words.get(word, self.node).mark
        self.reader.problems.append((mark, f"{self.name}: {message}"))

    def range(self) -> Range | None:
        before = len(self.reader.problems)
        self._check_words()
        if len(self.reader.problems) > before:
            return None
        kind = self._kind()
        numbers = self._numbers(kind)
        if len(self.reader.problems) > before:
            return None
        shape, low, high = self.shape, numbers["min"], numbers["max"]
        domain = Range(
            low,
            high,
            shape.scale or "linear",
            numbers.get("step"),
            kind,
            low,
            _when(shape),
            shape.mean,
            shape.sd,
            numbers.get("prior"),
            None if shape.prior is None else shape.confidence or "medium",
        )
        self._check_ends(domain)
        for end in ("min", "max"):
            self.reader.checked(self.name, numbers[end], self.words.get(end, self.node))
        if len(self.reader.problems) > before:
            return None
        default: Value | None = self.reader.usual(self.name, domain, _middle(domain))
        for word in ("prior", "default"):
            if (written := numbers.get(word)) is None:
                continue
            default = fitted(domain, written)
            if default is None:
                between = "" if domain.step is None else f" in steps of {domain.step}"
                self.wrong(word, f"{word} {written} is not in {low} to {high}{between}")
        if default is None or isinstance(default, str):
            return None
        return dataclasses.replace(domain, default=default)

    def _check_words(self) -> None:
        """Record why these words cannot be a range of this knob."""
        shape, knob = self.shape, self.knob
        bell = shape.mean is not None and shape.sd is not None
        missing = [e for e in ("min", "max") if getattr(shape, e) is None and not bell]
        if knob is not None and knob.kind in {str, bool}:
            values = ", ".join(knob.choices or ("true", "false"))
            self.wrong("", f"not a number, so no range; write {{choice: [{values}]}}")
        elif (shape.mean is None) != (shape.sd is None):
            word = "mean" if shape.mean is None else "sd"
            self.wrong("", f"{word!r} is missing; a normal distribution is {{mean: ..., sd: ...}}")
        elif len(missing) == 2:
            self.wrong("", "write a value, {min: ..., max: ...}, {choice: [...]} or {grid: [...]}")
        elif missing:
            self.wrong("", f"{missing[0]!r} is missing; a range is {{min: ..., max: ...}}")
        elif bell and shape.scale == "log":
            self.wrong("scale", "mean and sd belong to a linear scale; remove `scale: log`")
        elif bell and shape.prior is not None:
            self.wrong("prior", "a normal distribution has its mean; remove the prior")
        elif shape.confidence is not None and shape.prior is None:
            self.wrong("confidence", "it is about a prior; write `prior: ...`")
        elif knob is not None and knob.kind is int and shape.type == "float":
            self.wrong("type", "whole numbers only; write type: int, or leave it out")

    def _kind(self) -> Any:
        """Return int or float: as written, as declared, or as the numbers of the range are."""
        if self.shape.type or self.knob is not None:
            own = "int" if self.knob is not None and self.knob.kind is int else "float"
            return self.shape.type or own
        ends = [
            self.words[word].value
            for word in ("min", "max", "default", "prior")
            if word in self.words
        ]
        if not all(isinstance(end, int) for end in ends):
            return "float"
        step = self.words["step"].value if "step" in self.words else None
        if isinstance(step, int):
            return "int"
        if step is None and "mean" not in self.words:
            message = (
                f"{self.name}: fractions between the whole numbers are tried as well; write "
                "`type: int` for whole numbers alone, or `type: float`"
            )
            self.reader.warnings.append((self.node.mark, message))
        return "float"

    def _numbers(self, kind: str) -> dict[str, Any]:
        """Return the numbers of the range in their type, with ends for a normal distribution."""
        numbers: dict[str, Any] = {
            word: self.words[word].value
            for word in ("min", "max", "step", "default", "prior")
            if word in self.words and self.words[word].value is not None
        }
        if self.shape.mean is not None and self.shape.sd is not None:
            low, high = (self.shape.mean + side * _TAIL * self.shape.sd for side in (-1, 1))
            if kind == "int":
                low, high = math.ceil(low), math.floor(high)
            numbers = {"min": low, "max": high, **numbers}
        for word, number in numbers.items():
            if kind == "int" and not isinstance(number, int):
                self.wrong(word, f"{word} {number} is not a whole number, and the type is int")
            elif kind == "float":
                numbers[word] = float(number)
        return numbers

    def _check_ends(self, domain: Range) -> None:
        low, high, step = domain.low, domain.high, domain.step
        if low == high:
            message = f"min and max are both {low}; for one value write `{self.name}: {low}`"
            self.wrong("max", message)
        elif low > high:
            self.wrong("max", f"min {low} is above max {high}; swap them")
        if domain.scale == "log" and low <= 0:
            message = f"a log scale needs a min above 0, not {low}; or write scale: linear"
            self.wrong("min", message)
        if step is None or low >= high:
            return
        width, size = Decimal(str(high)) - Decimal(str(low)), step_size(domain)
        if size > width:
            self.wrong("step", f"step {step} is wider than the range, {low} to {high}")
        elif width % size and (domain.type == "int" or not is_whole(width / size)):
            last = Decimal(str(low)) + width // size * size
            self.wrong("step", f"max {high} is not min plus whole steps; the last one is {last}")


def _when(shape: RangeShape | ChoiceShape | GridShape) -> dict[str, tuple[Value, ...]]:
    return {
        other: tuple(allowed) if isinstance(allowed, list) else (allowed,)
        for other, allowed in (shape.when or {}).items()
    }


def _middle(domain: Range) -> float:
    """Return the mean, or the middle on the range's scale, as one of its values."""
    low, high, count = domain.low, domain.high, steps(domain)
    if domain.mean is not None:
        middle = domain.mean
    elif domain.scale == "log":
        middle = math.sqrt(low) * math.sqrt(high)
    else:
        middle = low / 2 + high / 2
    middle = min(max(middle, low), high)
    if count is None:
        return middle
    linear = domain.scale == "linear" and domain.mean is None
    size = step_size(domain)
    k = count // 2 if linear else round((Decimal(str(middle)) - Decimal(str(low))) / size)
    value = Decimal(str(low)) + min(k, count - 1) * size
    return int(value) if domain.type == "int" else float(value)
