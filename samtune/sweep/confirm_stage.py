"""The stage that repeats the best configurations on fresh seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from samtune.record.record import Record
from samtune.record.rows import State, TrialRow, Verdict
from samtune.space.search_space import SearchSpace
from samtune.sweep.rebuild import rejudge
from samtune.sweep.stages import settle, stage_progress, unjudged
from samtune.trial import Seeds

# Repeats draw from seeds that no search uses.
_FIRST_BUNDLE = 1_000_000
# The searches of a study have bundles of their own.
_OF_A_SEARCH = 100


class ConfirmStage:
    """The best configurations of each study on fresh seeds, the same seeds for every variant.

    A repeat has its own split, initialisation and order. Repeats already on record are not run
    again, unless they were cut short or failed.

    Attributes:
        without_winner: The names of the spaces that have no completed trial.
    """

    def __init__(
        self, record: Record, spaces: Sequence[SearchSpace], top: int | None, seeds: int | None
    ) -> None:
        self._record = record
        self.spaces = spaces
        record.end_attempts_of_the_killed()
        # These are from a killed process. This process holds the lock, so no other one runs them.
        for trial in record.trials(stage="search", states={"running"}):
            record.end_trial(trial.trial, "cancelled", "its process was killed")
        pasts = rejudge(record, "confirm", lambda report, value: unjudged(value))
        newest = {attempt["trial"]: attempt["attempt"] for attempt in record.attempts()}
        repeats = {(t.source, t.bundle): t for t in record.trials(stage="confirm")}
        self._waiting: list[TrialRow | tuple[TrialRow, int, int]] = []
        self._count = len(repeats)
        self.without_winner: list[str] = []
        for study, space in zip(record.studies(), spaces, strict=True):
            winners = record.winners(study, most=top or space.confirm.top)
            if not winners:
                self.without_winner.append(space.name)
            for rank, (winner, _) in enumerate(winners):
                first = _OF_A_SEARCH * space.member.search
                for bundle in range(first, first + (seeds or space.confirm.seeds)):
                    repeat = repeats.get((winner.trial, bundle))
                    if repeat is None:
                        self._waiting.append((winner, rank, bundle))
                        continue
                    attempt = newest.get(repeat.trial, 0)
                    if settle(record, repeat, pasts[repeat.trial], attempt) in {None, "error"}:
                        self._waiting.append(repeat)
        self.progress = stage_progress("confirm", record, spaces)
        self.progress.total = len(self._waiting)

    def next(self) -> TrialRow | None:
        """Return the next repeat."""
        if not self._waiting:
            return None
        waiting = self._waiting.pop(0)
        if isinstance(waiting, TrialRow):
            return waiting
        winner, rank, bundle = waiting
        self._count += 1
        seed = _FIRST_BUNDLE + bundle
        config = dataclasses.replace(winner.config, seeds=Seeds(seed, seed, seed))
        return self._record.add_trial(
            winner.study,
            "confirm",
            self._count,
            "repeat",
            config,
            source=winner.trial,
            rank=rank,
            bundle=bundle,
        )

    def again(self, trial: TrialRow) -> None:
        """Put a repeat back, so that `next` returns it again."""
        self._waiting.insert(0, trial)

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        """Let every repeat continue that has not diverged."""
        return unjudged(value)

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        """Do nothing: the leaderboard reads the repeats from the record."""

    def finish(self) -> None:
        """Do nothing: no repeat waits for another."""
