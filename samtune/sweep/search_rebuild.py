"""Rebuilding of a search from its record: rungs, studies and interrupted trials."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from sqlite3 import Row
from typing import TYPE_CHECKING

from samtune.record.record import Record
from samtune.record.rows import State, TrialRow
from samtune.sweep.rebuild import Past, rejudge
from samtune.sweep.stages import settle

if TYPE_CHECKING:
    from samtune.sweep.search_stage import SearchStage


def rebuild(stage: SearchStage, record: Record) -> tuple[list[TrialRow], int]:
    """Rebuild the rungs, the studies and the progress of a stage that is new.

    Decisions that a killed process could not record are recorded now.

    Returns:
        The interrupted trials, and the study that proposes next.
    """
    record.end_attempts_of_the_killed()
    trials = {trial.trial: trial for trial in record.trials(stage="search")}
    attempts = [a for a in record.attempts() if a["trial"] in trials]
    attempts.sort(key=lambda attempt: int(attempt["started"]))
    newest = {attempt["trial"]: attempt["attempt"] for attempt in attempts}
    pasts = rejudge(
        record,
        "search",
        lambda report, value: stage.judge(
            trials[report.trial], report.used, trials[report.trial].facts.get("n_val"), value
        ),
        _between_reports(stage, trials, attempts, newest, _paused(record)),
    )
    states: dict[int, State | None] = {}
    waiting, turn = [], 0
    for trial in trials.values():
        past = pasts[trial.trial]
        if past.verdict is not None:
            stage.progress.used[trial.trial] = past.used
        state = settle(record, trial, past, newest.get(trial.trial, 0))
        states[trial.trial] = state
        if state is None:
            waiting.append(trial)
        else:
            stage.progress.count(state, 1)
        turn = trial.study + 1
    stage.progress.ended_before = stage.progress.ended
    # A missing pause has been recorded above.
    _teach(stage, trials, states, attempts, pasts, _paused(record))
    for trial in sorted(record.trials(stage="search"), key=lambda trial: trial.number):
        if states[trial.trial] is None:
            trial = dataclasses.replace(trial, state="running")
        past = pasts[trial.trial]
        stage.journal.add(trial, past.by_epoch(), past.last())
    stage.journal.write()
    return waiting, turn


def _paused(record: Record) -> set[tuple[int, int]]:
    """Return the attempts that ended in a pause, with their trials."""
    return {
        (report.trial, report.attempt)
        for report in record.reports(stage="search")
        if report.decision == "pause"
    }


def _between_reports(
    stage: SearchStage,
    trials: Mapping[int, TrialRow],
    attempts: Sequence[Row],
    newest: Mapping[int, int],
    paused: set[tuple[int, int]],
) -> list[tuple[int, Callable[[], object]]]:
    """Return the events at the rungs other than reports, each with the report before it."""
    happened: list[tuple[int, float, Callable[[], object]]] = []
    for a in attempts:
        rungs = stage.progress.rungs[trials[a["trial"]].study]
        if (a["trial"], a["attempt"] - 1) in paused:
            happened.append((a["after"], a["started_at"], rungs.promoted))
        is_over = trials[a["trial"]].state not in {"running", "cancelled", "paused"}
        is_last = a["attempt"] == newest[a["trial"]] and a["until"] is not None
        # The judgement of its reports already ends a trial that they ended, and a pruned one that
        # had paused.
        if is_over and is_last and a["cause"] not in {"paused", "stopped", "killed", "disk_full"}:
            happened.append((a["until"], a["ended_at"], partial(rungs.ended, a["trial"])))
    happened.sort(key=lambda each: each[:2])
    return [(after, call) for after, _, call in happened]


def _teach(
    stage: SearchStage,
    trials: Mapping[int, TrialRow],
    states: Mapping[int, State | None],
    attempts: Sequence[Row],
    pasts: Mapping[int, Past],
    paused: set[tuple[int, int]],
) -> None:
    """Pass all recorded events to the studies in their original order.

    The proposals of a study depend on that order. `attempts` are in the order of their starts.
    """
    happened: list[tuple[float, int, Callable[[], object]]] = []
    clock, over = -math.inf, dict.fromkeys(trials, -math.inf)
    for a in attempts:
        trial, count = a["trial"], a["attempt"]
        # Even if the clock was set back, no end may come before its start.
        clock = max(clock, a["started_at"], over[trial])
        over[trial] = max(clock, a["ended_at"])
        if count == 0 or (trial, count - 1) in paused:
            happened.append((clock, trial, partial(stage.ask_again, trials[trial])))
        if (trial, count) in paused:
            values = pasts[trial].by_epoch(before=count + 1)
            last = pasts[trial].last(before=count + 1)
            learn = partial(stage.learn, trials[trial], "paused", values, last)
            happened.append((over[trial], trial, learn))
    for trial in trials.keys() - {attempt["trial"] for attempt in attempts}:
        happened.append((math.inf, trial, partial(stage.ask_again, trials[trial])))
    for trial, state in states.items():
        if state is None or state == "paused":
            continue
        row = trials[trial]
        # Events that are recorded only now come last.
        recorded = row.state not in {"running", "cancelled"} and row.ended_at
        at = max(over[trial], recorded or math.inf)
        past = pasts[trial]
        learn = partial(stage.learn, row, state, past.by_epoch(), past.last())
        happened.append((at, trial, learn))
    for _, _, happen in sorted(happened, key=lambda each: each[:2]):
        happen()
