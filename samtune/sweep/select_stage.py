"""The stage that chooses the winner of each search: its best trials again on fresh seeds.

The best value of a search flatters its trial, because it is the largest of many noisy values. So
the best few run again on seeds that the search has not seen, and the best mean of these runs wins.
Only validation is used: a run of this stage has no permit to open test.
"""

from __future__ import annotations

from collections.abc import Sequence

from samtune.record.ranking import ranked
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.space.search_space import SearchSpace
from samtune.sweep.fresh_seeds import FreshSeeds

# The seeds of this stage: neither a search nor a confirmation draws from them.
_FIRST_SEED = 2_000_000
_SEEDS = 1_000_000


class SelectStage(FreshSeeds):
    """The best trials of each search on fresh seeds.

    Args:
        record: The run's record.
        spaces: The run's spaces, one per study of the record.
    """

    def __init__(self, record: Record, spaces: Sequence[SearchSpace]) -> None:
        super().__init__("select", record, spaces, _FIRST_SEED)
        self._waiting: list[TrialRow | tuple[TrialRow, int, int]] = []
        for study, space in zip(record.studies(), spaces, strict=True):
            candidates = ranked(record, study, most=space.select.top)
            if not space.select.takes_place(study.settings["trials"], len(candidates)):
                continue
            for rank, (candidate, _) in enumerate(candidates):
                for seed in range(space.select.seeds):
                    bundle = (1000 * space.search.seed + seed) % _SEEDS
                    run = self._runs.get((candidate.trial, bundle))
                    if run is None:
                        self._waiting.append((candidate, rank, bundle))
                    elif self._is_cut(run):
                        self._waiting.append(run)
        self.progress.total = len(self._waiting)

    def next(self) -> TrialRow | None:
        """Return the next run."""
        if not self._waiting:
            return None
        waiting = self._waiting.pop(0)
        return waiting if isinstance(waiting, TrialRow) else self._add(*waiting, "select")

    def again(self, trial: TrialRow) -> None:
        """Put a run back, so that `next` returns it again."""
        self._waiting.insert(0, trial)
