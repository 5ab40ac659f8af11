"""The stage that searches: trials proposed by the studies of the spaces, judged by their rungs."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from samtune.record.record import Record
from samtune.record.rows import State, TrialRow, Verdict
from samtune.search.journal import Journal
from samtune.search.proposals import Proposals
from samtune.search.rungs import standard_error
from samtune.space.search_space import SearchSpace
from samtune.sweep.ends import Ends
from samtune.sweep.progress import Best
from samtune.sweep.search_rebuild import rebuild
from samtune.sweep.stages import rungs_of, stage_progress
from samtune.trial import Seeds, TrialConfig, Value


class SearchStage:
    """Trials proposed by one Optuna study per space.

    The space with the fewest running trials is next, so spaces share the cluster evenly, however
    long their trials take. Equals take turns. The first searches of a study come before its second
    ones. Interrupted trials go first, then promoted ones, then new ones. A search may end before
    its last trial; see `ends`.
    """

    def __init__(
        self,
        record: Record,
        spaces: Sequence[SearchSpace],
        proposals: Sequence[Proposals] | None = None,
        active: Collection[int] | None = None,
    ) -> None:
        """Rebuild proposals, rungs and progress from the record.

        Args:
            record: The run's record.
            spaces: The run's spaces, one per study of the record.
            proposals: The proposals of each space, none of them used so far.
            active: The spaces that propose new trials; None for all.
        """
        self.spaces = spaces
        self._active = set(range(len(spaces)) if active is None else active)
        self.proposals = proposals or [Proposals(space) for space in spaces]
        self._record = record
        self.journal = Journal(record.folder / "optuna.journal", spaces)
        self._paused: dict[int, TrialRow] = {}
        self._running: dict[int, int] = {}
        self.progress = stage_progress("search", record, spaces)
        self.progress.rungs = {
            study: rungs_of(space, self.proposals[study].total)
            for study, space in enumerate(spaces)
        }
        self._ends = Ends(record, spaces, self.proposals, self.progress)
        self._waiting, self._turn = rebuild(self, record)
        self.progress.total = sum(
            each.total if study in self._active else each.asked
            for study, each in enumerate(self.proposals)
        )

    def next(self) -> TrialRow | None:
        """Return the next trial, or None while there is none before another one ends."""
        trial = self._waiting.pop(0) if self._waiting else self._promoted() or self._proposed()
        if trial is not None:
            self._running[trial.trial] = trial.study
        return trial

    def _promoted(self) -> TrialRow | None:
        """Return a paused trial that has a place at its rung now."""
        for rungs in self.progress.rungs.values():
            while (promoted := rungs.promoted()) is not None:
                trial = self._paused.get(promoted)
                if trial is not None:
                    self.ask_again(trial)
                    return trial
        return None

    def _proposed(self) -> TrialRow | None:
        """Return a new trial of the space that proposes next."""
        held, count = Counter(self._running.values()), len(self.spaces)
        for study in sorted(
            self._active,
            key=lambda k: (self.spaces[k].member.search, held[k], (k - self._turn) % count),
        ):
            if self.proposals[study].is_over or not self._ends.has_room(study, self._on(study)):
                continue
            proposal = self.proposals[study].ask()
            assert proposal is not None, "a search that is not over has a proposal"
            self._turn = study + 1
            config = _config(self.spaces[study], proposal.knobs)
            trial = self._record.add_trial(
                study, "search", proposal.number, proposal.origin, config
            )
            self.journal.add(trial, {}, {})
            return trial
        return None

    def _on(self, study: int) -> list[int]:
        """Return the running trials of a study."""
        return [trial for trial, own in self._running.items() if own == study]

    def again(self, trial: TrialRow) -> None:
        """Put a trial back, so that `next` returns it before all others."""
        self._running.pop(trial.trial, None)
        self._waiting.insert(0, trial)

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        """Decide on a report by the rungs of its space."""
        error = standard_error(trial.config.metric, value, n_val)
        return self.progress.rungs[trial.study].judge(trial.trial, used, value, error)

    def ended(
        self,
        trial: TrialRow,
        state: State,
        values: Mapping[int, float],
        last: Mapping[str, float] | None = None,
    ) -> None:
        """Record how a trial ended or paused. A cancelled one continues in a resumed run."""
        self._running.pop(trial.trial, None)
        if state != "cancelled":
            if state != "paused":
                self.progress.rungs[trial.study].ended(trial.trial)
            self.learn(trial, state, values, last or {})
        if state != "paused":
            self.journal.end(self._record.trial(trial.trial), values, last or {})

    def ask_again(self, trial: TrialRow) -> None:
        """Register a trial of the record, or a paused one, with its study as running."""
        self._paused.pop(trial.trial, None)
        self.proposals[trial.study].ask_again(trial.number, trial.config.knobs)

    def learn(
        self,
        trial: TrialRow,
        state: State,
        values: Mapping[int, float],
        last: Mapping[str, float],
    ) -> None:
        """Pass the end or the pause of a trial to its study."""
        self.proposals[trial.study].tell(trial.number, state, values, last)
        if state == "paused":
            self._paused[trial.trial] = dataclasses.replace(trial, state="paused")
            return
        self._paused.pop(trial.trial, None)
        shutil.rmtree(trial.config.checkpoint_dir or "", ignore_errors=True)
        if state == "completed" and self.spaces[trial.study].search.aims.keeps(last):
            self._compare(trial, values[max(values)])

    def _compare(self, trial: TrialRow, value: float) -> None:
        """Keep the best value at a full budget, for the display and a target."""
        best = self.progress.best.get(trial.study)
        sign = 1 if self.spaces[trial.study].search.mode == "max" else -1
        if best is None or sign * value > sign * best.value:
            free = self.progress.searched[trial.study]
            knobs = {k: v for k, v in trial.config.knobs.items() if k in free}
            self.progress.best[trial.study] = Best(value, trial.number, knobs)

    def finish(self) -> None:
        """Prune the trials that paused and were never promoted."""
        curves = self._record.curves() if self._paused else {}
        ends = self._record.last_metrics() if self._paused else {}
        for trial in list(self._paused.values()):
            last = ends.get(trial.trial, {})
            self._record.end_trial(trial.trial, "pruned", self._record.trial(trial.trial).reason)
            self.journal.end(self._record.trial(trial.trial), curves.get(trial.trial, {}), last)
            self.progress.count("paused", -1)
            self.progress.count("pruned", 1)
            self.learn(trial, "pruned", {}, last)


def _config(space: SearchSpace, knobs: Mapping[str, Value]) -> TrialConfig:
    """Return the configuration of a trial with these knobs."""
    return TrialConfig(
        trainable=space.trainable,
        variant=space.variant,
        base=space.base,
        knobs=knobs,
        task=space.trial_task,
        budget=space.trial_budget,
        seeds=Seeds(space.search.seed, space.search.seed, int(space.task["split_seed"])),
        metric=space.search.metric,
        aims=space.search.aims.reported,
        cpus=space.resources.cpus,
        gpus=space.resources.gpus,
        workers=space.resources.workers,
    )
