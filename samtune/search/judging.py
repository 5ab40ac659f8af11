"""Base of all rules of successive halving."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace

from samtune.record.rows import Decision, Verdict

# A sum of counted samples may fall short of a milestone by rounding alone.
_ROUNDING = 1 - 1e-9


def milestones(grace: float, factor: float, limit: float) -> tuple[float, ...]:
    """Return the budgets at which trials are judged: grace * factor^k, below `limit`."""
    rungs = []
    level = grace
    while level < limit:
        rungs.append(level)
        level *= factor
    return tuple(rungs)


def standard_error(metric: str, value: float, n_val: float | None) -> float:
    """Return the standard error of a score that was measured on `n_val` samples.

    The mean of n scores from 0 to 1 has at most the standard error sqrt(p (1 - p) / n), which an
    accuracy has exactly (Bhatia and Davis 2000). It is 0, so that only equal values are near each
    other, for a loss, for values outside 0 to 1, and where `n_val` is unknown.
    """
    if not n_val or "loss" in metric or not 0 <= value <= 1:
        return 0.0
    return math.sqrt(value * (1 - value) / n_val)


def extra_places(judged: int, places: int) -> int:
    """Return how many near ties may continue with the `places` best of a rung's `judged` trials.

    They at most double the places, and at least half of the trials without a place are stopped. So
    a rung of equal trials still loses trials.
    """
    return max(0, min(places, (judged - places) // 2))


@dataclass
class Rung:
    """The trials at one milestone.

    Attributes:
        entries: (-score, arrival, trial) of each, best first; of equals, the earlier one first.
        judged: All that arrived, also those that were withdrawn from `entries`.
        kept: The trials that have a place.
        near: The near ties that go on without one.
        kept_scores: How many trials of each score have a place.
    """

    entries: list[tuple[float, int, int]] = field(default_factory=list)
    judged: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    near: set[int] = field(default_factory=set)
    kept_scores: Counter[float] = field(default_factory=Counter)

    def enter(self, trial: int, score: float) -> int:
        """Rank a trial, and return how many trials are ahead of it."""
        entry = (-score, len(self.judged), trial)
        ahead = bisect_left(self.entries, entry)
        self.entries.insert(ahead, entry)
        self.judged.add(trial)
        return ahead


class Rungs(ABC):
    """The rungs of one search.

    A report is judged only at the highest milestone that it reached, and each trial only once at
    each milestone. A value that is not finite never enters a rung. A trial that has used its whole
    budget, or reached `until`, is done, and is not stopped any more.

    Equal values share the places that are left. Near ties go on as well: trials without a place
    within `tolerance` standard errors of the cutoff, equal ones among them, while one of the
    `extra_places` is left.

    Of the trials that are stopped, a share `audit`, evenly spread from a random beginning, runs on
    to show whether stopping was right. The rungs ignore these, so an audit changes no decision.

    Args:
        grace: The first milestone.
        factor: One in `factor` trials goes on at each milestone.
        limit: The full budget of a trial.
        mode: `max` or `min`, the better end of the metric.
        tolerance: The distance of near ties from the cutoff, in standard errors; 0 for none.
        audit: The share of the stopped trials that run on.
        seed: Decides which stopped trials run on.
        until: The budget at which a trial is completed before its `limit`; None for none.
    """

    def __init__(
        self,
        grace: float,
        factor: float,
        limit: float,
        mode: str = "max",
        *,
        tolerance: float = 0.0,
        audit: float = 0.0,
        seed: int = 0,
        until: float | None = None,
    ) -> None:
        self.factor = factor
        self._limit = limit if until is None else min(until, limit)
        self._completes = self._limit < limit
        self.milestones = milestones(grace, factor, self._limit)
        self.audited: set[int] = set()
        self._sign = 1.0 if mode == "max" else -1.0
        self._tolerance = tolerance
        self._audit = audit
        self._audit_due = random.Random(seed).random()
        self._rungs = [Rung() for _ in self.milestones]
        self._at: dict[int, int] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._done: set[int] = set()

    @property
    def occupancy(self) -> tuple[int, ...]:
        """The number of trials that were judged at each rung."""
        return tuple(len(rung.judged) for rung in self._rungs)

    def judge(self, trial: int, used: float, value: float, error: float = 0.0) -> Verdict:
        """Return the decision on a report.

        A report that is sent again after an interruption gets the same decision as before.

        Args:
            trial: The trial that reports.
            used: How much of its budget it has used.
            value: The value of the metric.
            error: The standard error of the value.
        """
        if not math.isfinite(value):
            self.ended(trial)
            return Verdict("stop", audited=trial in self.audited)
        if used >= self._limit * _ROUNDING:
            self._done.add(trial)
        verdict = self._judged(trial, used, value, error)
        if self._completes and trial in self._done and verdict.decision == "continue":
            return replace(verdict, decision="complete", audited=False)
        return verdict

    def _judged(self, trial: int, used: float, value: float, error: float) -> Verdict:
        if trial in self.audited:
            return Verdict("continue", audited=True)
        reached = sum(used >= level * _ROUNDING for level in self.milestones) - 1
        if reached <= self._at.get(trial, -1):
            return self._verdicts.get(trial, Verdict("continue"))
        self._at[trial] = reached
        verdict = self._arrived(trial, reached, self._sign * value, self._tolerance * error)
        if verdict.decision == "continue":
            self._verdicts.pop(trial, None)
        else:
            self._verdicts[trial] = verdict
        return verdict

    @abstractmethod
    def _arrived(self, trial: int, rung: int, score: float, margin: float) -> Verdict:
        """Judge a trial that is new at `rung`; larger scores are better."""

    @abstractmethod
    def promoted(self) -> int | None:
        """Return a paused trial that may continue now, each once per rung, or None.

        After a rebuild, a trial that was returned but has not reported since is returned again.
        """

    @abstractmethod
    def waiting(self) -> bool:
        """Return whether a paused trial may continue now, or after future reports."""

    @abstractmethod
    def ended(self, trial: int) -> None:
        """Note that a trial diverged or failed. A place that it did not use is free again."""

    def _verdict(self, decision: Decision, trial: int, rung: int, places: int) -> Verdict:
        """Return the verdict at a rung, where `places` are the best; a stop may be audited."""
        entries = self._rungs[rung].entries
        cutoff = self._sign * -entries[places - 1][0] if places else None
        audited = decision == "stop" and self._audits(trial)
        return Verdict(
            "continue" if audited else decision, rung, self.milestones[rung], cutoff, audited
        )

    def _audits(self, trial: int) -> bool:
        """Return whether a trial that is stopped now is one that runs on."""
        self._audit_due += self._audit
        if self._audit_due < 1:
            return False
        self._audit_due -= 1
        self.audited.add(trial)
        return True

    def _is_near(self, rung: Rung, places: int, score: float, margin: float) -> bool:
        """Return whether a score is within its margin of the last of the best."""
        return self._tolerance > 0 and score >= -rung.entries[places - 1][0] - margin
