"""From spaces to finished trials: Ray Tune runs them, the record keeps what they did.

A stage says which trials there are and judges their reports. `Search` lets each space's Optuna
study propose and its rungs stop; `Confirm` re-runs the best configurations on fresh seeds and
opens test. `run_stage` drives either.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from ray import tune
from ray.tune.experiment import Trial

from samtune.asha import RungScheduler
from samtune.cluster import Cluster, run_trial
from samtune.live import knob_list
from samtune.record import Record, Stage, State, TrialRow
from samtune.rungs import Rungs, Verdict, rungs_for
from samtune.search import Proposals, ProposalSearcher
from samtune.space import Fixed, SearchSpace
from samtune.trial import Seeds, TrialConfig

# What Ray may take to end its trials after a first signal; it can hang when it was hit as well.
_GRACE_S = 20.0
# Repeats draw from seeds that no search uses.
_FIRST_BUNDLE = 1_000_000
# A mistake that fails every trial should not be paid for by every trial.
_MOST_ERRORS_IN_A_ROW = 5


class Stop:
    """A request to stop: the first signal ends the stage cleanly, the second the process.

    A stage that has not ended some time after the first is given up by `at_deadline`.

    `gave_up` tells a stop for too many errors from one that somebody asked for.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.gave_up = False

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        self._event.set()

    @contextmanager
    def on_signals(self, at_deadline: Callable[[], None]) -> Iterator[None]:
        """Listens to Ctrl-C, SIGTERM and SIGHUP inside the block."""
        # A thread, because the main one may get stuck in Ray's calls when Ray was hit as well.
        deadline = threading.Timer(_GRACE_S, at_deadline)
        deadline.daemon = True

        def handle(number: int, frame: FrameType | None) -> None:
            if self.requested:
                os._exit(130)
            self.request()
            deadline.start()

        # What nohup or a shell's `&` has told us to ignore stays ignored.
        wanted = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = [signal.signal(number, handle) for number in wanted]
        try:
            yield
        finally:
            deadline.cancel()
            for number, handler in zip(wanted, before, strict=True):
                signal.signal(number, handler)


@dataclass(frozen=True)
class Best:
    """The best value at a full budget so far."""

    value: float
    trial: int
    knobs: Mapping[str, Any]


@dataclass
class Progress:
    """A stage as it stands, for whoever shows it; all of it also stands in the record."""

    stage: Stage
    run: str
    studies: list[str]
    total: int
    kind: str
    metric: str
    searched: list[set[str]]
    states: dict[State, int] = field(default_factory=dict)
    used: dict[int, float] = field(default_factory=dict)
    best: dict[int, Best] = field(default_factory=dict)
    rungs: dict[int, Rungs] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.states.items() if state != "running")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """By the mean pace so far; None before the first trial has ended."""
        return self.seconds / self.ended * (self.total - self.ended) if self.ended else None


class View(Protocol):
    """What shows a stage while it runs."""

    def event(self, text: str) -> None: ...

    def refresh(self, progress: Progress) -> None: ...


class StagePlan(Protocol):
    """Which trials a stage has, and what its reports and ends mean."""

    progress: Progress

    def next(self) -> TrialRow | None: ...

    def judge(self, trial: TrialRow, used: float, value: float) -> Verdict: ...

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None: ...


class Search:
    """Trials proposed by one Optuna study a space, in turn, so that spaces share the cluster."""

    def __init__(self, record: Record, spaces: Sequence[SearchSpace]) -> None:
        self._record = record
        self._spaces = spaces
        self._proposals = [
            Proposals(space, mirror=record.folder / "optuna.journal") for space in spaces
        ]
        self._turn = 0
        self.progress = Progress(
            "search",
            record.name,
            [space.name for space in spaces],
            sum(proposals.total for proposals in self._proposals),
            spaces[0].budget.kind,
            spaces[0].search.metric,
            [searched(space) for space in spaces],
            rungs={
                study: rungs_of(space, self._proposals[study].total)
                for study, space in enumerate(spaces)
            },
        )

    def next(self) -> TrialRow | None:
        for _ in self._spaces:
            study = self._turn % len(self._spaces)
            self._turn += 1
            proposal = self._proposals[study].ask()
            if proposal is None:
                continue
            space = self._spaces[study]
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
            )
            return self._record.add_trial(
                study, "search", proposal.number, proposal.origin, config
            )
        return None

    def judge(self, trial: TrialRow, used: float, value: float) -> Verdict:
        return self.progress.rungs[trial.study].judge(trial.trial, used, value)

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        self._proposals[trial.study].tell(trial.number, state, values)
        if state != "cancelled":
            shutil.rmtree(trial.config.checkpoint_dir or "", ignore_errors=True)
        if state == "completed":
            value = values[max(values)]
            best = self.progress.best.get(trial.study)
            sign = 1 if self._spaces[trial.study].search.mode == "max" else -1
            if best is None or sign * value > sign * best.value:
                free = self.progress.searched[trial.study]
                knobs = {k: v for k, v in trial.config.knobs.items() if k in free}
                self.progress.best[trial.study] = Best(value, trial.number, knobs)


