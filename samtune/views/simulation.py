"""Simulation of a search over whole curves, with the cost and the result of a rung rule.

Nothing is trained. The simulation is exact if trials do not depend on each other. A search that
learns from its trials would have proposed other trials after other stops.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from samtune.search.rungs import Rungs, rungs_for
from samtune.space.schema import AshaSettings


@dataclass(frozen=True)
class Curve:
    """The full reports of a trial that no rung stops.

    It ends at its full budget, or by diverging; then its last value is not finite.

    Attributes:
        used: the budget used at each report.
        values: the value of each report.
        errors: the standard error of each value.
    """

    used: tuple[float, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def final(self) -> float | None:
        """The value at the full budget; None for a trial that diverged."""
        return self.values[-1] if math.isfinite(self.values[-1]) else None


@dataclass(frozen=True)
class Outcome:
    """The outcome of one simulated search.

    Attributes:
        spent: the budget that all trials used, `audit` included.
        audit: what audited trials used after they were stopped.
        span: the time the search takes if a unit of budget takes one unit of time.
        reached: how many trials reached their full budget, or `asha.until`.
        stopped: how many trials were stopped.
        wrong: how many of the stopped trials would have beaten the chosen one.
        chosen: the trial with the best value among those that reached their end.
        regret: by how much the best value of all exceeds the chosen one's, at the full budget;
            None without a chosen one.
    """

    spent: float
    audit: float
    span: float
    reached: int
    stopped: int
    wrong: int
    chosen: int | None
    regret: float | None


@dataclass(frozen=True)
class StudyCurves:
    """The whole curves of one study.

    Attributes:
        name: the space's name.
        curves: one per trial whose whole curve is known.
        unknown: how many trials are left out, by the state they ended in.
        limit: the full budget of a trial.
        kind: the kind of that budget.
        metric: the search's metric.
        mode: its better direction, max or min.
    """

    name: str
    curves: list[Curve]
    unknown: dict[str, int]
    limit: float
    kind: str
    metric: str
    mode: str


def simulate(
    curves: Sequence[Curve], rungs: Rungs, order: Iterable[int], slots: int, mode: str
) -> Outcome:
    """Run the trials of a search on equally fast slots.

    As in a sweep, a free slot takes a promoted trial if there is one, and a new one otherwise.

    Args:
        curves: one per trial.
        rungs: empty rungs; they decide on each report.
        order: the order in which new trials arrive, as indices into `curves`.
        slots: how many trials run at the same time.
        mode: the better direction of the values, max or min.
    """
    new = iter(order)
    reported = [0] * len(curves)
    # The time of each running trial's next report; of equal times the trial that began earlier.
    running: list[tuple[float, int, int]] = []
    now, begun, audit = 0.0, 0, 0.0
    sign = 1 if mode == "max" else -1
    reached: dict[int, float] = {}
    audited: set[int] = set()

    def next_report(trial: int) -> float:
        used, k = curves[trial].used, reported[trial]
        return now + used[k] - (used[k - 1] if k else 0.0)

    while True:
        while len(running) < slots:
            trial = rungs.promoted()
            if trial is None:
                trial = next(new, None)
            if trial is None:
                break
            begun += 1
            heapq.heappush(running, (next_report(trial), begun, trial))
        if not running:
            break
        now, turn, trial = heapq.heappop(running)
        curve, k = curves[trial], reported[trial]
        if trial in rungs.audited:
            audited.add(trial)
            audit += curve.used[k] - (curve.used[k - 1] if k else 0.0)
        reported[trial] += 1
        verdict = rungs.judge(trial, curve.used[k], curve.values[k], curve.errors[k])
        if verdict.decision == "complete" or reported[trial] == len(curve.used):
            if math.isfinite(curve.values[k]):
                reached[trial] = sign * curve.values[k]
            else:
                rungs.ended(trial)
        elif verdict.decision == "continue":
            heapq.heappush(running, (next_report(trial), turn, trial))

    finals = {k: sign * v for k, curve in enumerate(curves) if (v := curve.final) is not None}
    audited &= rungs.audited
    cut = {k for k, count in enumerate(reported) if count < len(curves[k].used)}
    stopped = (cut - reached.keys()) | audited
    # Of equal trials the first wins, as on the leaderboard. Audited trials are left out, because
    # the question is what the rule would have found by itself.
    chosen = max(sorted(reached.keys() - audited), key=reached.__getitem__, default=None)
    final = None if chosen is None else finals.get(chosen)
    return Outcome(
        spent=sum(c.used[n - 1] for c, n in zip(curves, reported, strict=True) if n),
        audit=audit,
        span=now,
        reached=len(reached.keys() - audited),
        stopped=len(stopped),
        wrong=sum(final is None or finals[k] > final for k in stopped & finals.keys()),
        chosen=chosen,
        regret=None if final is None else max(finals.values()) - final,
    )


def simulated(study: StudyCurves, rule: AshaSettings, slots: int, seeds: int) -> list[Outcome]:
    """Return the outcomes of a rule in `seeds` random orders of arrival."""
    outcomes = []
    for seed in range(1, seeds + 1):
        order = list(range(len(study.curves)))
        random.Random(seed).shuffle(order)
        rungs = rungs_for(rule, study.limit, study.mode, len(order), seed)
        outcomes.append(simulate(study.curves, rungs, order, slots, study.mode))
    return outcomes


def summary(outcomes: Sequence[Outcome], trials: int) -> dict[str, float | int | None]:
    """Return the means over the orders.

    `missed` is the share of orders in which the best trial was not found.
    """
    regrets = [outcome.regret for outcome in outcomes if outcome.regret is not None]
    stopped = sum(outcome.stopped for outcome in outcomes)
    return {
        "spent": fmean(outcome.spent for outcome in outcomes),
        "audit": fmean(outcome.audit for outcome in outcomes),
        "span": fmean(outcome.span for outcome in outcomes),
        "regret": fmean(regrets) if regrets else None,
        "regret_worst": max(regrets, default=None),
        "missed": fmean(outcome.regret is None or outcome.regret > 0 for outcome in outcomes),
        "reached_end": fmean(outcome.reached / trials for outcome in outcomes),
        "wrong_stops": sum(o.wrong for o in outcomes) / stopped if stopped else 0.0,
        "without_winner": len(outcomes) - len(regrets),
    }
