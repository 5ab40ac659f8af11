"""Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), the stopping kind.

`Rungs` is a pure function of the reports in the order in which they were committed, so the rungs
of a sweep can be rebuilt from its record at any time. `RungScheduler` puts it behind Ray Tune.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

Decision = Literal["continue", "stop", "pause"]


@dataclass(frozen=True)
class Verdict:
    """What a report led to. `rung` counts from 0 and is None where no milestone was judged;
    `cutoff` is the worst value that stays at that rung at this moment."""

    decision: Decision
    rung: int | None = None
    milestone: float | None = None
    cutoff: float | None = None


def milestones(grace: float, factor: float, limit: float) -> tuple[float, ...]:
    """Budgets at which trials are judged: grace * factor^k, below the full budget `limit`."""
    rungs = []
    level = grace
    while level < limit:
        rungs.append(level)
        level *= factor
    return tuple(rungs)


class Rungs:
    """The rungs of one search: at each, the best 1/factor of the values seen so far goes on.

    Differs from Ray's ASHA where that one was measured to go wrong: a report is judged only at the
    highest milestone it reached and each milestone only once a trial, equal values share the
    places that are left (Ray lets every tie pass), and a non-finite value never enters a rung.
    """

    def __init__(self, grace: float, factor: float, limit: float, mode: str = "max") -> None:
        self.factor = factor
        self.milestones = milestones(grace, factor, limit)
        self._sign = 1.0 if mode == "max" else -1.0
        self._values: list[dict[int, float]] = [{} for _ in self.milestones]
        self._kept: list[set[int]] = [set() for _ in self.milestones]

    @property
    def occupancy(self) -> tuple[int, ...]:
        """Trials judged at each rung."""
        return tuple(len(values) for values in self._values)

    def promoted(self) -> int | None:
        """A paused trial that may go on now; each is returned once. Nothing pauses here."""
        return None

    def judge(self, trial: int, used: float, value: float) -> Verdict:
        """Decides on a report of `trial` that has used `used` of its budget."""
        if not math.isfinite(value):
            return Verdict("stop")
        # Sums of counted samples may fall short of a milestone by rounding alone.
        reached = [k for k, level in enumerate(self.milestones) if used >= level * (1 - 1e-9)]
        if not reached or trial in self._values[reached[-1]]:
            return Verdict("continue")
        rung = reached[-1]
        values, kept = self._values[rung], self._kept[rung]
        score = self._sign * value
        ahead = sum(
            other > score or (other == score and rival in kept) for rival, other in values.items()
        )
        values[trial] = score
        places = math.ceil(len(values) / self.factor)
        if ahead < places:
            kept.add(trial)
        cutoff = sorted(values.values(), reverse=True)[places - 1]
        decision: Decision = "continue" if trial in kept else "stop"
        return Verdict(decision, rung, self.milestones[rung], self._sign * cutoff)


class RungScheduler(FIFOScheduler):
    """Hands each report to `on_report`, which commits it and answers with the verdict."""

    def __init__(
        self,
        on_report: Callable[[Trial, Mapping[str, Any]], Verdict],
        on_error: Callable[[Trial], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_report = on_report
        self._on_error = on_error

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        verdict = self._on_report(trial, result)
        # A paused trial gives its worker back; it is served again as a trial of Tune's.
        ends = verdict.decision != "continue"
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        self._on_error(trial)