class Confirm:
    """The best configurations of each study on fresh seeds, the same seeds for every variant.

    A repeat has its own split, initialisation and order. Repeats already in the record are not
    run again, those that were cut short are.
    """

    def __init__(
        self, record: Record, spaces: Sequence[SearchSpace], top: int | None, seeds: int | None
    ) -> None:
        self._record = record
        repeats = {(t.source, t.bundle): t for t in record.trials("stage = 'confirm'")}
        # Left behind by a process that was killed: this one holds the lock, so nothing runs.
        for trial in record.trials("stage = 'search' AND state = 'running'"):
            record.end_trial(trial.trial, "cancelled", "its process was killed")
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
                    elif repeat.state in {"running", "cancelled", "error"}:
                        self._waiting.append(repeat)
        self.progress = Progress(
            "confirm",
            record.name,
            [space.name for space in spaces],
            len(self._waiting),
            spaces[0].budget.kind,
            spaces[0].search.metric,
            [searched(space) for space in spaces],
        )

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

    def judge(self, trial: TrialRow, used: float, value: float) -> Verdict:
        return Verdict("continue" if math.isfinite(value) else "stop")

    def ended(self, trial: TrialRow, state: State, values: Mapping[int, float]) -> None:
        """Nothing to learn from a repeat: the leaderboard reads it from the record."""


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
    trials = list(record.trials("study = ? AND stage = 'search' AND state = 'completed'", study))
    return sorted(trials, key=lambda t: -last[t.trial] if mode == "max" else last[t.trial])


def run_stage(plan: StagePlan, record: Record, on: Cluster, view: View, stop: Stop) -> Progress:
    """Runs a stage to its end or to a request to stop; the caller holds the record's lock."""
    if plan.progress.total == 0:
        return plan.progress
    driver = _Driver(plan, record, view, stop)
    record.add_event(f"{plan.progress.stage} started", f"{on.slots} slots")
    try:
        tune.Tuner(
            tune.with_resources(run_trial, {"cpu": on.cpus, "gpu": on.gpus}),
            tune_config=tune.TuneConfig(
                num_samples=plan.progress.total,
                max_concurrent_trials=on.slots,
                reuse_actors=True,
                search_alg=ProposalSearcher(driver.propose, driver.ended),
                scheduler=RungScheduler(driver.reported, driver.failed),
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name=plan.progress.stage,
                storage_path=str(on.scratch / "tune"),
                verbose=0,
                callbacks=[_OnStep(driver)],
                stop=_StopAll(stop),
            ),
        ).fit()
    finally:
        driver.close()
        record.add_event(
            f"{plan.progress.stage} {'stopped' if stop.requested else 'ended'}",
            json.dumps(plan.progress.states),
        )
    return plan.progress


def _folder_name(trial: Trial) -> str:
    return str(trial.trial_id)


