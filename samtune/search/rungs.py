"""Successive halving as pure rules: which trial goes on, stops or waits at each milestone.

Every rule is a deterministic function of the calls of `judge` and `ended` in their order, so the
rungs of a sweep can be rebuilt from its record at any time, and a rule that was not used can be
replayed over one (`samtune.replay`). `rungs_for` makes the rule that a space asks for:

    stop      Li et al. 2020 (arXiv 1810.05934) as Ray and Syne Tune stop by it: a trial is judged
              once, on arrival, and goes on if it is then among the best 1/factor of its rung.
    promote   Li et al. 2020, algorithm 2: a trial pauses at its rung and goes on as soon as it is
              among the best 1/factor there, which may be on arrival or much later.
    halving   Jamieson and Talwalkar 2016 (arXiv 1502.07943): a rung's best 1/factor go on when
              all of its trials have arrived or gone.
"""

from __future__ import annotations

import heapq
import math
import random
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samtune.record.rows import Decision, Verdict

if TYPE_CHECKING:
    from samtune.space.schema import AshaSettings


def milestones(grace: float, factor: float, limit: float) -> tuple[float, ...]:
    """Budgets at which trials are judged: grace * factor^k, below the full budget `limit`."""
    rungs = []
    level = grace
    while level < limit:
        rungs.append(level)
        level *= factor
    return tuple(rungs)


def standard_error(metric: str, value: float, n_val: float | None) -> float:
    """That of an accuracy measured on `n_val` samples, by the binomial: sqrt(p (1 - p) / n).

    0 for a metric that is no accuracy from 0 to 1, or an unknown `n_val`: then no value is near
    another.
    """
    if not n_val or not metric.endswith("acc") or not 0 <= value <= 1:
        return 0.0
    return math.sqrt(value * (1 - value) / n_val)


