"""What became of each trial of a run: the list, and one of them in full."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import Stage, StudyRow, TrialRow
from samtune.views.status import label

BARS = "▁▂▃▄▅▆▇█"


def trials_of(
    record: Record, space: str | None = None, state: str | None = None
) -> list[dict[str, Any]]:
    """One row a trial, in the order proposed; its value, rung and use as of its last report.

    `trial` is what `samtune show` takes: the number within the space, `r` before a repeat's.
    Raises RunError (exit code 2) for a space that the run has not.
    """
    studies = record.studies()
    wanted = {study_called(record, space).study} if space else {s.study for s in studies}
    rungs, attempts, last = record.rungs_reached(), record.attempt_counts(), record.last_reports()
    never = (None, 0.0, 0)
    return [
        {
            "space": studies[trial.study].name,
            "trial": label(trial.stage, trial.number),
            "stage": trial.stage,
            "state": trial.state,
            "value": value,
            "rung": rungs.get(trial.trial),
            "used": used,
            "epoch": epoch,
            "knobs": dict(trial.config.knobs),
            "searched": studies[trial.study].settings["searched"],
            "attempts": attempts.get(trial.trial, (0, 0.0))[0],
            "origin": trial.origin,
            "reason": trial.reason,
        }
        for trial in record.trials()
        for value, used, epoch in [last.get(trial.trial, never)]
        if trial.study in wanted and (state is None or trial.state == state)
    ]


def sorted_trials(
    trials: Sequence[dict[str, Any]], by: str, mode: str = "max"
) -> list[dict[str, Any]]:
    """By a column, what has no value last: `value` best first, `state` in alphabetical order,
    the others largest first."""
    if by == "state":
        return sorted(trials, key=lambda trial: str(trial["state"]))
    sign = 1 if by == "value" and mode == "min" else -1
    return sorted(trials, key=lambda t: math.inf if t[by] is None else sign * t[by])


def trial_of(record: Record, reference: str) -> dict[str, Any]:
    """All that the record holds of one trial: `5`, `sam:5` where several spaces have a trial 5,
    `r2` for repeat 2.

    Raises RunError (exit code 2) when there is no such trial, or more than one.
    """
    study, trial = _found(record, reference)
    events = record.events(trial=trial.trial)
    config = trial.config
    return {
        "run": record.name,
        "space": study.name,
        "trial": label(trial.stage, trial.number),
        "stage": trial.stage,
        "state": trial.state,
        "reason": trial.reason,
        "origin": trial.origin,
        "variant": config.variant,
        "base": config.base,
        "metric": config.metric,
        "knobs": dict(config.knobs),
        "searched": study.settings["searched"],
        "task": dict(config.task),
        "budget": {"kind": config.budget.kind, "per_trial": config.budget.per_trial},
        "seeds": config.to_dict()["seeds"],
        "facts": trial.facts,
        "proposed_at": trial.proposed_at,
        "ended_at": trial.ended_at,
        "attempts": [dict(attempt) for attempt in record.attempts(trial=trial.trial)],
        "events": [{k: event[k] for k in ("at", "kind", "detail")} for event in events],
        "curve": [
            {
                "epoch": report.epoch,
                "attempt": report.attempt,
                "used": report.used,
                "value": report.value if math.isfinite(report.value) else None,
                "decision": report.decision,
                "rung": report.rung,
                "cutoff": report.cutoff,
                "metrics": {
                    name: value if math.isfinite(value) else None
                    for name, value in report.metrics.items()
                },
            }
            for report in record.reports(trial=trial.trial)
        ],
    }


def study_called(record: Record, space: str) -> StudyRow:
    """The study of a space. Raises RunError (exit code 2) when the run has none."""
    studies = {study.name: study for study in record.studies()}
    if space not in studies:
        raise RunError(
            f"run {record.name!r} has no space {space!r}; {_nearest(space, list(studies))}",
            exit_code=2,
        )
    return studies[space]


def sparkline(values: Sequence[float | None], width: int, bars: str = BARS) -> str:
    """The values as bars between their least and their greatest; `x` where one is not finite.

    More values than `width` are thinned out evenly, and the last one is always shown.
    """
    if len(values) > width:
        values = [values[-1 - round(k * (len(values) - 1) / (width - 1))] for k in range(width)]
        values = values[::-1]
    finite = [value for value in values if value is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join("x" if v is None else bars[round((v - low) * scale)] for v in values)


def _found(record: Record, reference: str) -> tuple[StudyRow, TrialRow]:
    parts = re.fullmatch(r"(?:(.+):)?(r?)(\d{1,9})", reference)
    if parts is None:
        raise RunError(
            f"{reference!r} names no trial; write its number (5), with its space where there are "
            "several (sam:5), or r2 for repeat 2; `samtune trials` lists them",
            exit_code=2,
        )
    space, repeat, digits = parts.groups()
    stage: Stage = "confirm" if repeat else "search"
    number = int(digits)
    studies = [study_called(record, space)] if space else record.studies()
    names = {study.study: study.name for study in studies}
    of_stage = [trial for trial in record.trials(stage=stage) if trial.study in names]
    exact = [trial for trial in of_stage if trial.number == number]
    if len(exact) == 1:
        (trial,) = exact
        return next(study for study in studies if study.study == trial.study), trial
    if exact:
        choices = " or ".join(f"{names[trial.study]}:{repeat}{number}" for trial in exact)
        raise RunError(
            f"{len(exact)} spaces have a trial {reference!r}; write {choices}", exit_code=2
        )
    near = min(of_stage, key=lambda trial: abs(trial.number - number), default=None)
    hint = (
        f"the nearest is {names[near.study]}:{label(stage, near.number)}"
        if near
        else "it has no repeats yet"
        if repeat
        else "it has no trials yet"
    )
    raise RunError(f"run {record.name!r} has no trial {reference!r}; {hint}", exit_code=2)


def _nearest(word: str, known: Sequence[str]) -> str:
    from samtune.messages import nearest

    return nearest(word, known, "it has")
