"""The stages of a sweep: which trials a stage has, and how it uses their reports and ends.

Each stage is built from the record. An empty record gives a new stage. The record of a stopped run
gives the stage as it was then. `SearchStage` searches, `ConfirmStage` repeats the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from samtune.record.record import Record
from samtune.record.rows import Stage, State, TrialRow, Verdict
from samtune.search.rungs import Rungs, rungs_for
from samtune.space.search_space import Fixed, SearchSpace
from samtune.sweep.progress import Progress
from samtune.sweep.rebuild import Past


class StagePlan(Protocol):
    """A stage of a sweep: its trials, and its use of their reports and ends."""

    spaces: Sequence[SearchSpace]
    progress: Progress

    def next(self) -> TrialRow | None:
        """Return the next trial to run, or None while there is none before another one ends."""

    def again(self, trial: TrialRow) -> None:
        """Put a trial back, so that `next` returns it before all others."""

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        """Decide on a report that goes further than all before it.

        Args:
            trial: The trial that reported.
            used: How much of its budget the trial has used.
            n_val: How many samples the value was measured on.
            value: The value, NaN for a report that has diverged.
        """

    def ended(
        self,
        trial: TrialRow,
        state: State,
        values: Mapping[int, float],
        last: Mapping[str, float] | None = None,
    ) -> None:
        """Record how a trial ended or paused.

        Args:
            trial: The trial.
            state: Its state now.
            values: Its finite reports of the metric by epoch.
            last: All metrics of the last of them.
        """

    def finish(self) -> None:
        """End the trials that only wait, because no other trial runs or can start."""


def has_work(plan: StagePlan) -> bool:
    """Return whether a stage has a trial to run."""
    trial = plan.next()
    if trial is None:
        return False
    plan.again(trial)
    return True


def stage_progress(stage: Stage, record: Record, spaces: Sequence[SearchSpace]) -> Progress:
    """Return the progress of a stage that has not started."""
    return Progress(
        stage,
        record.name,
        [space.name for space in spaces],
        0,
        spaces[0].budget.kind,
        spaces[0].search.metric,
        [searched(space) for space in spaces],
    )


def searched(space: SearchSpace) -> set[str]:
    """Return the knobs that differ between trials."""
    free = {name for name, domain in space.knobs.items() if not isinstance(domain, Fixed)}
    return free.union(*space.points)


def rungs_of(space: SearchSpace, trials: int) -> Rungs:
    """Return the empty rungs of a space of that many trials."""
    limit, search = space.budget.per_trial, space.search
    return rungs_for(space.asha, limit, search.mode, trials, search.seed)


def unjudged(value: float) -> Verdict:
    """Return the verdict of a stage in which only divergence ends a trial early."""
    return Verdict("continue" if math.isfinite(value) else "stop")


def settle(record: Record, trial: TrialRow, past: Past, attempt: int) -> State | None:
    """Return the final state of a recorded trial, or None for one that must continue.

    A trial that was interrupted after the report that ended it ends now, without being run.
    """
    if trial.state not in {"running", "cancelled"}:
        return trial.state
    end = past.end(trial, attempt)
    if end is None:
        return None
    record.end_trial(trial.trial, end.state, end.reason)
    return end.state