def extra_places(judged: int, places: int) -> int:
    """The most near ties that may go on with the `places` best of a rung's `judged` trials.

    They at most double the places, and at least half of those who have none stay behind, so a
    rung of equal trials still thins out.
    """
    return max(0, min(places, (judged - places) // 2))


def rungs_for(
    asha: AshaSettings, limit: float, mode: str, trials_total: int, seed: int = 0
) -> Rungs:
    """The empty rungs of one search: `trials_total` trials of a budget of `limit` each.

    `mode` is the metric's, max or min; `seed` says which of the stopped trials are audited.
    """
    rule = (asha.grace, asha.factor, limit, mode)
    if asha.mode == "stop":
        return StoppingRungs(*rule, tolerance=asha.tolerance, audit=asha.audit, seed=seed)
    return PausingRungs(
        *rule,
        total=trials_total,
        early=asha.mode == "promote",
        tolerance=asha.tolerance,
        audit=asha.audit,
        seed=seed,
    )


@dataclass
class _Rung:
    """What arrived at one milestone. `entries` are (-score, arrival, trial), best first and the
    earlier of equals first; `judged` also holds those that were withdrawn from them."""

    entries: list[tuple[float, int, int]] = field(default_factory=list)
    judged: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    near: set[int] = field(default_factory=set)
    kept_scores: Counter[float] = field(default_factory=Counter)

    def enter(self, trial: int, score: float) -> int:
        """Ranks the trial and answers how many are ahead of it."""
        entry = (-score, len(self.judged), trial)
        ahead = bisect_left(self.entries, entry)
        self.entries.insert(ahead, entry)
        self.judged.add(trial)
        return ahead


class Rungs(ABC):
    """The rungs of one search, whatever the rule.

    Differs from Ray's ASHA where that one was measured to go wrong: a report is judged only at the
    highest milestone it reached and each milestone only once a trial, equal values share the
    places that are left (Ray lets every tie pass), and a non-finite value never enters a rung.
    A trial that has used its whole budget is done, and no longer stopped.

    Near ties: a trial that has no place but lies within `tolerance` standard errors of the cutoff
    goes on as well, while one of the `extra_places` is left. Audit: of the trials that are
    stopped, a share `audit`, evenly spread from a beginning drawn by `seed`, goes on all the same,
    with `audited` in its verdicts. The rungs forget these, so with an audit a search decides as
    it would without.
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
    ) -> None:
        self.factor = factor
        self.milestones = milestones(grace, factor, limit)
        self.audited: set[int] = set()
        self._limit = limit
        self._sign = 1.0 if mode == "max" else -1.0
        self._tolerance = tolerance
        self._audit = audit
        self._audit_due = random.Random(seed).random()
        self._rungs = [_Rung() for _ in self.milestones]
        self._at: dict[int, int] = {}
        self._told: dict[int, Verdict] = {}
        self._done: set[int] = set()

    @property
    def occupancy(self) -> tuple[int, ...]:
        """Trials judged at each rung."""
        return tuple(len(rung.judged) for rung in self._rungs)

    def judge(self, trial: int, used: float, value: float, error: float = 0.0) -> Verdict:
        """Decides on a report of `trial` that has used `used` of its budget.

        `error` is the standard error of `value`. A report that is sent again, as after an
        interruption, is told what stands.
        """
        if not math.isfinite(value):
            self.ended(trial)
            return Verdict("stop", audited=trial in self.audited)
        # Sums of counted samples may fall short of a milestone by rounding alone.
        if used >= self._limit * (1 - 1e-9):
            self._done.add(trial)
        if trial in self.audited:
            return Verdict("continue", audited=True)
        reached = sum(used >= level * (1 - 1e-9) for level in self.milestones) - 1
        if reached <= self._at.get(trial, -1):
            return self._told.get(trial, Verdict("continue"))
        self._at[trial] = reached
        verdict = self._arrived(trial, reached, self._sign * value, self._tolerance * error)
        if verdict.decision == "continue":
            self._told.pop(trial, None)
        else:
            self._told[trial] = verdict
        return verdict

    @abstractmethod
    def _arrived(self, trial: int, rung: int, score: float, margin: float) -> Verdict:
        """Judges a trial that is new at `rung`; larger scores are better."""

    @abstractmethod
    def promoted(self) -> int | None:
        """A paused trial that may go on now, each once a rung; None while there is none.

        After a rebuild, one that was fetched but has not reported since is there once more.
        """

    @abstractmethod
    def waiting(self) -> bool:
        """Whether a paused trial may go on now, or by what others have yet to report."""

    @abstractmethod
    def ended(self, trial: int) -> None:
        """`trial` is gone: it diverged or failed. A place that it could not use is free again."""

    def _verdict(self, decision: Decision, trial: int, rung: int, places: int) -> Verdict:
        """The verdict at `rung`, where `places` are the best; a stop may be one to audit."""
        entries = self._rungs[rung].entries
        cutoff = self._sign * -entries[places - 1][0] if places else None
        audited = decision == "stop" and self._audits(trial)
        return Verdict(
            "continue" if audited else decision, rung, self.milestones[rung], cutoff, audited
        )

    def _audits(self, trial: int) -> bool:
        """Whether `trial`, which is stopped now, is one of those to audit."""
        self._audit_due += self._audit
        if self._audit_due < 1:
            return False
        self._audit_due -= 1
        self.audited.add(trial)
        return True

    def _is_near(self, rung: _Rung, places: int, score: float, margin: float) -> bool:
        """Whether `score` lies within its margin, if it has one, of the last of the best."""
        return margin > 0 and score >= -rung.entries[places - 1][0] - margin


class StoppingRungs(Rungs):
    """`stop`: a trial goes on if it is among the best 1/factor, rounded up, of what its rung has
    seen when it arrives. The first of a rung always does."""

    def _arrived(self, trial: int, rung: int, score: float, margin: float) -> Verdict:
        here = self._rungs[rung]
        # Of equals, those that have a place are ahead.
        ahead = bisect_left(here.entries, (-score,)) + here.kept_scores[score]
        here.enter(trial, score)
        places = math.ceil(len(here.entries) / self.factor)
        if trial in self._done:
            return self._verdict("continue", trial, rung, places)
        if ahead < places:
            here.kept.add(trial)
            here.kept_scores[score] += 1
        elif self._is_near(here, places, score, margin) and len(here.near) < extra_places(
            len(here.entries), places
        ):
            here.near.add(trial)
        goes_on = trial in here.kept or trial in here.near
        return self._verdict("continue" if goes_on else "stop", trial, rung, places)

    def promoted(self) -> int | None:
        return None

    def waiting(self) -> bool:
        return False

    def ended(self, trial: int) -> None:
        """Nobody waits for the places of others here."""


class PausingRungs(Rungs):
    """`promote` (`early`) and `halving`: a trial without a place waits for one at its rung.

    A rung is closed when each of the `total` trials has arrived there, lost on the way, or gone.
    Then its best 1/factor, rounded down but at least one, have places, and so have the near ties;
    whoever else is there has lost. `early` gives places before that, to the best 1/factor of
    those who are there. When a trial that has a place ends without reaching what is next, it is
    taken off the rung, and the next best may have the place.
    """

    def __init__(
        self,
        grace: float,
        factor: float,
        limit: float,
        mode: str = "max",
        *,
        total: int,
        early: bool,
        tolerance: float = 0.0,
        audit: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(grace, factor, limit, mode, tolerance=tolerance, audit=audit, seed=seed)
        self._early = early
        self._margins: dict[int, float] = {}
        # How many are on their way to each rung and, last, to the full budget; and who to which.
        # A trial not heard of is on its way to the first, one that waits or is gone to none.
        self._under_way = [total, *(0 for _ in self.milestones)]
        self._heads_for: dict[int, int | None] = {}
        self._closed = 0
        self._queue: list[tuple[bool, int, int, int]] = []
        self._queued: set[int] = set()
        self._queued_ever = 0

    def judge(self, trial: int, used: float, value: float, error: float = 0.0) -> Verdict:
        # Who reports was fetched, also where a rebuild does not see it.
        self._queued.discard(trial)
        return super().judge(trial, used, value, error)

    def _arrived(self, trial: int, rung: int, score: float, margin: float) -> Verdict:
        self._leave(trial)
        here = self._rungs[rung]
        ahead = here.enter(trial, score)
        self._margins[trial] = margin
        if trial in self._done or (self._early and ahead < self._places(rung)):
            self._keep(trial, rung, arriving=trial)
        self._settle(rung, trial)
        if trial in here.kept:
            decision: Decision = "continue"
        else:
            decision = "pause" if rung >= self._closed else "stop"
        return self._verdict(decision, trial, rung, self._places(rung))

    def promoted(self) -> int | None:
        while self._queue:
            trial = heapq.heappop(self._queue)[-1]
            if trial in self._queued:
                self._queued.remove(trial)
                return trial
        return None

    def waiting(self) -> bool:
        unsettled = self._rungs[self._closed :]
        return bool(self._queued) or any(len(r.kept) < len(r.entries) for r in unsettled)

    def ended(self, trial: int) -> None:
        self._queued.discard(trial)
        if trial in self._done or trial in self.audited:
            return
        rung = self._at.get(trial)
        had_a_place = self._leave(trial)
        if rung is not None and (had_a_place or rung >= self._closed):
            here = self._rungs[rung]
            here.entries = [entry for entry in here.entries if entry[-1] != trial]
            here.kept.discard(trial)
        self._settle(rung, None)

    def _leave(self, trial: int) -> bool:
        """Takes the trial off its way; whether it was on one."""
        towards = self._heads_for.get(trial, 0)
        if towards is not None:
            self._under_way[towards] -= 1
            self._heads_for[trial] = None
        return towards is not None

    def _places(self, rung: int) -> int:
        """How many of those at `rung` the best 1/factor are."""
        judged = len(self._rungs[rung].entries)
        least = min(1, judged) if rung < self._closed else 0
        return max(least, int(judged // self.factor))

    def _settle(self, changed: int | None, arriving: int | None) -> None:
        """Closes the rungs that nobody heads for, and gives the places that are there to give."""
        for rung, here in enumerate(self._rungs):
            closes = rung == self._closed and self._under_way[rung] <= 0
            self._closed += closes
            if not closes and rung != changed:
                continue
            if rung < self._closed or self._early:
                for trial in self._deserving(rung):
                    if trial not in here.kept:
                        self._keep(trial, rung, arriving)
            if closes:
                for _, _, trial in here.entries:
                    # The one that arrives hears of it in its verdict.
                    if trial not in here.kept and trial != arriving and self._audits(trial):
                        self._put_in_queue(trial, rung)

    def _deserving(self, rung: int) -> list[int]:
        """Who is to have a place at `rung`; while it is open, who may be new among them."""
        entries, places = self._rungs[rung].entries, self._places(rung)
        if rung >= self._closed:
            # All better ones have had their place since they were the last of the best.
            return [trial for _, _, trial in entries[max(0, places - 1) : places]]
        extra = places + extra_places(len(entries), places)
        return [trial for _, _, trial in entries[:places]] + [
            trial
            for score, _, trial in entries[places:extra]
            if self._is_near(self._rungs[rung], places, -score, self._margins[trial])
        ]

    def _keep(self, trial: int, rung: int, arriving: int | None) -> None:
        self._rungs[rung].kept.add(trial)
        runs = trial == arriving or (trial in self.audited and trial not in self._queued)
        # Another's place has come free: it runs on as one that was never stopped.
        self.audited.discard(trial)
        self._told.pop(trial, None)
        if trial not in self._done:
            self._heads_for[trial] = rung + 1
            self._under_way[rung + 1] += 1
            if not runs:
                self._put_in_queue(trial, rung)

    def _put_in_queue(self, trial: int, rung: int) -> None:
        """The highest rung goes first, and what is only audited last."""
        self._queued_ever += 1
        heapq.heappush(self._queue, (trial in self.audited, -rung, self._queued_ever, trial))
        self._queued.add(trial)
