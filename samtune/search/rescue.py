"""The rule `stop` with a rescue: the most promising of the stopped trials go on at the end.

A trial that is stopped early may have been one of the best. How good it would have become is
estimated by its value at the rung and what the survivors of that rung have gained since. In the
simulation of `python -m benchmarks.selection` this makes up for the few trials of a short search.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean
from typing import Any

from samtune.record.rows import Verdict
from samtune.search.stopping import StoppingRungs


class RescuingRungs(StoppingRungs):
    """Rungs at which a trial that is not among the best pauses, and may go on at the end.

    When each of the `total` trials is completed, paused or ended, the `rescue` paused ones with
    the best estimates go on to the end, and no rung judges them again. The estimate is the value
    at the rung plus the mean gain from there of the trials that passed it and were completed.

    Args:
        numbers: The first milestone, the factor, the limit and the mode, as of `Rungs`.
        total: The number of trials of the search.
        rescue: How many paused trials go on.
        rule: Other words of `Rungs`.
    """

    def __init__(self, *numbers: Any, total: int, rescue: int, **rule: Any) -> None:
        super().__init__(*numbers, **rule)
        self._total = total
        self._rescue = rescue
        self._settled: set[int] = set()
        self._rescued: set[int] = set()
        # The budget that each had used when it paused.
        self._paused: dict[int, float] = {}
        self._completed: dict[int, float] = {}

    def _judged(self, trial: int, used: float, value: float, error: float) -> Verdict:
        if trial in self._done:
            self._completed[trial] = self._sign * value
            self._settled.add(trial)
        if used > self._paused.get(trial, math.inf):
            # It has been rescued, also where a rebuild does not see that.
            self._rescued.add(trial)
            return Verdict("continue")
        verdict = super()._judged(trial, used, value, error)
        if verdict.decision == "stop":
            verdict = self._verdicts[trial] = replace(verdict, decision="pause")
            self._paused[trial] = used
            self._settled.add(trial)
        return verdict

    def promoted(self) -> int | None:
        """Return the next trial to rescue, once all have been judged; of equal ones the first."""
        if len(self._settled) < self._total or not self.waiting():
            return None
        trial = max(sorted(self._paused.keys() - self._rescued), key=self._estimate)
        self._rescued.add(trial)
        return trial

    def waiting(self) -> bool:
        """Return whether a paused trial may still be rescued."""
        return len(self._rescued) < min(self._rescue, len(self._paused))

    def ended(self, trial: int) -> None:
        """Note that a trial diverged or failed."""
        self._settled.add(trial)

    def _estimate(self, trial: int) -> float:
        """Return the score that a paused trial is expected to end with."""
        rung = self._rungs[self._at[trial]]
        scores = {each: -score for score, _, each in rung.entries}
        # One that was rescued before says nothing about those that passed.
        passed = (rung.kept | rung.near) & (self._completed.keys() - self._paused.keys())
        return scores[trial] + fmean([self._completed[t] - scores[t] for t in passed] or [0.0])
