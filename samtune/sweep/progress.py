"""The progress of a stage, and the interface of its display."""

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
    """The best value at a full budget so far, its trial and the knobs searched."""

    value: float
    trial: int
    knobs: Mapping[str, Any]


@dataclass
class Progress:
    """The progress of a stage, for display. All of it is in the record too.

    Attributes:
        stage: The stage's name.
        run: The run's name.
        studies: The names of the spaces, by study.
        total: How many trials the stage has.
        kind: The kind of the budget.
        metric: The metric that is searched for.
        searched: The knobs that differ between trials, by study.
        states: How many trials are in each state.
        used: How much of its budget each trial has used.
        best: The best of each study.
        rungs: The rungs of each study.
        ends: Why a search proposes no more trials before its last one, by study.
        ended_before: How many trials had ended before the stage was resumed.
        started: When the stage was started or resumed, by the monotonic clock.
    """

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
    ends: dict[int, str] = field(default_factory=dict)
    ended_before: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, state: State, by: int) -> None:
        """Add to the number of trials in a state."""
        self.states[state] = self.states.get(state, 0) + by

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return sum(count for state, count in self.states.items() if state not in _OPEN)

    @property
    def seconds(self) -> float:
        """The seconds since the stage was started or resumed."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time left by the mean pace so far. None until a trial has ended."""
        done = self.ended - self.ended_before
        return self.seconds / done * (self.total - self.ended) if done else None


class View(Protocol):
    """A display of a stage while it runs."""

    def event(self, text: str) -> None:
        """Show a line about something that has happened."""

    def refresh(self, progress: Progress) -> None:
        """Show the progress. Called several times per second, from another thread."""
