"""The stage that repeats the best configurations on fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from samtune.record.ranking import winners
from samtune.record.record import Record
from samtune.record.rows import State, TrialRow
from samtune.space.search_space import SearchSpace
from samtune.sweep.fresh_seeds import FreshSeeds

# Repeats draw from seeds that no search uses.
_FIRST_SEED = 1_000_000
# The searches of a study have bundles of their own.
_OF_A_SEARCH = 100


def seed_of(bundle: int) -> int:
    """Return which seed of its search a bundle is, from 0."""
    return bundle % _OF_A_SEARCH


class ConfirmStage(FreshSeeds):
    """The best configurations of each study on fresh seeds.

    A repeat has its own split, initialisation and order. The plan says after how many seeds the
    results are looked at. A look begins when all repeats before it have ended, so a resumed stage
    takes the same decisions as one that was never stopped.

    Attributes:
        without_winner: The names of the spaces that have no completed trial.
    """

    def __init__(
        self,
        record: Record,
        spaces: Sequence[SearchSpace],
        top: int | None,
        looks: Sequence[int],
        added: int = 0,
        decided: Callable[[int], Collection[int]] = lambda seeds: (),
    ) -> None:
        """Rebuild the stage from the record.

        Args:
            record: The run's record.
            spaces: The run's spaces, one per study of the record.
            top: How many configurations per space; None leaves it to the space.
            looks: The plan: increasing numbers of seeds, one for a fixed plan.
            added: The number of seeds to reach outside the plan, once the plan has ended.
            decided: Called between two looks with the number of seeds so far. Returns the studies
                that need no more of them.
        """
        super().__init__("confirm", record, spaces, _FIRST_SEED)
        # These are from a killed process. This process holds the lock, so no other one runs them.
        for trial in record.trials(stage="search", states={"running"}):
            record.end_trial(trial.trial, "cancelled", "its process was killed")
        self._of_earlier_processes = {repeat.trial for repeat in self._runs.values()}
        self._waiting: list[TrialRow | tuple[TrialRow, int, int, str]] = []
        self._running: set[int] = set()
        self.without_winner: list[str] = []
        self._winners: dict[int, list[TrialRow]] = {}
        raced = record.meta("raced") or {}
        for study, space in zip(record.studies(), spaces, strict=True):
            ranked = winners(record, study, most=top or space.confirm.top)
            self._winners[study.study] = [winner for winner, _ in ranked]
            if not ranked and str(study.study) not in raced:
                self.without_winner.append(space.name)
        self._looks, self._added, self._decided = [*looks], added, decided
        self._seeds = 0
        self._open = set(self._winners)
        self._advance()

    def _advance(self) -> None:
        """Go on to the next look that has repeats to run; after the last, to the added seeds."""
        while not self._waiting and not self._running and self._looks:
            if self._seeds:
                self._open -= {*self._decided(self._seeds)}
            look = self._looks.pop(0)
            self._want(self._open, look, "repeat")
            self._seeds = look
        if not self._waiting and not self._running and self._added:
            self._want(self._winners, self._added, "added")
            self._added = 0

    def _want(self, studies: Collection[int], seeds: int, origin: str) -> None:
        """Let the winners of these studies have so many seeds; skip repeats that have ended."""
        for study in sorted(studies):
            first = _OF_A_SEARCH * self.spaces[study].member.search
            for rank, winner in enumerate(self._winners[study]):
                for bundle in range(first, first + seeds):
                    repeat = self._runs.get((winner.trial, bundle))
                    if repeat is None:
                        self._waiting.append((winner, rank, bundle, origin))
                    elif self._is_cut(repeat):
                        self._waiting.append(repeat)
        self.progress.total += len(self._waiting)

    def _is_cut(self, run: TrialRow) -> bool:
        """Return whether a repeat of an earlier process was cut short or failed, once for each."""
        if run.trial not in self._of_earlier_processes:
            return False
        self._of_earlier_processes.remove(run.trial)
        return super()._is_cut(run)

    def next(self) -> TrialRow | None:
        """Return the next repeat, or None while a look waits for others to end."""
        self._advance()
        if not self._waiting:
            return None
        waiting = self._waiting.pop(0)
        trial = waiting if isinstance(waiting, TrialRow) else self._new(*waiting)
        self._running.add(trial.trial)
        return trial

    def _new(self, winner: TrialRow, rank: int, bundle: int, origin: str) -> TrialRow:
        sharpness = rank == 0 and self.spaces[winner.study].confirm.sharpness
        return self._add(winner, rank, bundle, origin, sharpness=sharpness)

    def again(self, trial: TrialRow) -> None:
        """Put a repeat back, so that `next` returns it again."""
        self._running.discard(trial.trial)
        self._waiting.insert(0, trial)

    def ended(
        self,
        trial: TrialRow,
        state: State,
        values: Mapping[int, float],
        last: Mapping[str, float] | None = None,
    ) -> None:
        """Note that a look waits for one repeat less. Its scores are read from the record."""
        self._running.discard(trial.trial)
