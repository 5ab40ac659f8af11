"""The rules `promote` and `halving`: a trial without a place waits for one at its rung."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from samtune.record.rows import Decision, Verdict
from samtune.search.judging import Rungs, extra_places


@dataclass
class Travellers:
    """The trials that run towards each rung and, after the last one, towards the full budget.

    A trial that was never mentioned runs towards the first rung.

    Attributes:
        counts: How many trials run towards each rung.
        targets: The rung that a trial runs towards; None for one that waits or has ended.
    """

    counts: list[int]
    targets: dict[int, int | None] = field(default_factory=dict)

    def arrive(self, trial: int) -> bool:
        """Remove a trial from those that run, and return whether it was one of them."""
        target = self.targets.get(trial, 0)
        if target is not None:
            self.counts[target] -= 1
            self.targets[trial] = None
        return target is not None

    def leave_for(self, trial: int, rung: int) -> None:
        """Note that a trial now runs towards a rung."""
        self.targets[trial] = rung
        self.counts[rung] += 1


@dataclass
class PromotionQueue:
    """The paused trials that may go on: the highest rung first, audited ones last."""

    members: set[int] = field(default_factory=set)
    # Entries of discarded trials stay in the heap until `pop` reaches them.
    _heap: list[tuple[bool, int, int, int]] = field(default_factory=list, compare=False)
    _count: int = field(default=0, compare=False)

    def put(self, trial: int, rung: int, audited: bool) -> None:
        """Add a trial that waits at a rung."""
        self._count += 1
        heapq.heappush(self._heap, (audited, -rung, self._count, trial))
        self.members.add(trial)

    def discard(self, trial: int) -> None:
        """Remove a trial, if it is there."""
        self.members.discard(trial)

    def pop(self) -> int | None:
        """Return the trial that goes on next, or None."""
        while self._heap:
            trial = heapq.heappop(self._heap)[-1]
            if trial in self.members:
                self.members.remove(trial)
                return trial
        return None


class PausingRungs(Rungs):
    """Rungs at which trials pause until they have a place.

    A rung is closed when each of the `total` trials has arrived there, lost earlier, or ended.
    Then its best 1/factor, rounded down but at least one, get places, and so do the near ties. The
    others have lost. With `early`, the best 1/factor of the trials at the rung get places before
    it is closed. If a trial with a place ends before it reaches the next rung, it is removed from
    its rung, and the next best trial that has not ended may get its place.
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
        **rule: Any,
    ) -> None:
        super().__init__(grace, factor, limit, mode, **rule)
        self._early = early
        self._margins: dict[int, float] = {}
        self._travellers = Travellers([total, *(0 for _ in self.milestones)])
        self._closed = 0
        # Those that ended without a place, and so can never use one.
        self._over: set[int] = set()
        self._queue = PromotionQueue()

    def judge(self, trial: int, used: float, value: float, error: float = 0.0) -> Verdict:
        """Return the decision on a report, as every rule does."""
        # A trial that reports has been promoted, also where a rebuild does not see it.
        self._queue.discard(trial)
        return super().judge(trial, used, value, error)

    def promoted(self) -> int | None:
        """Return a paused trial that may go on now, or None."""
        return self._queue.pop()

    def waiting(self) -> bool:
        """Return whether a paused trial may go on now or later."""
        unsettled = self._rungs[self._closed :]
        return bool(self._queue.members) or any(len(r.kept) < len(r.entries) for r in unsettled)

    def ended(self, trial: int) -> None:
        """Remove an ended trial from its rung, and give its place to the next best."""
        self._queue.discard(trial)
        if trial in self._done:
            return
        self._over.add(trial)
        if trial in self.audited:
            return
        rung = self._at.get(trial)
        had_a_place = self._travellers.arrive(trial)
        if rung is not None and (had_a_place or rung >= self._closed):
            here = self._rungs[rung]
            here.entries = [entry for entry in here.entries if entry[-1] != trial]
            here.kept.discard(trial)
        self._settle(rung, None)

    def _arrived(self, trial: int, rung: int, score: float, margin: float) -> Verdict:
        self._travellers.arrive(trial)
        here = self._rungs[rung]
        ahead = here.enter(trial, score)
        self._margins[trial] = margin
        if trial in self._done or (self._early and ahead < self._places(rung)):
            self._keep(trial, rung, arriving=trial)
        self._settle(rung, trial)
        decision: Decision = "pause" if rung >= self._closed else "stop"
        if trial in here.kept:
            decision = "continue"
        verdict = self._verdict(decision, trial, rung, self._places(rung))
        if verdict.decision == "stop":
            self._over.add(trial)
        return verdict

    def _places(self, rung: int) -> int:
        """Return how many of the trials at a rung are the best 1/factor."""
        judged = len(self._rungs[rung].entries)
        least = min(1, judged) if rung < self._closed else 0
        return max(least, int(judged // self.factor))

    def _settle(self, changed: int | None, arriving: int | None) -> None:
        """Close the rungs that no trial runs towards, and assign the free places."""
        for rung, here in enumerate(self._rungs):
            closes = rung == self._closed and self._travellers.counts[rung] <= 0
            self._closed += closes
            if not closes and rung != changed:
                continue
            if rung < self._closed or self._early:
                for trial in self._deserving(rung):
                    if trial not in here.kept:
                        self._keep(trial, rung, arriving)
            if closes:
                for _, _, trial in here.entries:
                    # The one that arrives is audited in its verdict.
                    if trial not in here.kept and trial != arriving and self._audits(trial):
                        self._queue.put(trial, rung, audited=True)

    def _deserving(self, rung: int) -> list[int]:
        """Return the trials that have earned a place; at an open rung, the newest of them."""
        here, places = self._rungs[rung], self._places(rung)
        entries = here.entries
        if rung >= self._closed:
            # All better trials got their places earlier, when they were the last of the best.
            return [trial for _, _, trial in entries[max(0, places - 1) : places]]
        extra = places + extra_places(len(entries), places)
        able = [entry for entry in entries if entry[-1] in here.kept | (here.judged - self._over)]
        return [trial for _, _, trial in able[:places]] + [
            trial
            for score, _, trial in able[places:extra]
            if self._is_near(here, places, -score, self._margins[trial])
        ]

    def _keep(self, trial: int, rung: int, arriving: int | None) -> None:
        """Give a trial a place, and promote it unless it runs already."""
        self._rungs[rung].kept.add(trial)
        audited = trial in self.audited and trial not in self._queue.members
        # It continues as if it was never stopped, because another trial's place has become free.
        self.audited.discard(trial)
        self._verdicts.pop(trial, None)
        if trial in self._done:
            return
        self._travellers.leave_for(trial, rung + 1)
        if trial != arriving and not audited:
            self._queue.put(trial, rung, audited=False)
