"""The base of the stages that run trials of a search again on fresh seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from samtune.record.record import Record
from samtune.record.rows import Stage, State, TrialRow, Verdict
from samtune.space.search_space import SearchSpace
from samtune.sweep.rebuild import rejudge
from samtune.sweep.stages import settle, stage_progress, unjudged
from samtune.trial import Seeds


class FreshSeeds:
    """A stage that runs trials of each search again, on seeds that are the same for all variants.

    Runs that are on record are not run again, unless they were cut short or failed. No run waits
    for another, and each continues until it diverges.

    Args:
        stage: The stage.
        record: The run's record.
        spaces: The run's spaces, one per study of the record.
        first_seed: The seed of bundle 0. No search draws from the seeds of this stage.
    """

    def __init__(
        self, stage: Stage, record: Record, spaces: Sequence[SearchSpace], first_seed: int
    ) -> None:
        record.end_attempts_of_the_killed()
        self.spaces = spaces
        self.progress = stage_progress(stage, record, spaces)
        self._stage, self._record, self._first_seed = stage, record, first_seed
        self._pasts = rejudge(record, stage, lambda report, value: unjudged(value))
        self._newest = {attempt["trial"]: attempt["attempt"] for attempt in record.attempts()}
        self._runs = {(t.source, t.bundle): t for t in record.trials(stage=stage)}

    def _is_cut(self, run: TrialRow) -> bool:
        """Return whether a run of an earlier process was cut short or failed."""
        attempt = self._newest.get(run.trial, 0)
        return settle(self._record, run, self._pasts[run.trial], attempt) in {None, "error"}

    def _add(
        self, source: TrialRow, rank: int, bundle: int, origin: str, **changes: Any
    ) -> TrialRow:
        """Put a new run of a trial on record; its configuration has these changes."""
        seed = self._first_seed + bundle
        config = dataclasses.replace(source.config, seeds=Seeds(seed, seed, seed), **changes)
        run = self._runs[source.trial, bundle] = self._record.add_trial(
            source.study,
            self._stage,
            len(self._runs) + 1,
            origin,
            config,
            source=source.trial,
            rank=rank,
            bundle=bundle,
        )
        return run

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
        """Do nothing: the scores are read from the record."""

    def finish(self) -> None:
        """Do nothing: no run waits for another."""
