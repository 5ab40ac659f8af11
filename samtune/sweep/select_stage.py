"""The stage that chooses the winner of each search: its best trials again on fresh seeds.

The best value of a search flatters its trial, because it is the largest of many noisy values. So
the best few run again on seeds that the search has not seen, and the best mean of these runs wins.
Only validation is used: a run of this stage has no permit to open test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from samtune.record.ranking import ranked
from samtune.record.record import Record
from samtune.record.rows import State, TrialRow, Verdict
from samtune.space.search_space import SearchSpace
from samtune.sweep.rebuild import rejudge
from samtune.sweep.stages import settle, stage_progress, unjudged
from samtune.trial import Seeds

# The seeds of this stage: neither a search nor a confirmation draws from them.
_FIRST_SEED = 2_000_000
_SEEDS = 1_000_000


class SelectStage:
    """The best trials of each search on fresh seeds, which are the same for every variant.

    Runs that are on record are not run again, unless they were cut short or failed.

    Args:
        record: The run's record.
        spaces: The run's spaces, one per study of the record.
    """

    def __init__(self, record: Record, spaces: Sequence[SearchSpace]) -> None:
        self._record = record
        self.spaces = spaces
        record.end_attempts_of_the_killed()
        pasts = rejudge(record, "select", lambda report, value: unjudged(value))
        newest = {attempt["trial"]: attempt["attempt"] for attempt in record.attempts()}
        runs = {(t.source, t.bundle): t for t in record.trials(stage="select")}
        self._waiting: list[TrialRow | tuple[TrialRow, int, int]] = []
        self._count = len(runs)
        for study, space in zip(record.studies(), spaces, strict=True):
            candidates = ranked(record, study, most=space.select.top)
            if not space.select.takes_place(study.settings["trials"], len(candidates)):
                continue
            for rank, (candidate, _) in enumerate(candidates):
                for seed in range(space.select.seeds):
                    bundle = (1000 * space.search.seed + seed) % _SEEDS
                    run = runs.get((candidate.trial, bundle))
                    if run is None:
                        self._waiting.append((candidate, rank, bundle))
                        continue
                    attempt = newest.get(run.trial, 0)
                    if settle(record, run, pasts[run.trial], attempt) in {None, "error"}:
                        self._waiting.append(run)
        self.progress = stage_progress("select", record, spaces)
        self.progress.total = len(self._waiting)

    def next(self) -> TrialRow | None:
        """Return the next run."""
        if not self._waiting:
            return None
        waiting = self._waiting.pop(0)
        if isinstance(waiting, TrialRow):
            return waiting
        candidate, rank, bundle = waiting
        self._count += 1
        seed = _FIRST_SEED + bundle
        config = dataclasses.replace(candidate.config, seeds=Seeds(seed, seed, seed))
        return self._record.add_trial(
            candidate.study,
            "select",
            self._count,
            "select",
            config,
            source=candidate.trial,
            rank=rank,
            bundle=bundle,
        )

    def again(self, trial: TrialRow) -> None:
        """Put a run back, so that `next` returns it again."""
        self._waiting.insert(0, trial)

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        """Let every run continue that has not diverged."""
        return unjudged(value)

    def ended(
        self,
        trial: TrialRow,
        state: State,
        values: Mapping[int, float],
        last: Mapping[str, float] | None = None,
    ) -> None:
        """Do nothing: the winners are read from the record."""

    def finish(self) -> None:
        """Do nothing: no run waits for another."""
