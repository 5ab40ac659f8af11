"""The two stages of a sweep: which trials there are, and what their reports and ends mean.

`Search` lets each space's Optuna study propose and its rungs judge; `Confirm` re-runs the best
configurations on fresh seeds and opens test. Both are made from the record, so a stage that is
resumed stands where it stood: made anew from an empty record, rebuilt from a full one.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from samtune.record.record import Record
from samtune.record.rows import Stage, State, TrialRow, Verdict
from samtune.search.journal import Journal
from samtune.search.proposals import Proposals
from samtune.search.rungs import Rungs, rungs_for, standard_error
from samtune.space.search_space import Fixed, SearchSpace
from samtune.sweep.progress import Best, Progress
from samtune.sweep.rebuild import Past, rejudge
from samtune.trial import Seeds, TrialConfig

# Repeats draw from seeds that no search uses.
_FIRST_BUNDLE = 1_000_000


class StagePlan(Protocol):
    """Which trials a stage has, and what its reports and ends mean."""

    spaces: Sequence[SearchSpace]
    progress: Progress

    def next(self) -> TrialRow | None:
        """The next trial to run, or None when there is none before another one ends."""

    def again(self, trial: TrialRow) -> None:
        """Has `next` answer with a trial once more, before all others."""

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        """Decides on a report that goes further than all before it; `value` is NaN for one that
        has diverged, and was measured on `n_val` samples."""

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        """Learns how a trial ended or paused; `values` are its finite reports by epoch."""

    def finish(self) -> None:
        """Ends what was only waiting; called when nothing runs and nothing can come any more."""


class Search:
    """Trials proposed by one Optuna study a space; the one with the fewest running is next.

    So spaces share the cluster evenly, however long their trials take; equals take turns.

    Interrupted trials go first, then promoted ones, then new ones.
    """

    def __init__(self, record: Record, spaces: Sequence[SearchSpace]) -> None:
        self._record = record
        self.spaces = spaces
        self._journal = Journal(record.folder / "optuna.journal", spaces)
        self._proposals = [Proposals(space) for space in spaces]
        self._waiting: list[TrialRow] = []
        self._paused: dict[int, TrialRow] = {}
        self._turn = 0
        self._running: dict[int, int] = {}
        self.progress = _progress("search", record, spaces)
        self.progress.total = sum(proposals.total for proposals in self._proposals)
        self.progress.rungs = {
            study: rungs_of(space, self._proposals[study].total)
            for study, space in enumerate(spaces)
        }
        self._rebuild()

    def next(self) -> TrialRow | None:
        trial = self._next()
        if trial is not None:
            self._running[trial.trial] = trial.study
        return trial

    def _next(self) -> TrialRow | None:
        if self._waiting:
            return self._waiting.pop(0)
        for rungs in self.progress.rungs.values():
            while (promoted := rungs.promoted()) is not None:
                trial = self._paused.get(promoted)
                if trial is not None:
                    self._ask_again(trial)
                    return trial
        held, count = Counter(self._running.values()), len(self.spaces)
        for study in sorted(range(count), key=lambda k: (held[k], (k - self._turn) % count)):
            proposal = self._proposals[study].ask()
            if proposal is None:
                continue
            self._turn = study + 1
            space = self.spaces[study]
            config = TrialConfig(
                trainable=space.trainable,
                variant=space.variant,
                base=space.base,
                knobs=proposal.knobs,
                task={word: value for word, value in space.task.items() if word != "split_seed"},
                budget=space.trial_budget,
                seeds=Seeds(space.search.seed, space.search.seed, int(space.task["split_seed"])),
                metric=space.search.metric,
                cpus=space.resources.cpus,
                gpus=space.resources.gpus,
                workers=space.resources.workers,
            )
            trial = self._record.add_trial(
                study, "search", proposal.number, proposal.origin, config
            )
            self._journal.add(trial, {})
            return trial
        return None

    def again(self, trial: TrialRow) -> None:
        self._running.pop(trial.trial, None)
        self._waiting.insert(0, trial)

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        error = standard_error(trial.config.metric, value, n_val)
        return self.progress.rungs[trial.study].judge(trial.trial, used, value, error)

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        self._running.pop(trial.trial, None)
        # One that is cancelled goes on when the run is resumed.
        if state != "cancelled":
            if state != "paused":
                self.progress.rungs[trial.study].ended(trial.trial)
            self._learn(trial, state, values)
        if state != "paused":
            self._journal.end(self._record.trial(trial.trial), values)

    def _ask_again(self, trial: TrialRow) -> None:
        self._paused.pop(trial.trial, None)
        self._proposals[trial.study].ask_again(trial.number, trial.config.knobs)

    def _learn(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        self._proposals[trial.study].tell(trial.number, state, values)
        if state == "paused":
            self._paused[trial.trial] = dataclasses.replace(trial, state="paused")
            return
        self._paused.pop(trial.trial, None)
        shutil.rmtree(trial.config.checkpoint_dir or "", ignore_errors=True)
        if state == "completed":
            value = values[max(values)]
            best = self.progress.best.get(trial.study)
            sign = 1 if self.spaces[trial.study].search.mode == "max" else -1
            if best is None or sign * value > sign * best.value:
                free = self.progress.searched[trial.study]
                knobs = {k: v for k, v in trial.config.knobs.items() if k in free}
                self.progress.best[trial.study] = Best(value, trial.number, knobs)

    def finish(self) -> None:
        """Prunes the trials that paused and were never promoted."""
        curves = self._record.curves() if self._paused else {}
        for trial in list(self._paused.values()):
            self._record.end_trial(trial.trial, "pruned", self._record.trial(trial.trial).reason)
            self._journal.end(self._record.trial(trial.trial), curves.get(trial.trial, {}))
            self.progress.count("paused", -1)
            self.progress.count("pruned", 1)
            self._learn(trial, "pruned", {})

    def _rebuild(self) -> None:
        """Brings proposals, rungs and progress to where the record stands.

        What a killed process had not come to say is said now.
        """
        self._record.end_attempts_of_the_killed()
        trials = {trial.trial: trial for trial in self._record.trials(stage="search")}
        attempts = [a for a in self._record.attempts() if a["trial"] in trials]
        attempts.sort(key=lambda attempt: int(attempt["started"]))
        newest = {attempt["trial"]: attempt["attempt"] for attempt in attempts}
        paused = self._have_paused()
        happened = []
        for a in attempts:
            rungs = self.progress.rungs[trials[a["trial"]].study]
            if (a["trial"], a["attempt"] - 1) in paused:
                happened.append((a["after"], a["started_at"], rungs.promoted))
            over = trials[a["trial"]].state not in {"running", "cancelled", "paused"}
            last = a["attempt"] == newest[a["trial"]] and a["until"] is not None
            # What its reports ended is over by their judgement alone, and so are the pruned ones
            # that had paused.
            if over and last and a["cause"] not in {"paused", "stopped", "killed", "disk_full"}:
                happened.append((a["until"], a["ended_at"], partial(rungs.ended, a["trial"])))
        happened.sort(key=lambda each: each[:2])
        pasts = rejudge(
            self._record,
            "search",
            lambda report, value: self.judge(
                trials[report.trial],
                report.used,
                trials[report.trial].facts.get("n_val"),
                value,
            ),
            [(after, call) for after, _, call in happened],
        )
        states: dict[int, State | None] = {}
        for trial in trials.values():
            past = pasts[trial.trial]
            if past.verdict is not None:
                self.progress.used[trial.trial] = past.used
            state = _settle(self._record, trial, past, newest.get(trial.trial, 0))
            states[trial.trial] = state
            if state is None:
                self._waiting.append(trial)
            else:
                self.progress.count(state, 1)
            self._turn = trial.study + 1
        self.progress.ended_before = self.progress.ended
        self._teach_again(trials, states, attempts, pasts)
        for trial in sorted(self._record.trials(stage="search"), key=lambda trial: trial.number):
            if states[trial.trial] is None:
                trial = dataclasses.replace(trial, state="running")
            self._journal.add(trial, pasts[trial.trial].by_epoch())
        self._journal.write()

    def _have_paused(self) -> set[tuple[int, int]]:
        """The attempts that ended in a pause, with their trials."""
        return {(r.trial, r.attempt) for r in self._record.reports() if r.decision == "pause"}

    def _teach_again(
        self,
        trials: Mapping[int, TrialRow],
        states: Mapping[int, State | None],
        attempts: Sequence[sqlite3.Row],
        pasts: Mapping[int, Past],
    ) -> None:
        """Asks and tells the studies all that is on record, in the order in which it happened:
        what they keep of many trials follows from that. `attempts` come as they began.
        """
        paused = self._have_paused()
        happened: list[tuple[float, int, Callable[[], object]]] = []
        clock, over = -math.inf, dict.fromkeys(trials, -math.inf)
        for a in attempts:
            trial, count = a["trial"], a["attempt"]
            # Should the clock have been put back, still no end comes before its beginning.
            clock = max(clock, a["started_at"], over[trial])
            over[trial] = max(clock, a["ended_at"])
            if count == 0 or (trial, count - 1) in paused:
                happened.append((clock, trial, partial(self._ask_again, trials[trial])))
            if (trial, count) in paused:
                values = pasts[trial].by_epoch(before=count + 1)
                learn = partial(self._learn, trials[trial], "paused", values)
                happened.append((over[trial], trial, learn))
        for trial in trials.keys() - {attempt["trial"] for attempt in attempts}:
            happened.append((math.inf, trial, partial(self._ask_again, trials[trial])))
        for trial, state in states.items():
            if state is None or state == "paused":
                continue
            row = trials[trial]
            # What is said only now comes last.
            said = row.state not in {"running", "cancelled"} and row.ended_at
            at = max(over[trial], said or math.inf)
            happened.append((at, trial, partial(self._learn, row, state, pasts[trial].by_epoch())))
        for _, _, happen in sorted(happened, key=lambda each: each[:2]):
            happen()


class Confirm:
    """The best configurations of each study on fresh seeds, the same seeds for every variant.

    A repeat has its own split, initialisation and order. Repeats already in the record are not
    run again, those that were cut short are.
    """

    def __init__(
        self, record: Record, spaces: Sequence[SearchSpace], top: int | None, seeds: int | None
    ) -> None:
        self._record = record
        self.spaces = spaces
        record.end_attempts_of_the_killed()
        # Left behind by a process that was killed: this one holds the lock, so nothing runs.
        for trial in record.trials(stage="search", states={"running"}):
            record.end_trial(trial.trial, "cancelled", "its process was killed")
        pasts = rejudge(record, "confirm", lambda report, value: _unjudged(value))
        newest = {attempt["trial"]: attempt["attempt"] for attempt in record.attempts()}
        repeats = {(t.source, t.bundle): t for t in record.trials(stage="confirm")}
        self._waiting: list[TrialRow | tuple[TrialRow, int, int]] = []
        self._count = len(repeats)
        self.without_winner: list[str] = []
        for study, space in enumerate(spaces):
            winners = ranked(record, study, space.search.mode)[: top or space.confirm.top]
            if not winners:
                self.without_winner.append(space.name)
            for rank, winner in enumerate(winners):
                for bundle in range(seeds or space.confirm.seeds):
                    repeat = repeats.get((winner.trial, bundle))
                    if repeat is None:
                        self._waiting.append((winner, rank, bundle))
                        continue
                    attempt = newest.get(repeat.trial, 0)
                    if _settle(record, repeat, pasts[repeat.trial], attempt) in {None, "error"}:
                        self._waiting.append(repeat)
        self.progress = _progress("confirm", record, spaces)
        self.progress.total = len(self._waiting)

    def next(self) -> TrialRow | None:
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
        self._waiting.insert(0, trial)

    def judge(self, trial: TrialRow, used: float, n_val: float | None, value: float) -> Verdict:
        return _unjudged(value)

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        """Nothing to learn from a repeat: the leaderboard reads it from the record."""

    def finish(self) -> None:
        """No repeat waits for another."""


def searched(space: SearchSpace) -> set[str]:
    """The knobs that differ between trials."""
    free = {name for name, domain in space.knobs.items() if not isinstance(domain, Fixed)}
    return free.union(*space.points)


def rungs_of(space: SearchSpace, trials: int) -> Rungs:
    """The empty rungs of a space of that many trials."""
    limit, search = space.budget.per_trial, space.search
    return rungs_for(space.asha, limit, search.mode, trials, search.seed)


def ranked(record: Record, study: int, mode: str) -> list[TrialRow]:
    """The completed trials of a study, best last value first; the earlier of equals first."""
    last = {report.trial: report.value for report in record.reports()}
    trials = list(record.trials(study=study, stage="search", states={"completed"}))
    return sorted(trials, key=lambda t: -last[t.trial] if mode == "max" else last[t.trial])


def _unjudged(value: float) -> Verdict:
    return Verdict("continue" if math.isfinite(value) else "stop")


def has_work(plan: StagePlan) -> bool:
    """Whether a stage has a trial to run; one that has none is brought to its end."""
    trial = plan.next()
    if trial is None:
        plan.finish()
        return False
    plan.again(trial)
    return True


def _progress(stage: Stage, record: Record, spaces: Sequence[SearchSpace]) -> Progress:
    return Progress(
        stage,
        record.name,
        [space.name for space in spaces],
        0,
        spaces[0].budget.kind,
        spaces[0].search.metric,
        [searched(space) for space in spaces],
    )


def _settle(record: Record, trial: TrialRow, past: Past, attempt: int) -> State | None:
    """The state of a trial, None for one to go on with.

    One that was interrupted after the report that ended it ends now, without being run.
    """
    if trial.state not in {"running", "cancelled"}:
        return trial.state
    end = past.end(trial, attempt)
    if end is None:
        return None
    record.end_trial(trial.trial, end.state, end.reason)
    return end.state
