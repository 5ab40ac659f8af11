"""Scales from values to coordinates, with their ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "log", "error"]
Tick = tuple[float, str]

# The least error that an accuracy axis resolves.
_LEAST_ERROR = 2e-4
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_ACCURACIES = (
    (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
    (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999),
    (
        *(0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96),
        *(0.97, 0.98, 0.985, 0.99, 0.992, 0.994, 0.996, 0.998),
    ),
)


@dataclass(frozen=True)
class Scale:
    """A scale from the values `low` to `high` to the coordinates `start` to `end`.

    Attributes:
        low: Value at `start`.
        high: Value at `end`; equal to `low`, it is moved up.
        start: Coordinate of `low`.
        end: Coordinate of `high`.
        kind: `linear`, `log`, or `error`: an accuracy (a share of 1) spaced by the logarithm of
            its error, so that 90, 95 and 97 % stand apart.

    """

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        first, last = self._ends()
        return self.start + (self._even(value) - first) / (last - first) * (self.end - self.start)

    def invert(self, coordinate: float) -> float:
        """Return the value at a coordinate."""
        first, last = self._ends()
        even = first + (coordinate - self.start) / (self.end - self.start) * (last - first)
        match self.kind:
            case "log":
                return math.pow(10.0, even)
            case "error":
                return 1 - math.pow(10.0, -even)
        return even

    def ticks(self, count: int = 5) -> list[Tick]:
        """Return about `count` values with their labels; accuracies are labelled in percent."""
        if self.kind == "error":
            return self._accuracy_ticks(count)
        if self.kind == "log":
            found = self._log_ticks()
            return found if len(found) > 1 else self._linear_ticks(count, 1.0)
        return self._linear_ticks(count, 1.0)

    def _even(self, value: float) -> float:
        match self.kind:
            case "log":
                return math.log10(value)
            case "error":
                return -math.log10(max(1 - value, self._floor()))
        return value

    def _floor(self) -> float:
        return max(1 - self.high, _LEAST_ERROR)

    def _ends(self) -> tuple[float, float]:
        first, last = self._even(self.low), self._even(self.high)
        return (first, last) if last != first else (first, first + 1)

    def _linear_ticks(self, count: int, unit: float) -> list[Tick]:
        low, high = self.low * unit, self.high * unit
        if not high > low:
            return [(self.low, f"{low:g}")]
        rough = (high - low) / count
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(s * magnitude for s in _STEPS if s * magnitude >= 0.999 * rough)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [(k * step / unit, f"{round(k * step, 12):g}") for k in range(first, last + 1)]

    def _log_ticks(self) -> list[Tick]:
        first, last = (
            math.ceil(math.log10(self.low) - 1e-9),
            math.floor(math.log10(self.high) + 1e-9),
        )
        values = [10.0**e for e in range(first, last + 1)]
        if len(values) > 6:
            values = values[:: math.ceil(len(values) / 6)]
        if len(values) < 2:
            decades = range(first - 1, last + 2)
            values = [m * 10.0**e for e in decades for m in (1, 2, 5)]
        return [(v, f"{v:g}") for v in values if self._inside(v)]

    def _accuracy_ticks(self, count: int) -> list[Tick]:
        for values in _ACCURACIES:
            inside = [v for v in values if self._inside(v)]
            if len(inside) >= count - 1:
                break
        if len(inside) < 3:
            return self._linear_ticks(count, 100.0)
        return [(v, f"{100 * v:g}") for v in inside]

    def _inside(self, value: float) -> bool:
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)


def padded(
    low: float, high: float, kind: Kind = "linear", share: float = 0.05
) -> tuple[float, float]:
    """Return the ends moved apart by a share of their distance, for marks on the frame."""
    if kind == "log":
        factor = (high / low) ** share if high > low else 2.0
        return low / factor, high * factor
    distance = (high - low) or abs(high) or 1.0
    return low - share * distance, high + share * distance


def accuracy_ends(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an accuracy axis, with a fifth of the least error as room on top."""
    top = min(1 - 0.8 * (1 - high), 1 - _LEAST_ERROR)
    return min(low, 1 - 1.25 * (1 - top)), top