class _Driver:
    """Between Ray Tune and the record: proposes, commits reports, judges them, ends trials."""

    def __init__(self, plan: StagePlan, record: Record, view: View, stop: Stop) -> None:
        self._plan = plan
        self._record = record
        self._view = view
        self._stop = stop
        self._live: dict[str, _Live] = {}
        self._errors_in_a_row = 0

    # Ray pickles its scheduler, searcher and callbacks for a restore that samtune never asks for.
    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()

    def propose(self, trial_id: str) -> dict[str, Any] | None:
        trial = None if self._stop.requested else self._plan.next()
        if trial is None:
            return None
        attempt, permit = self._record.start_attempt(trial)
        config = dataclasses.replace(trial.config, test_permit=permit)
        self._live[trial_id] = _Live(trial, attempt)
        self._count("running", 1)
        # Ours is importable where samtune is; a user's own may stand beside the user.
        own = trial.config.trainable.startswith("trainables.")
        return {"trial": config.to_dict(), "path": [] if own else [os.getcwd()]}

    def reported(self, tune_trial: Trial, result: Mapping[str, Any]) -> Verdict:
        live = self._live[tune_trial.trial_id]
        if "error" in result:
            live.outcome = ("error", " ".join(str(result["error"]).split()))
            self._record.add_event("error", str(result["traceback"]), live.trial.trial)
            return Verdict("stop")
        report = json.loads(result["report"])
        metric = live.trial.config.metric
        seq = self._record.add_report(live.trial.trial, live.attempt, report, metric)
        value, loss = report["metrics"][metric], report["metrics"].get("train_loss", 0.0)
        if math.isfinite(value) and math.isfinite(loss):
            verdict = self._plan.judge(live.trial, report["used"], value)
            live.values[report["epoch"]] = value
        else:
            verdict = Verdict("stop")
        self._record.add_decision(seq, verdict)
        self._plan.progress.used[live.trial.trial] = report["used"]
        budget = live.trial.config.budget.per_trial
        live.used = report["used"]
        if verdict.decision == "stop":
            live.outcome = _stopped(report, verdict, metric)
        elif live.used >= budget * (1 - 1e-9):
            # Most trainables end here by themselves; none gets more than the others.
            live.outcome = ("completed", None)
            return Verdict("stop")
        return verdict

    def failed(self, tune_trial: Trial) -> None:
        """The worker died, or could not be started: nobody reported why."""
        live = self._live.get(tune_trial.trial_id)
        if live is not None and live.outcome is None:
            lines = str(tune_trial.get_error() or "the worker died").strip().splitlines()
            live.outcome = ("error", lines[-1])

    def ended(self, trial_id: str, result: Mapping[str, Any] | None, error: bool) -> None:
        live = self._live.pop(trial_id)
        returned = bool(result and result.get("done"))
        if live.outcome is not None:
            state, reason = live.outcome
        elif error:
            state, reason = "error", "the worker died"
        elif returned and live.values:
            budget = live.trial.config.budget
            state, reason = "completed", f"returned at {live.used:g} of {budget.per_trial:g}"
        elif returned:
            state, reason = "error", "the trainable returned without a report"
        else:
            state, reason = "cancelled", "stopped on request"
        self._end(live, state, reason)

    def close(self) -> None:
        """Trials that Ray never ended, because it was stopped first or failed itself."""
        why = "stopped on request" if self._stop.requested else "the sweep itself failed"
        for trial_id in list(self._live):
            self._end(self._live.pop(trial_id), "cancelled", why)

    def refresh(self) -> None:
        self._view.refresh(self._plan.progress)

    def _end(self, live: _Live, state: State, reason: str | None) -> None:
        wall_s = time.monotonic() - live.started
        self._record.end_trial(live.trial.trial, state, reason, wall_s)
        self._plan.ended(live.trial, state, live.values)
        self._count("running", -1)
        self._count(state, 1)
        self._view.event(_sentence(live, state, reason, self._plan.progress))
        self._errors_in_a_row = self._errors_in_a_row + 1 if state == "error" else 0
        if self._errors_in_a_row == _MOST_ERRORS_IN_A_ROW and not self._stop.requested:
            self._view.event(
                f"{_MOST_ERRORS_IN_A_ROW} trials failed in a row; no more are started"
            )
            self._record.add_event("gave up", f"{_MOST_ERRORS_IN_A_ROW} errors in a row")
            self._stop.gave_up = True
            self._stop.request()

    def _count(self, state: State, by: int) -> None:
        states = self._plan.progress.states
        states[state] = states.get(state, 0) + by


@dataclass
class _Live:
    trial: TrialRow
    attempt: int
    values: dict[int, float] = field(default_factory=dict)
    used: float = 0.0
    outcome: tuple[State, str | None] | None = None
    started: float = field(default_factory=time.monotonic)


class _StopAll(tune.Stopper):
    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.requested

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _OnStep(tune.Callback):
    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._driver.refresh()


def _stopped(report: Mapping[str, Any], verdict: Verdict, metric: str) -> tuple[State, str]:
    if verdict.milestone is None:
        return "diverged", f"non-finite {metric} or training loss at epoch {report['epoch']}"
    value = report["metrics"][metric]
    return "pruned", f"{metric} {value:.4f} at rung {verdict.rung}, cutoff {verdict.cutoff:.4f}"


def _sentence(live: _Live, state: State, reason: str | None, progress: Progress) -> str:
    trial = live.trial
    space = progress.studies[trial.study]
    if trial.bundle is None:
        free = progress.searched[trial.study]
        told = knob_list({k: v for k, v in trial.config.knobs.items() if k in free})
        name = f"{space} trial {trial.number}"
    else:
        rank = f" of #{trial.rank + 1}" if trial.rank else ""
        name, told = f"{space} repeat {trial.bundle + 1}{rank}", ""
    last = f"{progress.metric} {live.values[max(live.values)]:.4f}" if live.values else ""
    why = reason or "" if state in {"error", "diverged"} else ""
    parts = [f"[{progress.ended}/{progress.total}] {name}", state, last, told, why]
    return "  ".join(part for part in parts if part)
