"""The ends of a search before its last trial: by its budget, a target, the noise or the time.

A search that has ended proposes no more trials; those that run go on to their own ends. Each end
is recorded with its reason, and a resume takes it from the record. A longer limit reopens a search
that ended by the time; other ends stay.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from samtune.messages import clock, unit
from samtune.record.record import Record, now
from samtune.search.improvement import possible_improvement
from samtune.search.proposals import Proposals
from samtune.search.rungs import standard_error
from samtune.space.search_space import SearchSpace
from samtune.sweep.progress import Progress

# Below this many completed trials, a model of them says little about what is still possible.
_LEAST_COMPLETED = 10


class Ends:
    """The ends of the searches of a run.

    Args:
        record: The run's record.
        spaces: The run's spaces, one per study of the record.
        proposals: The proposals of each space.
        progress: The progress of the search, which shows each end.
    """

    def __init__(
        self,
        record: Record,
        spaces: Sequence[SearchSpace],
        proposals: Sequence[Proposals],
        progress: Progress,
    ) -> None:
        self._record = record
        self._spaces = spaces
        self._proposals = proposals
        self._progress = progress
        self._limit: float | None = record.meta("time_limit")
        self._before: dict[str, str] = record.meta("ends") or {}
        # A longer limit of the time opens a search again.
        self._noted = {
            study: why
            for study, why in self._before.items()
            if self._time() or not why.startswith("time: ")
        }
        record.set_meta("ends", self._noted)
        self._looked: dict[int, int] = {}

    def has_room(self, study: int, running: Collection[int]) -> bool:
        """Return whether a search may begin another trial, and record its end if it has one.

        Args:
            study: The search.
            running: Its trials that run now.
        """
        if study in self._progress.ends:
            return False
        known = self._noted.get(str(study), "")
        why = known or self._target(study) or self._noise(study) or self._time()
        if not why:
            left = self._left(study, running)
            if left is None or left >= self._per_trial(study):
                return True
            if running:
                # One that stops early leaves some of its budget to others.
                return False
            why = f"total: less than one trial's budget is left of {self._total(study)}"
        self._end(study, why)
        return False

    def _end(self, study: int, why: str) -> None:
        proposals, name = self._proposals[study], self._spaces[study].name
        self._progress.ends[study] = why
        self._progress.total -= proposals.total - proposals.asked
        self._noted[str(study)] = why
        self._record.set_meta("ends", self._noted)
        if self._before.get(str(study)) != why:
            self._record.add_event("search ended early", f"{name}: {why}")

    def _target(self, study: int) -> str:
        search, best = self._spaces[study].search, self._progress.best.get(study)
        if search.target is None or best is None:
            return ""
        sign = 1 if search.mode == "max" else -1
        if sign * best.value < sign * search.target:
            return ""
        return f"target: trial {best.trial} has reached {search.metric} {search.target:g}"

    def _left(self, study: int, running: Collection[int]) -> float | None:
        """Return what is left of the total when the running trials have used their budgets."""
        budget = self._spaces[study].budget
        if budget.total is None:
            return None
        used = self._record.used(stage="search").get(study, 0.0)
        ahead = sum(self._per_trial(study) - self._progress.used.get(t, 0.0) for t in running)
        return budget.total - used - max(0.0, ahead)

    def _per_trial(self, study: int) -> float:
        """Return the most that a trial of a search uses."""
        return self._spaces[study].asha.end_of(self._spaces[study].budget.per_trial)

    def _total(self, study: int) -> str:
        budget = self._spaces[study].budget
        return f"{budget.total:g} {unit(budget.kind)}"

    def _noise(self, study: int) -> str:
        space, proposals = self._spaces[study], self._proposals[study]
        best, learning = self._progress.best.get(study), proposals.learning
        if space.search.enough is None or best is None or learning is None:
            return ""
        completed = learning.completed
        if completed < _LEAST_COMPLETED or self._looked.get(study) == completed:
            return ""
        self._looked[study] = completed
        n_val = next(
            (
                trial.facts["n_val"]
                for trial in self._record.trials(study=study, stage="search")
                if "n_val" in trial.facts
            ),
            None,
        )
        noise = standard_error(space.search.metric, best.value, n_val)
        bound = possible_improvement(learning, _LEAST_COMPLETED, space.search.seed)
        if bound > noise:
            return ""
        return (
            f"noise: an improvement of at most {bound:.4f} is still possible, and the standard "
            f"error of validation is {noise:.4f}"
        )

    def _time(self) -> str:
        if self._limit is None or self._record.seconds_worked(until=now()) < self._limit:
            return ""
        return f"time: the run has worked for its limit of {clock(self._limit)}"
