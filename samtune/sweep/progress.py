"""A stage of a sweep as it stands, and what shows it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from samtune.record.rows import Stage, State
from samtune.search.rungs import Rungs

_OPEN = {"running", "paused"}


@dataclass(frozen=True)
class Best:
    """The best value at a full budget so far."""

    value: float
    trial: int
    knobs: Mapping[str, Any]


@dataclass
class Progress:
    """A stage as it stands, for whoever shows it; all of it also stands in the record."""

    stage: Stage
    run: str
    studies: list[str]
    total: int
    kind: str
    metric: str
    searched: list[set[str]]
    states: dict[State, int] = field(default_factory=dict)
    used: dict[int, float] = field(default_factory=dict)
    best: dict[int, Best] = field(default_factory=dict)
    rungs: dict[int, Rungs] = field(default_factory=dict)
    ended_before: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, state: State, by: int) -> None:
        self.states[state] = self.states.get(state, 0) + by

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.states.items() if state not in _OPEN)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """By the mean pace since the stage was started or resumed; None before a trial ended."""
        done = self.ended - self.ended_before
        return self.seconds / done * (self.total - self.ended) if done else None


class View(Protocol):
    """What shows a stage while it runs."""

    def event(self, text: str) -> None: ...

    def refresh(self, progress: Progress) -> None: ...
