"""Knobs: the settings of a variant or of a base optimizer, and the checks of their values."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

Value = float | int | str | bool
Scale = Literal["log", "linear"]


class KnobError(ValueError):
    """An error for an unknown knob, or for a value that the knob cannot have."""


@dataclass(frozen=True)
class Knob:
    """One setting: its meaning, its possible values, and the source of its usual values.

    Attributes:
        name: the word in a space file and in code.
        kind: float, int, str or bool.
        default: the value if none is given.
        doc: the meaning, in a clause.
        source: where the default and the safe range come from.
        low: the smallest possible value; a value below it is an error.
        high: the largest possible value; a value above it is an error.
        safe: the range that is worth a search; a value outside it is worth a warning.
        scale: how a search should divide the range.
        choices: the possible words of a text, or the words that may replace a number.
        lists: whether a space file may have a list in place of the text with commas.
    """

    name: str
    kind: type
    default: Value
    doc: str
    source: str
    low: float | None = None
    high: float | None = None
    safe: tuple[float, float] | None = None
    scale: Scale = "linear"
    choices: tuple[str, ...] | None = None
    lists: bool = False

    def check(self, value: object) -> Value:
        """Return the value in the knob's type.

        Raises:
            KnobError: The knob cannot have this value.
        """
        if self.kind is bool:
            if isinstance(value, bool):
                return value
            raise KnobError(f"{self.name} is {value!r}; it must be true or false")
        if self.kind is str or (isinstance(value, str) and value in (self.choices or ())):
            return self._checked_choice(value)
        return self._checked_number(value)

    def _checked_choice(self, value: object) -> str:
        if isinstance(value, str) and (self.choices is None or value in self.choices):
            return value
        raise KnobError(
            f"{self.name} is {value!r}; it must be "
            f"{' or '.join(self.choices or ('text',))}{nearest(value, self.choices or ())}"
        )

    def _checked_number(self, value: object) -> float | int:
        accepted = numbers.Integral if self.kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, accepted):
            what = "a whole number" if self.kind is int else "a number"
            words = "".join(f" or {word}" for word in self.choices or ())
            raise KnobError(f"{self.name} is {value!r}; it must be {what}{words}")
        number = int(value) if isinstance(value, numbers.Integral) else float(value)
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not math.isfinite(number):
            raise KnobError(f"{self.name} is {value!r}; it must be finite")
        if not low <= number <= high:
            raise KnobError(f"{self.name} is {value!r}; it must be {self._bounds()}")
        return number if self.kind is int else float(number)

    def _bounds(self) -> str:
        match self.low, self.high:
            case low, None:
                return f"at least {low!r}"
            case None, high:
                return f"at most {high!r}"
            case low, high:
                return f"from {low!r} to {high!r}"


def knob(
    default: Value,
    *,
    low: float | None = None,
    high: float | None = None,
    safe: tuple[float, float] | None = None,
    scale: Scale = "linear",
    choices: tuple[str, ...] | None = None,
    doc: str,
    source: str,
) -> Any:
    """Return a dataclass field that is a knob; its annotation is the knob's type."""
    about = {
        "default": default,
        "low": low,
        "high": high,
        "safe": safe,
        "scale": scale,
        "choices": choices,
        "doc": doc,
        "source": source,
    }
    return field(default=default, metadata={"knob": about})


def knobs_of(cls: type) -> dict[str, Knob]:
    """Return the knobs of a dataclass by name, its own before those of its ancestors."""
    ancestry = [inspect.get_annotations(c) for c in cls.__mro__]
    fields = [f for f in dataclasses.fields(cls) if "knob" in f.metadata]
    fields.sort(key=lambda f: next(i for i, own in enumerate(ancestry) if f.name in own))
    return {f.name: Knob(f.name, _kind(f), **f.metadata["knob"]) for f in fields}


def _kind(f: dataclasses.Field[Any]) -> type:
    # Under `from __future__ import annotations` a field's type is its text. Of `float | str` the
    # first counts: a number that a word may replace.
    return f.type if isinstance(f.type, type) else _KINDS[str(f.type).split(" | ")[0]]


_KINDS: dict[str, type] = {"float": float, "int": int, "str": str, "bool": bool}


def nearest(word: object, words: Iterable[str]) -> str:
    """Return "; did you mean x?" for the known word that is most like this one, or nothing."""
    close = get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def reject_unknown(given: Iterable[str], knobs: Mapping[str, Knob], owner: str) -> None:
    """Raise KnobError for a name that is not among the knobs."""
    for name in given:
        if name not in knobs:
            raise KnobError(
                f"{owner} has no knob {name}{nearest(name, knobs)} "
                f"(it has: {', '.join(knobs) or 'none'})"
            )
